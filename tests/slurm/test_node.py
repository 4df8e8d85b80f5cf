import pytest
import torch

from stvit_video.errors import TransientError
from stvit_video.slurm.rank import device_of_task


@pytest.fixture
def node(monkeypatch):
    """Return a function that makes this a task on a node with some of its GPUs."""

    def be(available, visible):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: available)
        monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
        monkeypatch.setenv("SLURMD_NODENAME", "n7")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return be


@pytest.mark.parametrize(("available", "visible"), [(4, "0,1,2,3"), (1, "2"), (8, "0,1,2,3")])
def test_a_node_with_all_gpus_or_the_one_of_this_task(node, available, visible):
    node(available, visible)
    assert device_of_task("cuda", 4) == "cuda"


@pytest.mark.parametrize(("available", "visible"), [(3, "0,1,2,3"), (1, "0,1,2,3"), (0, "2")])
def test_a_node_whose_gpus_are_not_all_there(node, available, visible):
    node(available, visible)
    sentence = rf"node n7 shows {available} of 4 GPUs \(.* is {visible}\).* --exclude n7$"
    with pytest.raises(TransientError, match=sentence):
        device_of_task("cuda", 4)


def test_the_cpu_is_always_there(node):
    node(0, "")
    assert device_of_task("cpu", 4) == "cpu"
