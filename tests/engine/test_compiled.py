"""Test MODEL.COMPILE."""

import copy

import pytest
import torch
from recording import train_recording_and_test
from torch import nn

from stvit_video.engine.build import compile_model
from stvit_video.models import build_model

COMPILE = ("MODEL.COMPILE", "True", "MODEL.COMPILE_BACKEND", "aot_eager")
# One block only, because tracing takes seconds per block.
ONE_BLOCK = (
    *("STVIT.ENABLE", "False", "SWIN.DEPTHS", "(1,)", "SWIN.NUM_HEADS", "(1,)"),
    *("SWIN.WINDOW_SIZE", "(4, 4, 4)", "MODEL.DROPCONNECT_RATE", "0.5"),
)


@pytest.fixture
def compile_calls(monkeypatch):
    """Record the calls of `nn.Module.compile` instead of compiling."""
    calls = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: calls.append((self, options)))
    return calls


def test_all_models_of_a_run_are_compiled(video_config, compile_calls):
    cfg = video_config("SOLVER.MAX_EPOCH", "1", "EMA.ENABLE", "True", *COMPILE)
    train_recording_and_test(cfg)
    # The trained model, its average, and the tested model.
    assert [options for _, options in compile_calls] == [{"backend": "aot_eager"}] * 3
    assert len({id(model) for model, _ in compile_calls}) == 3


def test_nothing_is_compiled_by_default(small_config, compile_calls):
    compile_model(small_config(), nn.Linear(1, 1))
    assert compile_calls == []


@pytest.mark.filterwarnings("ignore")  # torch's warnings about its own code
def test_a_compiled_model_has_the_same_outputs_and_parameter_names(small_config):
    cfg = small_config(*ONE_BLOCK, *COMPILE)
    plain = build_model(cfg).train()
    compiled = copy.deepcopy(plain)
    compile_model(cfg, compiled)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    video = torch.randn(2, 3, 8, 32, 32)
    results = []
    torch._dynamo.utils.counters.clear()
    for model in (plain, compiled):
        torch.manual_seed(0)
        logits = model(video)
        logits.square().sum().backward()
        results.append((logits, [value.grad for value in model.parameters()]))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)
    # A copy, such as the weight average, is not compiled and must be compiled itself.
    assert copy.deepcopy(compiled)._compiled_call_impl is None
