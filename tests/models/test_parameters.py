"""Test models with bfloat16 parameters."""

import copy
from functools import partial

import pytest
import torch
from small import small_deit, small_model

BFLOAT16 = ("MODEL.PARAM_DTYPE", "bfloat16", "TRAIN.MIXED_PRECISION", "False")


@pytest.mark.parametrize("name", ["swin_t", "stvit_swin_t", "deit"])
def test_a_bfloat16_model_takes_and_gives_float32_and_is_nearly_the_float32_one(name):
    model = (small_deit if name == "deit" else partial(small_model, name))(*BFLOAT16).train()
    assert {value.dtype for value in model.state_dict().values()} == {torch.bfloat16}
    video = torch.randn(2, 3, 4, 64, 64)
    logits = model(video)
    assert logits.dtype is torch.float32
    logits.square().sum().backward()
    assert {value.grad.dtype for value in model.parameters()} == {torch.bfloat16}
    exact = copy.deepcopy(model).float()
    expected = exact(video).detach()
    torch.testing.assert_close(logits, expected, atol=0.02 * expected.abs().max().item(), rtol=0)
    # Rounding errors show that the model computes in bfloat16.
    assert (logits - expected).abs().max() > 1e-4 * expected.abs().max()
