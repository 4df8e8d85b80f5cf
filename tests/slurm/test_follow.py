import io
import json
import sys

import pytest

from stvit_video.errors import UserError
from stvit_video.slurm.follow import follow
from stvit_video.slurm.scontrol import JobInfo, SlurmUnavailableError
from stvit_video.slurm.status import new_record


def stats(**values):
    line = {"_type": "train_iter", "epoch": "1/2", "loss": 1.25, "lr": 0.1, "eta": "0:00:09"}
    return f"INFO json_stats: {json.dumps({**line, **values})}\n"


@pytest.fixture
def record(tmp_path):
    return new_record(
        job_id="7", name="small", folder=tmp_path, output_dir=str(tmp_path), is_local=False
    )


def scripted(record, *moments):
    """Return a ``get_info`` that appends to the log and changes the state at each call."""
    remaining = iter(moments)

    def get_info(_):
        text, state, reason = next(remaining)
        if text:
            with record.log().open("a") as log:
                log.write(text)
        return JobInfo(state, reason, restarts=0, output="")

    return get_info


def test_the_log_is_shown_as_it_grows_until_the_job_ends(record, capsys):
    get_info = scripted(
        record,
        ("", "PENDING", "Resources"),
        ("first line\nsecond", "RUNNING", "None"),
        (" line\n", "RUNNING", "None"),
        ("", "PENDING", "BeginTime"),
        ("after the requeue\n", "RUNNING", "None"),
        ("last line\n", "COMPLETED", "None"),
    )
    assert follow(record, get_info=get_info, poll_seconds=0.01)
    assert capsys.readouterr().out.splitlines() == [
        "job 7: PENDING (Resources)",
        "job 7: RUNNING",
        "first line",
        "second line",
        "job 7: PENDING (BeginTime)",
        "job 7: RUNNING",
        "after the requeue",
        "last line",
        "job 7: COMPLETED",
    ]


def test_an_unavailable_controller_is_polled_again(record, capsys):
    """Meanwhile, the log is still shown."""
    answers = scripted(record, ("", "RUNNING", "None"), ("last\n", "COMPLETED", "None"))
    silences = iter(["", "SLURM does not answer (1)", "SLURM does not answer (2)", ""])

    def get_info(record):
        silence = next(silences)
        if silence:
            with record.log().open("a") as log:
                log.write(f"at {silence[-2]}\n")
            raise SlurmUnavailableError(silence)
        return answers(record)

    assert follow(record, get_info=get_info, poll_seconds=0.01)
    assert capsys.readouterr().out.splitlines() == [
        "job 7: RUNNING",
        "SLURM does not answer (1); retrying",
        *("at 1", "at 2", "SLURM responds again", "last", "job 7: COMPLETED"),
    ]


def test_missing_slurm_commands_end_following(record, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no scontrol in PATH"):
        follow(record)


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED", "TIMEOUT", "ENDED"])
def test_only_completion_is_success(record, state):
    assert not follow(record, get_info=scripted(record, ("", state, "None")), poll_seconds=0.01)


def test_statistics_are_printed_without_a_terminal(record, capsys):
    line = stats(iter="3/10")
    assert follow(record, get_info=scripted(record, (line, "COMPLETED", "None")))
    assert line.strip() in capsys.readouterr().out


def test_a_terminal_shows_a_bar_instead_of_statistics(record, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    log = stats(iter="3/10") + "a line\n" + stats(iter="6/10") + stats(epoch="2/2", iter="1/10")
    assert follow(record, get_info=scripted(record, (log, "COMPLETED", "None")))
    shown = terminal.getvalue()
    assert "json_stats" not in shown
    assert "a line\n" in shown
    for part in ("epoch 1/2", "60%", "6/10", "loss=1.250", "eta=0:00:09", "epoch 2/2"):
        assert part in shown, part
