"""Test the training step: normalization, accumulation, precision, bad losses, mixing, accuracy."""

import copy

import pytest
import torch
from torch import nn

from stvit_video.data.augment.mixing import Mixing
from stvit_video.engine.metrics import error_percent, topk_correct
from stvit_video.engine.optim import parameter_groups
from stvit_video.engine.precision import Normalize, Precision, build_precision
from stvit_video.engine.state import BadLossError, LossGuard
from stvit_video.engine.step import Classification, TrainingStep
from stvit_video.errors import UserError
from stvit_video.models import build_model

NO_MIXING = {
    "label_smoothing": 0.3,
    "probability": 0.0,
    "mixup_alpha": 0.0,
    "cutmix_alpha": 0.0,
    "switch_probability": 0.0,
}
CPU = torch.device("cpu")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


def make_batch(size, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "video": torch.randint(
            0, 256, (size, 3, 8, 32, 32), dtype=torch.uint8, generator=generator
        ),
        "label": torch.arange(size) % 3,
        "video_name": [f"{index}.mp4" for index in range(size)],
    }


def split(batch, sizes):
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
        objective=Classification(
            normalize=Normalize(CPU, mean=MEAN, std=STD), loss_function=nn.CrossEntropyLoss()
        ),
        scaler=precision.scaler(),
        precision=precision,
        guard=LossGuard(),
        **clipping,
    )


@pytest.fixture
def model(small_config):
    torch.manual_seed(0)
    return build_model(small_config())


def test_normalization_matches_its_definition():
    video = torch.randint(0, 256, (2, 3, 2, 4, 4), dtype=torch.uint8)
    normalized = Normalize(CPU, mean=MEAN, std=STD)(video)
    for channel in range(3):
        expected = (video[:, channel].double() / 255 - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(normalized[:, channel].double(), expected, atol=1e-6, rtol=1e-6)


def test_normalized_input_is_contiguous_for_every_memory_layout():
    video = torch.randint(256, (2, 4, 8, 8, 3), dtype=torch.uint8).permute(0, 4, 1, 2, 3)
    normalize = Normalize(CPU, mean=MEAN, std=STD)
    assert normalize(video).is_contiguous()
    assert torch.equal(normalize(video), normalize(video.contiguous()))


def test_gradient_accumulation_matches_the_whole_batch(model):
    other = copy.deepcopy(model)
    whole, parts = build_step(model), build_step(other)
    for seed in range(3):
        batch = make_batch(6, seed=seed)
        one = whole([batch], lr=0.1)
        several = parts(split(batch, [2, 2, 2]), lr=0.1)
        assert several.loss == pytest.approx(one.loss, abs=1e-5)
        assert several[1:] == one[1:]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, atol=1e-5, rtol=1e-4)


def test_a_step_uses_the_learning_rate(model):
    before = model.head.fc.bias.detach().clone()
    step = build_step(model)
    step([make_batch(3)], lr=0.0)
    assert torch.equal(model.head.fc.bias, before)
    step([make_batch(3)], lr=0.5)
    torch.testing.assert_close(model.head.fc.bias, before - 0.5 * model.head.fc.bias.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_trains(model, dtype):
    step = build_step(model, dtype=dtype, method=torch.optim.AdamW)
    assert step.scaler.is_enabled() == (dtype is torch.float16)
    losses = [step([make_batch(3)], lr=3e-3).loss for _ in range(12)]
    assert losses[-1] < 0.7 * losses[0]


def test_gradients_are_unscaled_before_clipping(model):
    step = build_step(model, dtype=torch.float16, clip_norm=0.01)
    step([make_batch(3)], lr=0.0)
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert norm == pytest.approx(0.01, rel=1e-3)


def test_a_nan_loss_leaves_the_weights_unchanged(model):
    with torch.no_grad():
        model.head.fc.bias[0] = float("inf")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(BadLossError, match="became nan"):
        build_step(model)([make_batch(2)], lr=0.1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_infinite_gradient_leaves_the_weights_unchanged():
    model = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, 3))
    step = build_step(model, clip_norm=1.0)
    step([make_batch(2)], lr=0.1)
    model[2].weight.register_hook(lambda gradient: gradient * torch.inf)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(BadLossError, match="because the gradient's norm became inf") as stopped:
        step([make_batch(2)], lr=0.1)
    assert 0 < stopped.value.loss < 10
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_bad_loss_leaves_running_statistics_unchanged():
    norm = nn.BatchNorm3d(3)
    model = nn.Sequential(norm, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, 3))
    step = build_step(model)
    step([make_batch(2)], lr=0.1)
    before = copy.deepcopy(norm.state_dict())
    step.objective.normalize = lambda video: torch.full(video.shape, torch.nan)
    with pytest.raises(BadLossError, match="became nan"):
        step([make_batch(2), make_batch(2)], lr=0.1)
    assert before["num_batches_tracked"] == 1
    for name, value in norm.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_a_gpu_that_emulates_bfloat16_is_rejected(small_config, monkeypatch, has_bfloat16):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has_bfloat16)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an old GPU")
    mixed = ("TRAIN.MIXED_PRECISION", "True", "TRAIN.MIXED_PRECISION_DTYPE")
    device = torch.device("cuda:0")
    assert build_precision(small_config(*mixed, "float16"), device).dtype is torch.float16
    bfloat16 = small_config(*mixed, "bfloat16")
    assert build_precision(bfloat16, CPU).dtype is torch.bfloat16
    if has_bfloat16:
        assert build_precision(bfloat16, device).dtype is torch.bfloat16
    else:
        with pytest.raises(UserError, match="an old GPU has no bfloat16"):
            build_precision(bfloat16, device)


