"""Test that activation checkpointing gives the same gradients with less memory."""

import weakref

import pytest
import torch
from small import small_deit, small_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

STOCHASTIC = ("MODEL.DROPCONNECT_RATE", "0.5", "MODEL.DROPOUT_RATE", "0.5")


class PeakMemory(TorchDispatchMode):
    """Track the peak of the bytes of all live tensors."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known = weakref.WeakSet()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and value.untyped_storage() not in self.known:
                storage = value.untyped_storage()
                self.known.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self.forget, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def forget(self, size):
        self.now -= size


def build(name, *overrides):
    return small_deit(*overrides) if name == "deit" else small_model(name, *overrides)


def step(name, *overrides, size=(2, 3, 4, 64, 64)):
    """Return logits, gradients and peak memory of a training step."""
    torch.manual_seed(0)
    model = build(name, *overrides).train()
    video = torch.randn(size)
    with PeakMemory() as memory:
        logits = model(video)
        logits.square().sum().backward()
    return logits, {name: value.grad for name, value in model.named_parameters()}, memory.peak


@pytest.mark.parametrize("name", ["swin_t", "stvit_swin_t", "deit"])
def test_gradients_are_those_of_a_plain_model(name):
    plain_logits, plain, _ = step(name, *STOCHASTIC)
    logits, checkpointed, _ = step(name, *STOCHASTIC, "MODEL.ACT_CHECKPOINT", "True")
    assert torch.equal(logits, plain_logits)
    assert list(checkpointed) == list(plain)
    for parameter, gradient in plain.items():
        torch.testing.assert_close(checkpointed[parameter], gradient, atol=1e-6, rtol=0)
    # Other random numbers give other gradients.
    _, other, _ = step(name)
    assert (other["head.fc.weight"] - plain["head.fc.weight"]).abs().max() > 1e-3


def test_memory_is_saved():
    size = (1, 3, 8, 112, 112)
    _, _, plain = step("swin_t", size=size)
    _, _, checkpointed = step("swin_t", "MODEL.ACT_CHECKPOINT", "True", size=size)
    assert checkpointed < 0.65 * plain, f"{checkpointed / 2**20:.1f} of {plain / 2**20:.1f} MiB"


def test_nothing_is_computed_again_without_gradients(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("checkpointed")

    monkeypatch.setattr("stvit_video.models.layers.block.checkpoint", refuse)
    model = small_model("stvit_swin_t", "MODEL.ACT_CHECKPOINT", "True").eval()
    video = torch.randn(1, 3, 4, 64, 64)
    with torch.no_grad():
        model(video)
    with pytest.raises(AssertionError, match="checkpointed"):
        model(video)
