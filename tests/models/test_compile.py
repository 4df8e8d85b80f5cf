"""Test that every family compiles as one graph, for inference and for training with drop path.

CI compiles with the backend ``aot_eager`` at full depth, and two small models with inductor.
``COMPILE_BACKEND=inductor pytest tests/models/test_compile.py --durations 0`` compiles all families
with inductor, which takes an hour.
"""

import copy
import os

import pytest
import torch
import torch._inductor.config
from families import FAMILIES, build_family, input_of, outputs_of
from small import small_deit, small_model
from torch._dynamo.testing import CompileCounterWithBackend

BACKEND = os.environ.get("COMPILE_BACKEND", "aot_eager")
# Compiled for inference only, as training compiles their padded forms, which need more operators.
_PLAIN = ("Swin", "STViT-Swin", "Video Swin")
pytestmark = pytest.mark.filterwarnings("ignore")  # torch's warnings about itself


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    # Inductor's random numbers differ from eager ones by default.
    with torch._inductor.config.patch(fallback_random=True):
        yield


def compiled(model, *, backend=BACKEND, **options):
    counter = CompileCounterWithBackend(backend)
    return torch.compile(model, backend=counter, fullgraph=True, **options), counter


def assert_same(results, expected):
    for result, right in zip(outputs_of(results), outputs_of(expected), strict=True):
        torch.testing.assert_close(result, right, atol=1e-5, rtol=1e-5)


def assert_trains_the_same(model, x, **options):
    plain = copy.deepcopy(model)
    other, counter = compiled(model, **options)
    gradients = []
    for module, run in ((plain, plain), (model, other)):
        torch.manual_seed(1)
        results = run(x)
        sum(result.square().mean() for result in outputs_of(results)).backward()
        gradients.append((results, [parameter.grad for parameter in module.parameters()]))
    assert_same(gradients[1][0], gradients[0][0])
    torch.testing.assert_close(gradients[1][1], gradients[0][1], atol=1e-5, rtol=1e-4)
    assert counter.frame_count == 1


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in _PLAIN])
def test_training_with_drop_path_compiles_once(name):
    model = build_family(name, "MODEL.DROPCONNECT_RATE", "0.3").train()
    assert_trains_the_same(model, input_of(name, batch=1), dynamic=False)


@pytest.mark.parametrize("name", FAMILIES)
def test_inference_compiles_once(name):
    model, x = build_family(name).eval(), input_of(name, batch=1)
    other, counter = compiled(model, dynamic=False)
    with torch.no_grad():
        assert_same(other(x), model(x))
    assert counter.frame_count == 1


@pytest.mark.parametrize("name", ["STViT-DeiT", "STViT-Swin, padded"])
def test_all_batches_need_two_compilations(name):
    """By default torch compiles for the first batch size, then once for all others."""
    model = build_family(name).eval()
    other, counter = compiled(model)
    with torch.no_grad():
        for batch in (2, 3, 5, 4):
            x = input_of(name, batch=batch)
            assert_same(other(x), model(x))
    assert counter.frame_count <= 2


@pytest.mark.parametrize("kind", ["image", "video"])
def test_inductor_compiles_small_models(kind):
    if kind == "image":
        short = ("DEIT.DEPTH", "4", "STVIT.LAYOUT", "base 1, stgm 2, semantic 1")
        model, x = (
            small_deit("STVIT.ENABLE", "True", "DEIT.CLASS_TOKEN", "False", *short),
            torch.randn(1, 3, 64, 64),
        )
    else:
        layout = ("SWIN.DEPTHS", "(2, 4)", "SWIN.NUM_HEADS", "(1, 2)", "STVIT.STAGE", "2")
        layout += ("STVIT.LAYOUT", "base 1, stgm 2, semantic 1")
        model, x = small_model("stvit_swin_t", *layout), torch.randn(1, 3, 4, 112, 112)
    assert_trains_the_same(model.train(), x, backend="inductor", dynamic=False)
    torch._dynamo.reset()
    other, _ = compiled(model.eval(), backend="inductor", dynamic=False)
    with torch.no_grad():
        assert_same(other(x), model(x))