def step_with_mixing(model, mixing):
    step = build_step(model)
    step.objective.mixing = mixing
    return step


def expected_loss(model, video, targets):
    """Return the loss of a batch, computed from its definition."""
    logits = model(Normalize(CPU, mean=MEAN, std=STD)(video))
    return -(targets * logits.log_softmax(1)).sum(1).mean().item()


def test_the_loss_of_smoothed_labels_matches_its_definition(model):
    batch = {**make_batch(3), "mixing_seed": torch.tensor([1, 2, 3])}
    mixing = Mixing(3, **NO_MIXING)
    expected = expected_loss(
        model.train(), batch["video"], torch.full((3, 3), 0.1) + 0.7 * torch.eye(3)
    )
    assert step_with_mixing(model, mixing)([batch], lr=0.0).loss == pytest.approx(expected)


def test_mixing_uses_the_seed_of_the_batch(model):
    batch = {**make_batch(4), "mixing_seed": torch.tensor([5, 6, 7, 8])}
    mixing = Mixing(3, **{**NO_MIXING, "probability": 1.0, "mixup_alpha": 1.0})
    step = step_with_mixing(model, mixing)
    losses = [step([batch], lr=0.0).loss]
    torch.manual_seed(9)
    losses.append(step([batch], lr=0.0).loss)
    others = torch.tensor([5, 0, 0, 0])
    losses.append(step([{**batch, "mixing_seed": others}], lr=0.0).loss)
    assert losses[0] == losses[1] == losses[2]
    assert step([{**batch, "mixing_seed": others + 1}], lr=0.0).loss != losses[0]


def test_topk_merges_the_two_classes_of_mixed_clips():
    # PySlowFast gives the class with the larger share the sum of both scores, and the other one 0.
    scores = torch.tensor([[3.0, 4.0, 5.0], [3.0, 1.0, 5.0], [3.0, 1.0, 5.0], [5.0, 4.0, 3.0]])
    targets = torch.tensor([[0.6, 0.4, 0], [0.4, 0.6, 0], [0.02, 0.96, 0.02], [1.0, 0, 0]])
    assert topk_correct(scores, targets).tolist() == [2, 4]
    # Row by row: 3 + 4 is the highest score; 3 + 1 is not; 1 is not, as label smoothing is not
    # mixing; 5 is.
    hits = [topk_correct(scores[row : row + 1], targets[row : row + 1])[0] for row in range(4)]
    assert hits == [1, 0, 0, 1]


def test_topk_of_smoothed_labels_equals_that_of_labels():
    scores = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 7
    targets = torch.nn.functional.one_hot(labels, 7) * 0.9 + 0.1 / 7
    assert torch.equal(topk_correct(scores, targets), topk_correct(scores, labels))


def test_topk():
    scores = torch.tensor([[6.0, 5, 4, 3, 2, 1]]).repeat(6, 1)
    assert topk_correct(scores, torch.arange(6)).tolist() == [1, 5]
    assert topk_correct(scores[:, :3], torch.tensor([0, 2, 2, 1, 1, 1])).tolist() == [1, 6]
    assert error_percent(3, 12) == 75


def test_a_vanishing_loss_scale_stops_the_run():
    """A few skipped steps find the loss scale at the start; endless ones would train nothing."""
    model = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, 3))
    step = build_step(model, dtype=torch.float16)
    weight = next(iter(model.parameters()))
    weight.register_hook(lambda gradient: gradient * torch.inf)
    before = weight.detach().clone()
    steps = iter(range(99))
    with pytest.raises(BadLossError, match=r"scale fell to 6\.1e-05") as stopped:
        for _ in steps:
            step([make_batch(3)], lr=0.1)
    assert stopped.value.from_gradient
    # Each step halves the scale of 2 ** 16, until it is below 1e-4.
    assert next(steps) == 31
    assert torch.equal(weight, before)
