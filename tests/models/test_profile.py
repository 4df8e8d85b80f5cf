"""Test the counts of parameters and FLOPs."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stvit_video.config import load_config
from stvit_video.models import build_model
from stvit_video.models.profile import count_flops, count_parameters

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


class Attention(nn.Module):
    """Attention, fused or written out, which must have the same count."""

    def __init__(self, keys, values, mask, *, fused):
        super().__init__()
        self.fused = fused
        for name, tensor in (("keys", keys), ("values", values), ("mask", mask)):
            self.register_buffer(name, tensor)

    def forward(self, queries):
        if self.fused:
            return F.scaled_dot_product_attention(queries, self.keys, self.values, self.mask)
        scores = queries @ self.keys.transpose(-2, -1) / queries.shape[-1] ** 0.5
        if self.mask is not None:
            scores = scores + self.mask
        return scores.softmax(-1) @ self.values


@pytest.mark.parametrize("mask", [None, torch.zeros(7, 5), torch.zeros(1, 3, 1, 5)])
def test_attention_counts_as_its_two_products(mask):
    queries, keys, values = (torch.rand(2, 3, n, c) for n, c in ((7, 4), (5, 4), (5, 6)))
    fused, written = (Attention(keys, values, mask, fused=fused) for fused in (True, False))
    torch.testing.assert_close(fused(queries), written(queries))
    assert count_flops(fused, queries) == 2 * 3 * 7 * 5 * (4 + 6)
    assert count_flops(fused, queries) == count_flops(written, queries)


def test_attention_counts_with_broadcast_keys():
    keys, values = torch.rand(1, 3, 5, 4), torch.rand(1, 3, 5, 4)
    flops = count_flops(Attention(keys, values, None, fused=True), torch.rand(8, 3, 7, 4))
    assert flops == 8 * 3 * 7 * 5 * (4 + 4)


def test_a_model_counts_without_warnings_and_keeps_its_mode(small_config, caplog):
    model = build_model(small_config()).train()
    flops = count_flops(model, torch.zeros(1, 3, 8, 32, 32))
    assert flops > count_parameters(model) > 0
    assert model.training
    assert caplog.records == []


# Padding, windows of several sizes, recovery, pooling and stem use operators unknown to fvcore.
@pytest.mark.parametrize(
    ("config", "part", "shape"),
    [
        ("demo/stvit_swin_motion.yaml", "", (4, 56, 56)),
        ("demo/swin_shapes.yaml", "backbone", (96, 128)),
        ("demo/stvit_r_swin_shapes.yaml", "backbone", (96, 128)),
        ("imagenet/stvit_swin_t.yaml", "", (224, 224)),
    ],
)
def test_configs_count_without_warnings(config, part, shape, caplog):
    model = build_model(load_config(CONFIGS / config)).get_submodule(part)
    assert count_flops(model, torch.zeros(1, 3, *shape)) > 0
    assert caplog.records == []


def test_an_unknown_operator_is_warned_about(caplog):
    class Unknown(nn.Module):
        def forward(self, x):
            return torch.linalg.inv(x)

    assert count_flops(Unknown(), torch.eye(3)) == 0
    assert "linalg_inv" in caplog.text
