"""torch.compile by config."""

import copy

import pytest
import torch
from recording import train_recording_and_test
from torch import nn

from stvit_video.engine.build import compile_model
from stvit_video.models import build_model

COMPILE = ("MODEL.COMPILE", "True", "MODEL.COMPILE_BACKEND", "aot_eager")
# Tracing a block takes seconds.
ONE_BLOCK = (
    *("STVIT.ENABLE", "False", "SWIN.DEPTHS", "(1,)", "SWIN.NUM_HEADS", "(1,)"),
    *("SWIN.WINDOW_SIZE", "(4, 4, 4)", "MODEL.DROPCONNECT_RATE", "0.5"),
)


@pytest.fixture
def seen(monkeypatch):
    """What `nn.Module.compile` was called with; nothing is compiled."""
    calls = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: calls.append((self, options)))
    return calls


def test_all_models_of_a_run_are_compiled(video_config, seen):
    cfg = video_config("SOLVER.MAX_EPOCH", "1", "EMA.ENABLE", "True", *COMPILE)
    train_recording_and_test(cfg)
    # What is trained, its average, and what is tested.
    assert [options for _, options in seen] == [{"backend": "aot_eager"}] * 3
    assert len({id(model) for model, _ in seen}) == 3


def test_nothing_is_compiled_unless_asked_for(small_config, seen):
    compile_model(small_config(), nn.Linear(1, 1))
    assert seen == []


@pytest.mark.filterwarnings("ignore")  # of torch, about itself
def test_a_compiled_model_computes_the_same_and_keeps_its_names(small_config):
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
    # The average of the weights is a copy, which must be compiled on its own.
    assert copy.deepcopy(compiled)._compiled_call_impl is None
