import subprocess

import pytest

from stvit_video.slurm import requeue
from stvit_video.slurm.requeue import RequeueError
from stvit_video.slurm.task import SlurmTask

TASK = SlurmTask(job_id="5", restarts=1, rank=0)


@pytest.fixture
def scontrol(monkeypatch):
    """Return a function that sets scontrol's responses, and returns the list of its calls."""
    asked = []

    def answer_with(state, restarts, *, failures=0):
        def answer(command, **_):
            asked.append(list(command[1:]))
            if len(asked) <= failures:
                return subprocess.CompletedProcess(command, 1, "", "no contact\n")
            line = f"JobId=5 JobState={state} Reason=None Requeue=1 Restarts={restarts} Nice=0"
            return subprocess.CompletedProcess(command, 0, stdout=line)

        monkeypatch.setattr(subprocess, "run", answer)
        monkeypatch.setattr(requeue, "_RETRY_DELAYS", (0.0,))
        return asked

    return answer_with


SHOW, REQUEUE = ["--all", "show", "job", "5", "--oneliner"], ["requeue", "5"]


def test_a_running_job_is_requeued(scontrol):
    asked = scontrol("RUNNING", 1)
    assert requeue.requeue(TASK)
    assert asked == [SHOW, REQUEUE]


@pytest.mark.parametrize(
    ("state", "restarts"), [("COMPLETING", 2), ("PENDING", 2), ("RUNNING", 2), ("CANCELLED", 1)]
)
def test_a_job_that_slurm_has_requeued_or_ended_is_left_alone(scontrol, state, restarts):
    asked = scontrol(state, restarts)
    assert not requeue.requeue(TASK)
    assert asked == [SHOW]


def test_an_unavailable_controller_is_retried(scontrol):
    asked = scontrol("RUNNING", 1, failures=1)
    assert requeue.requeue(TASK)
    assert asked == [SHOW, SHOW, REQUEUE]


def test_a_controller_that_stays_unavailable_is_an_error(scontrol):
    scontrol("RUNNING", 1, failures=9)
    with pytest.raises(RequeueError, match="no contact"):
        requeue.is_running(TASK)
