"""The end of a batch script: its report of a failure, and whether it requeues the job."""

import json
import os
import signal
import subprocess
import sys

import pytest

from stvit_video.errors import TransientError, UserError
from stvit_video.slurm import requeue, task
from stvit_video.slurm.requeue import RequeueError
from stvit_video.slurm.task import (
    FAILED,
    HUNG,
    LOST,
    MISTAKE,
    STOPPED,
    RankRecord,
    keep_record,
    read_rank_records,
)

JOB_ENV = {
    "SUBMITIT_EXECUTOR": "slurm",
    "SLURM_JOB_ID": "5",
    "SLURM_RESTART_COUNT": "1",
    "SLURM_NTASKS": "2",
}


def rank(index, ending="", reason=""):
    return RankRecord(index, f"n{index}", 100, 1, f"{index}.log", ending, reason)


LOST_TO_A_HANG = "RuntimeError: Timed out waiting 20000ms for recv operation to complete"
LOST_TO_A_DEATH = "RuntimeError: Connection closed by peer"


@pytest.mark.parametrize(
    ("records", "sentence", "may_help"),
    [
        (
            [rank(0, LOST, LOST_TO_A_DEATH), rank(1)],
            "Rank 1 on node n1 died without an error, so it was probably killed (often for "
            "memory); its log is 1.log.",
            True,
        ),
        (
            [rank(0, LOST, LOST_TO_A_HANG), rank(1)],
            "Rank 1 on node n1 hung (the others timed out waiting for it); its log is 1.log.",
            True,
        ),
        (
            [rank(0, LOST, LOST_TO_A_HANG), rank(1, HUNG, "no heartbeat for 21 s")],
            "Rank 1 on node n1 hung (no heartbeat for 21 s); its log is 1.log.",
            True,
        ),
        (
            [rank(2), rank(0, LOST), rank(1, FAILED, "KeyError: 'a'")],
            "Rank 1 on node n1 failed (KeyError: 'a'); its log is 1.log.",
            True,
        ),
        (
            [rank(0, FAILED, "KeyError: 'a'"), rank(1, MISTAKE, "a.csv:3: no label.")],
            "Rank 1 on node n1 stopped; its log is 1.log. a.csv:3: no label.",
            False,
        ),
        (
            [rank(0, LOST, LOST_TO_A_DEATH), rank(1, LOST)],
            f"Rank 0 on node n0 lost contact with the others ({LOST_TO_A_DEATH}); its log is "
            "0.log.",
            True,
        ),
    ],
)
def test_the_cause_of_a_failure_is_found(records, sentence, may_help):
    ranks = max(record.rank for record in records) + 1
    assert requeue.find_cause(records, status=1, num_ranks=ranks) == (sentence, may_help)


def test_ranks_that_never_started_are_named():
    found = requeue.find_cause([rank(0)], status=137, num_ranks=3)
    assert found == ("Of 3 ranks, some ended before they had started: 1, 2.", True)
    found = requeue.find_cause([rank(0, FAILED, "KeyError: 'a'")], status=1, num_ranks=2)
    assert found[0].startswith("Rank 0 on node n0 failed")
    found = requeue.find_cause([rank(0, "finished")], status=139, num_ranks=1)
    assert found == ("All ranks finished, and then exited with status 139.", True)


def end(tmp_path, monkeypatch, *arguments, records=(), status=1, running=True, requeue_job=None):
    """Run the end of a batch script; return its report and the ids of requeued jobs."""
    requeued = []
    for name, value in JOB_ENV.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(requeue, "is_running", lambda task: running)
    monkeypatch.setattr(
        requeue, "requeue", requeue_job or (lambda task: requeued.append(task.job_id))
    )
    (tmp_path / "ranks").mkdir()
    for record in records:
        file = tmp_path / "ranks" / f"rank_{record.rank:05d}.json"
        file.write_text(json.dumps(vars(record)))
    requeue.main(["--job-dir", str(tmp_path), "--max-requeues", "2", *arguments, str(status)])
    file = tmp_path / "endings.log"
    return file.read_text() if file.exists() else "", requeued


DEAD = (rank(0, LOST, LOST_TO_A_DEATH), rank(1))


def test_a_failure_is_not_requeued_by_default(tmp_path, monkeypatch):
    text, requeued = end(tmp_path, monkeypatch, records=DEAD)
    assert "job 5: Rank 1 on node n1 died" in text
    assert text.endswith(
        "The job is not requeued, because --requeue-on-failure is not set; submit it again to "
        "resume from the last checkpoint.\n"
    )
    assert requeued == []


def test_a_failure_is_requeued(tmp_path, monkeypatch):
    text, requeued = end(tmp_path, monkeypatch, "--requeue-on-failure", records=DEAD)
    assert text.endswith("The job is requeued and resumes from the last checkpoint.\n")
    assert requeued == ["5"]


