"""Test that models export, never synchronize with a GPU, and keep no state between calls.

Fake CUDA tensors show what a forward pass does on a GPU without having one.
"""

import copy

import pytest
import torch
from families import FAMILIES, build_family, input_of, outputs_of
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations that synchronize, and operations that copy Python numbers to the device.
_WAITING = {
    "aten::_local_scalar_dense",
    "aten::equal",
    "aten::is_nonzero",
    "aten::item",
    "aten::masked_select",
    "aten::nonzero",
    "aten::_unique2",
}
_FROM_PYTHON = {"aten::lift", "aten::lift_fresh"}


class StaysOnDevice(TorchDispatchMode):
    """Reject operations that synchronize or copy between devices."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        assert name not in _WAITING | _FROM_PYTHON, name
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)]
        assert {x.device.type for x in tensors} <= {"cuda"}, name
        return result


def fake_model(name, *overrides):
    with torch.device("cuda"):
        return build_family(name, *overrides).train(), input_of(name)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_forward_pass_never_waits_for_the_device(name, half):
    with FakeTensorMode():
        model, x = fake_model(name, "MODEL.DROPCONNECT_RATE", "0.3")
        # The autocast context manager disables itself without a GPU.
        torch.set_autocast_enabled("cuda", half)
        torch.set_autocast_dtype("cuda", torch.float16)
        try:
            with StaysOnDevice():
                results = outputs_of(model(x))
        finally:
            torch.set_autocast_enabled("cuda", False)
    assert all(result.device.type == "cuda" for result in results)
    if not name.startswith(
        "detector"
    ):  # their outputs come from norms, which autocast runs in float32
        assert results[0].dtype == (torch.float16 if half else torch.float32)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x * torch.tensor([1.0], device="cuda"),
        lambda x: x.cpu(),
        lambda x: x.nonzero(),
        lambda x: x[0, 0].item(),
        lambda x: x if (x > 0).any() else -x,
    ],
)
def test_the_check_sees_what_waits(wrong):
    with FakeTensorMode(), StaysOnDevice(), pytest.raises(Exception, match=r"\S"):
        wrong(torch.empty(2, 2, device="cuda"))


@pytest.mark.parametrize("name", FAMILIES)
def test_an_exported_model_takes_any_batch(name):
    model = build_family(name).eval()
    batch = torch.export.Dim("batch")
    exported = torch.export.export(model, (input_of(name),), dynamic_shapes=({0: batch},)).module()
    for size in (1, 3):
        x = input_of(name, batch=size)
        with torch.no_grad():
            results, expected = outputs_of(exported(x)), outputs_of(model(x))
        for result, right in zip(results, expected, strict=True):
            torch.testing.assert_close(result, right, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["STViT-DeiT", "STViT-Swin", "Video Swin, padded"])
def test_weights_may_change_in_any_way(name):
    """Averaged weights are copied into ``.data`` of a model that stays in ``eval()``."""
    torch.manual_seed(0)
    model, other, x = build_family(name).eval(), build_family(name).eval(), input_of(name, batch=1)
    with torch.no_grad():
        model(x)
        for parameter, value in zip(model.parameters(), other.parameters(), strict=True):
            parameter.data.copy_(value)
        for buffer, value in zip(model.buffers(), other.buffers(), strict=True):
            buffer.data.copy_(value)
        assert torch.equal(model(x), other(x))


@pytest.mark.parametrize("name", ["STViT-DeiT", "STViT-Swin, padded", "STViT-R-Swin"])
def test_hooks_keep_what_they_see(name):
    """No output of a module is overwritten in place later."""
    model, seen = build_family(name).eval(), []

    def keep(module, arguments, result):
        if isinstance(result, torch.Tensor):
            seen.append((result, copy.deepcopy(result)))

    for module in model.modules():
        if not isinstance(module, nn.Identity):
            module.register_forward_hook(keep)
    with torch.no_grad():
        model(input_of(name, batch=1))
    assert len(seen) > 50
    assert all(torch.equal(result, then) for result, then in seen)
