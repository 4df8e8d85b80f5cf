import pytest
import torch

from stvit_video.errors import TransientError
from stvit_video.slurm.rank import task_device


@pytest.fixture
def node(monkeypatch):
    """Return a function that simulates a task on a node with some of its GPUs."""

    def be(available, visible):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: available)
        monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
        monkeypatch.setenv("SLURMD_NODENAME", "n7")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return be


@pytest.mark.parametrize(("available", "visible"), [(4, "0,1,2,3"), (1, "2"), (8, "0,1,2,3")])
def test_a_node_with_all_gpus_or_a_single_bound_gpu(node, available, visible):
    node(available, visible)
    assert task_device("cuda", 4) == "cuda"


@pytest.mark.parametrize(("available", "visible"), [(3, "0,1,2,3"), (1, "0,1,2,3"), (0, "2")])
def test_a_node_with_missing_gpus(node, available, visible):
    node(available, visible)
    sentence = rf"node n7 shows {available} of 4 GPUs \(.* is {visible}\).* --exclude n7$"
    with pytest.raises(TransientError, match=sentence):
        task_device("cuda", 4)


def test_the_cpu_is_always_available(node):
    node(0, "")
    assert task_device("cpu", 4) == "cpu"