def test_a_refused_requeue_is_reported(tmp_path, monkeypatch):
    def refuse(task):
        raise RequeueError("no contact")

    text, _ = end(tmp_path, monkeypatch, "--requeue-on-failure", records=DEAD, requeue_job=refuse)
    first, second = text.splitlines()
    # Reported before the requeue, which ends the batch script.
    assert first.endswith("The job is requeued and resumes from the last checkpoint.")
    assert "The requeue failed: no contact; submit it again" in second


def test_a_failure_is_not_requeued_forever(tmp_path, monkeypatch):
    bound = ("--requeue-on-failure", "--max-requeues", "1")
    text, requeued = end(tmp_path, monkeypatch, *bound, records=DEAD)
    assert "not requeued, because it has been requeued 1 times already (--max-requeues)" in text
    assert requeued == []


def test_a_user_error_is_not_requeued(tmp_path, monkeypatch):
    records = [rank(0, MISTAKE, "a.csv:3: no label.")]
    text, requeued = end(tmp_path, monkeypatch, "--requeue-on-failure", records=records)
    assert text.endswith("The job is not requeued, because it would fail the same way again.\n")
    assert requeued == []


def test_a_signal_before_all_handlers_are_installed_requeues(tmp_path, monkeypatch):
    text, requeued = end(tmp_path, monkeypatch, status=128 + signal.SIGTERM)
    assert "SIGTERM arrived before the ranks had started." in text
    assert requeued == ["5"]


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_before_one_handler_is_installed_requeues(tmp_path, monkeypatch, number):
    text, requeued = end(tmp_path, monkeypatch, records=[rank(0)], status=128 + number)
    assert "Of 2 ranks, some ended before they had started: 1. The job is requeued" in text
    assert requeued == ["5"]


@pytest.mark.parametrize("records", [DEAD, [rank(0, FAILED, "KeyError: 'a'")]])
def test_sruns_own_signal_after_a_failure_does_not_requeue(tmp_path, monkeypatch, records):
    _, requeued = end(tmp_path, monkeypatch, records=records, status=128 + signal.SIGTERM)
    assert requeued == []


@pytest.mark.parametrize(
    ("records", "status", "running"),
    [
        ([rank(0, STOPPED), rank(1, STOPPED)], 75, True),  # rank 0 has requeued the job
        (DEAD, 1, False),  # SLURM requeues or cancels it
        ((), 0, True),
    ],
)
def test_nothing_is_reported_or_requeued_twice(tmp_path, monkeypatch, records, status, running):
    asked = {"records": records, "status": status, "running": running}
    assert end(tmp_path, monkeypatch, "--requeue-on-failure", **asked) == ("", [])


def record_of(tmp_path, error=None, *, lost=False):
    record = rank(3)
    caught = None
    try:
        with keep_record(record, tmp_path, period_s=0.05, is_lost=lambda error: lost):
            assert read_rank_records(tmp_path, restarts=1) == [record]
            if error:
                raise error
    except (Exception, SystemExit) as raised:
        caught = raised
    assert caught is error
    assert read_rank_records(tmp_path, restarts=0) == []
    (found,) = read_rank_records(tmp_path, restarts=1)
    return found.ending, found.reason


def test_a_record_tells_how_a_rank_ended(tmp_path):
    assert record_of(tmp_path) == ("finished", "")
    assert record_of(tmp_path, SystemExit(75)) == (STOPPED, "")
    assert record_of(tmp_path, UserError("no label")) == (MISTAKE, "no label")
    assert record_of(tmp_path, TransientError("disk full.")) == (FAILED, "disk full")
    assert record_of(tmp_path, ValueError("a\nb")) == (FAILED, "ValueError: a")
    assert record_of(tmp_path, RuntimeError("gone"), lost=True) == (LOST, "RuntimeError: gone")


def test_a_suspended_rank_is_recorded_as_hung(tmp_path, monkeypatch):
    monkeypatch.setattr(task, "_MAX_HEARTBEAT_GAP", 0)
    ending, reason = record_of(tmp_path, RuntimeError("gone"), lost=True)
    assert ending == HUNG
    assert reason.startswith("no heartbeat for ")
    # SLURM may suspend a whole job, and a machine may sleep, without a failure.
    assert record_of(tmp_path) == ("finished", "")


def test_the_rank_with_the_oldest_heartbeat_comes_first(tmp_path):
    for index in (0, 1, 2):
        with keep_record(rank(index), tmp_path, period_s=9, is_lost=bool):
            pass
    os.utime(tmp_path / "ranks" / "rank_00001.json", (1, 1))
    assert [record.rank for record in read_rank_records(tmp_path, restarts=1)] == [1, 0, 2]


def test_the_end_of_the_batch_script_does_not_import_torch():
    code = "import sys, stvit_video.slurm.requeue, stvit_video.slurm.job; "
    subprocess.run([sys.executable, "-c", code + "assert 'torch' not in sys.modules"], check=True)
