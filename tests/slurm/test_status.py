import json
import os
import pickle
import subprocess
import sys
import time

import pytest

from stvit_video.slurm.status import (
    JobRecord,
    Progress,
    job_info,
    new_record,
    read_job_records,
    read_progress,
    status_table,
)


@pytest.fixture
def launched(tmp_path):
    """Return a function that creates the folder and the record of a job."""

    def launch(job_id, *, name="small", is_local=False) -> JobRecord:
        folder = tmp_path / "jobs" / f"{name} {job_id}"
        folder.mkdir(parents=True)
        output = tmp_path / f"out {job_id}"
        record = new_record(
            job_id=job_id, name=name, folder=folder, output_dir=str(output), is_local=is_local
        )
        record.write()
        return record

    return launch


def write_stats(record, *lines):
    record.output_dir.mkdir()
    text = "".join(f"json_stats: {json.dumps(line)}\n" for line in lines)
    (record.output_dir / "json_stats.log").write_text(text)


def leave_result(record, kind):
    path = record.folder / f"{record.job_id}_0_result.pkl"
    path.write_bytes(pickle.dumps((kind, None)))


ITERATION = {"_type": "train_iter", "epoch": "3/30", "iter": "20/75", "loss": 1.25, "lr": 0.1}
EPOCH = {"_type": "train_epoch", "epoch": "3/30", "loss": 1.5, "lr": 0.1}
VALIDATION = {"_type": "val_epoch", "epoch": "3/30", "loss": 9.0}


def test_records_are_read_in_order_of_submission(launched, tmp_path):
    records = [launched("7"), launched("5", name="b")]
    assert read_job_records(tmp_path / "jobs") == records
    assert read_job_records(tmp_path / "nothing") == []


def test_the_table(launched, fake_slurm):
    running, waiting = launched("7"), launched("8", name="longer name")
    fake_slurm.set_job("7", "RUNNING", output=str(running.log()), restarts=2)
    fake_slurm.set_job("8", "PENDING", output=str(waiting.log()))
    write_stats(running, EPOCH, ITERATION, VALIDATION)
    head, first, second = status_table([running, waiting]).splitlines()
    assert head.split() == ["job", "name", "state", "epoch", "step", "loss", "requeues", "logs"]
    assert first.split("  ")[0] == "7"
    for cell in ("RUNNING (Resources)", " 3/30 ", " 20/75 ", " 1.25 ", " 2 ", str(running.folder)):
        assert cell in first
    assert "longer name" in second
    assert first.index(str(running.folder)) == second.index(str(waiting.folder))


def test_progress_is_shown_for_the_last_job_of_a_folder(launched, fake_slurm):
    first, second = launched("7"), launched("8")
    write_stats(first, ITERATION)
    same_folder = JobRecord(**{**second.__dict__, "output_dir": first.output_dir})
    _, of_first, of_second = status_table([first, same_folder]).splitlines()
    assert "20/75" not in of_first
    assert "20/75" in of_second


@pytest.mark.parametrize(
    ("left", "state"), [("success", "COMPLETED"), ("error", "FAILED"), (None, "ENDED")]
)
def test_a_job_that_slurm_has_forgotten(launched, fake_slurm, left, state):
    record = launched("9")
    if left:
        leave_result(record, left)
    facts = job_info(record)
    assert (facts.state, facts.restarts, facts.is_over) == (state, None, True)


def test_a_reused_job_id_is_another_job(launched, fake_slurm):
    record = launched("7")
    fake_slurm.set_job("7", "RUNNING", output="/elsewhere/7_0_log.out")
    leave_result(record, "success")
    assert job_info(record).state == "COMPLETED"


def test_a_job_is_found_through_any_path_to_its_folder(launched, fake_slurm, tmp_path):
    record = launched("7")
    fake_slurm.set_job("7", "RUNNING", output=str(record.log()))
    (tmp_path / "link").symlink_to(tmp_path / "jobs")
    for way in ("link", "jobs/../jobs", "moved"):
        if way == "moved":
            (tmp_path / "jobs").rename(tmp_path / "moved")
        (found,) = read_job_records(tmp_path / way)
        assert job_info(found).state == "RUNNING", way
    record_folder = tmp_path / "moved" / record.folder.name
    record_folder.rename(record_folder.with_name("renamed"))
    (found,) = read_job_records(tmp_path / "moved")
    assert job_info(found).state == "RUNNING"


def test_progress_of_one_folder_under_two_names_is_of_the_last_job(launched, fake_slurm, tmp_path):
    first, second = launched("7"), launched("8")
    write_stats(first, ITERATION)
    (tmp_path / "link").symlink_to(first.output_dir)
    linked = JobRecord(**{**second.__dict__, "output_dir": tmp_path / "link"})
    _, of_first, of_second = status_table([first, linked]).splitlines()
    assert "20/75" not in of_first
    assert "20/75" in of_second


def test_a_local_job_runs_while_its_process_does(launched):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        record = launched(str(process.pid), is_local=True)
        assert job_info(record).state == "RUNNING"
        process.stdin.close()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        # It is a zombie until its parent waits for it.
        assert job_info(record).state == "ENDED"
    leave_result(record, "success")
    assert job_info(record).state == "COMPLETED"


def test_a_reused_process_id_is_another_process(launched):
    record = launched(str(os.getpid()), is_local=True)
    long_ago = JobRecord(**{**record.__dict__, "submitted": record.submitted - 1e6})
    assert job_info(long_ago).state == "ENDED"


def test_progress_is_the_last_training_line(launched):
    record = launched("7")
    write_stats(record, ITERATION, EPOCH, VALIDATION)
    assert read_progress(record.output_dir, since=0.0) == Progress("3/30", "", 1.5)


def test_a_long_log_is_read_from_its_end(launched):
    record = launched("7")
    write_stats(record, *[EPOCH] * 5000, ITERATION)
    assert read_progress(record.output_dir, since=0.0).iteration == "20/75"


def test_the_log_of_an_earlier_run_is_ignored(launched):
    record = launched("7")
    write_stats(record, ITERATION)
    assert read_progress(record.output_dir, since=time.time() + 60) == Progress()
    assert read_progress(record.output_dir / "none", since=0.0) == Progress()
