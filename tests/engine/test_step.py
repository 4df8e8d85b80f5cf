import copy

import pytest
import torch
from torch import nn

from stvit_video.engine.accuracy import error_percent, topk_correct
from stvit_video.engine.optim import parameter_groups
from stvit_video.engine.precision import Normalise, Precision
from stvit_video.engine.step import TrainingStep
from stvit_video.errors import UserError
from stvit_video.models import build_model

CPU = torch.device("cpu")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


def batch_of(size, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "video": torch.randint(
            0, 256, (size, 3, 8, 32, 32), dtype=torch.uint8, generator=generator
        ),
        "label": torch.arange(size) % 3,
        "video_name": [f"{index}.mp4" for index in range(size)],
    }


def cut(batch, sizes):
    parts, start = [], 0
    for size in sizes:
        parts.append({key: value[start : start + size] for key, value in batch.items()})
        start += size
    return parts


def build_step(model, *, dtype=None, method=torch.optim.SGD, **clipping):
    precision = Precision(CPU, dtype)
    return TrainingStep(
        model,
        method(parameter_groups(model, weight_decay=0.0), lr=1.0),
        scaler=precision.scaler(),
        normalise=Normalise(CPU, mean=MEAN, std=STD),
        precision=precision,
        loss_function=nn.CrossEntropyLoss(),
        **clipping,
    )


@pytest.fixture
def model(small_config):
    torch.manual_seed(0)
    return build_model(small_config())


def test_normalisation_is_that_of_the_definition():
    video = torch.randint(0, 256, (2, 3, 2, 4, 4), dtype=torch.uint8)
    normalised = Normalise(CPU, mean=MEAN, std=STD)(video)
    for channel in range(3):
        expected = (video[:, channel].double() / 255 - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(normalised[:, channel].double(), expected, atol=1e-6, rtol=1e-6)


def test_models_see_one_memory_layout_whatever_that_of_the_samples():
    video = torch.randint(256, (2, 4, 8, 8, 3), dtype=torch.uint8).permute(0, 4, 1, 2, 3)
    normalise = Normalise(CPU, mean=MEAN, std=STD)
    assert normalise(video).is_contiguous()
    assert torch.equal(normalise(video), normalise(video.contiguous()))


def test_accumulated_gradients_are_those_of_the_whole_batch(model):
    other = copy.deepcopy(model)
    whole, parts = build_step(model), build_step(other)
    for seed in range(3):
        batch = batch_of(6, seed=seed)
        one = whole([batch], lr=0.1)
        several = parts(cut(batch, [2, 2, 2]), lr=0.1)
        assert several.loss == pytest.approx(one.loss, abs=1e-5)
        assert several[1:] == one[1:]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, atol=1e-5, rtol=1e-4)


def test_a_step_follows_the_learning_rate(model):
    before = model.head.fc.bias.detach().clone()
    step = build_step(model)
    step([batch_of(3)], lr=0.0)
    assert torch.equal(model.head.fc.bias, before)
    step([batch_of(3)], lr=0.5)
    torch.testing.assert_close(model.head.fc.bias, before - 0.5 * model.head.fc.bias.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_trains(model, dtype):
    step = build_step(model, dtype=dtype, method=torch.optim.AdamW)
    assert step.scaler.is_enabled() == (dtype is torch.float16)
    losses = [step([batch_of(3)], lr=3e-3).loss for _ in range(12)]
    assert losses[-1] < 0.7 * losses[0]


def test_gradients_are_clipped_as_they_are_without_loss_scaling(model):
    step = build_step(model, dtype=torch.float16, clip_norm=0.01)
    step([batch_of(3)], lr=0.0)
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert norm == pytest.approx(0.01, rel=1e-3)


def test_a_loss_that_is_not_finite_stops_and_names_the_videos(model):
    with torch.no_grad():
        model.head.fc.bias[0] = float("inf")
    with pytest.raises(UserError, match=r"nan .* 0\.mp4, 1\.mp4"):
        build_step(model)([batch_of(2)], lr=0.1)


def test_topk():
    scores = torch.tensor([[6.0, 5, 4, 3, 2, 1]]).repeat(6, 1)
    assert topk_correct(scores, torch.arange(6)).tolist() == [1, 5]
    assert topk_correct(scores[:, :3], torch.tensor([0, 2, 2, 1, 1, 1])).tolist() == [1, 6]
    assert error_percent(3, 12) == 75
