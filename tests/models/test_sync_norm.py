"""Test batch norm over all ranks on the CPU."""

import torch
from torch import nn

from stvit_video.models.detection.cascade import NaiveSyncBatchNorm
from stvit_video.runtime import distributed


def inputs():
    return torch.randn(7, 4, 3, 2, generator=torch.Generator().manual_seed(0)) * 3 + 5


def run(norm, x):
    """Train for one step, and return the output, the gradients and the running statistics."""
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.0, 1.5, 2.0]))
    x = x.clone().requires_grad_()
    out = norm(x)
    out.pow(3).sum().backward()
    return {
        "out": out.detach(),
        "x": x.grad,
        "weight": norm.weight.grad,
        "bias": norm.bias.grad,
        **dict(norm.named_buffers()),
    }


def run_and_save(folder):
    first, last = [(0, 5), (5, 7)][distributed.get_rank()]  # 5 and 2 boxes
    found = run(NaiveSyncBatchNorm(4), inputs()[first:last])
    torch.save(found, folder / f"{distributed.get_rank()}.pth")


def test_two_ranks_normalize_as_one(tmp_path):
    distributed.run_ranks(run_and_save, tmp_path, num_local_ranks=2, device="cpu")
    expected = run(nn.BatchNorm2d(4), inputs())
    found = [torch.load(tmp_path / f"{rank}.pth") for rank in (0, 1)]
    for name in ("out", "x"):
        joined = torch.cat([each[name] for each in found])
        torch.testing.assert_close(joined, expected[name], atol=1e-4, rtol=1e-4)
    for name in ("weight", "bias"):
        joined = sum(each[name] for each in found)
        torch.testing.assert_close(joined, expected[name], atol=1e-3, rtol=1e-4)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        for each in found:
            torch.testing.assert_close(each[name], expected[name])


def test_one_rank_and_evaluation_are_plain_batch_norm():
    plain, ours = nn.BatchNorm2d(4), NaiveSyncBatchNorm(4)
    expected, found = run(plain, inputs()), run(ours, inputs())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    torch.testing.assert_close(ours.eval()(inputs()), plain.eval()(inputs()))
