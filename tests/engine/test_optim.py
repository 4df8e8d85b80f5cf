"""Test parameter groups, learning rates and gradient clipping."""

from pathlib import Path

import pytest
import torch
from torch import nn

from stvit_video.config import load_config
from stvit_video.engine.optim import (
    build_optimizer,
    clip_gradients,
    parameter_groups,
    set_learning_rate,
)
from stvit_video.errors import UserError
from stvit_video.models import build_model

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture
def model(small_config):
    return build_model(small_config())


def names_by_group(model, optimizer):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        group["name"]: [names[id(parameter)] for parameter in group["params"]]
        for group in optimizer.param_groups
    }


def test_every_parameter_is_in_exactly_one_group(small_config, model):
    groups = names_by_group(model, build_optimizer(small_config(), model))
    grouped = [name for names in groups.values() for name in names]
    assert sorted(grouped) == sorted(name for name, _ in model.named_parameters())
    assert set(groups) == {
        "backbone/decay", "backbone/no_decay", "head/decay", "head/no_decay"
    }  # fmt: skip


def test_groups_separate_the_head_and_vectors(small_config, model):
    groups = names_by_group(model, build_optimizer(small_config(), model))
    assert groups["head/decay"] == ["head.fc.weight"]
    assert groups["head/no_decay"] == ["head.fc.bias"]
    shapes = {name: parameter.ndim for name, parameter in model.named_parameters()}
    tables = [name for name in shapes if name.endswith("relative_position_bias_table")]
    assert tables
    assert set(tables) <= set(groups["backbone/no_decay"])
    assert all(shapes[name] > 1 for name in groups["backbone/decay"])


def test_only_bias_tables_are_exempt_without_zero_wd_1d_param(small_config, model):
    optimizer = build_optimizer(small_config("SOLVER.ZERO_WD_1D_PARAM", "False"), model)
    groups = names_by_group(model, optimizer)
    assert set(groups) == {"backbone/decay", "backbone/no_decay", "head/decay"}
    assert all(name.endswith("bias_table") for name in groups["backbone/no_decay"])


def test_the_video_recipe_matches_the_released_parameter_groups(model):
    """mmcv applies the longest of these keys that is part of a parameter's name."""
    released = {
        "absolute_pos_embed": (1.0, 0.0),
        "relative_position_bias_table": (1.0, 0.0),
        "norm": (1.0, 0.0),
        "backbone": (0.1, 1.0),
    }
    cfg = load_config(CONFIGS / "k400" / "swin_t.yaml")
    optimizer = build_optimizer(cfg, model)
    set_learning_rate(optimizer, cfg.SOLVER.BASE_LR)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for name in (names[id(parameter)] for parameter in group["params"]):
            released_name = name if name.startswith("head.") else f"backbone.{name}"
            keys = sorted(released, key=len, reverse=True)
            rate, decay = next((released[key] for key in keys if key in released_name), (1.0, 1.0))
            assert group["lr"] == pytest.approx(1e-3 * rate), name
            assert group["weight_decay"] == pytest.approx(0.02 * decay), name


def test_a_model_can_exempt_more_parameters_from_weight_decay(small_config):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.other = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))

        def no_weight_decay(self):
            return {"token"}

    model = Model()
    groups = names_by_group(model, build_optimizer(small_config(), model))
    assert groups == {"backbone/decay": ["other"], "backbone/no_decay": ["token"]}


def test_positions_and_class_token_have_no_weight_decay(small_config):
    cfg = small_config(
        *("MODEL.ARCH", "deit", "STVIT.ENABLE", "False", "DEIT.EMBED_DIM", "12"),
        *("DEIT.NUM_HEADS", "2", "DATA.NUM_FRAMES", "1", "DEIT.PATCH_SIZE", "(8, 8)"),
    )
    model = build_model(cfg)
    groups = names_by_group(model, build_optimizer(cfg, model))
    assert {"position.table", "position.class_token"} <= set(groups["backbone/no_decay"])


def test_frozen_parameters_are_in_no_group(model):
    model.head.fc.weight.requires_grad_(False)
    groups = parameter_groups(model, weight_decay=0.1)
    assert all(
        parameter is not model.head.fc.weight for group in groups for parameter in group["params"]
    )


def test_learning_rates_of_backbone_and_head(small_config, model):
    optimizer = build_optimizer(small_config("SOLVER.BACKBONE_LR_FACTOR", "0.1"), model)
    set_learning_rate(optimizer, 0.5)
    assert {group["name"]: group["lr"] for group in optimizer.param_groups} == pytest.approx(
        {
            "backbone/decay": 0.05,
            "backbone/no_decay": 0.05,
            "head/decay": 0.5,
            "head/no_decay": 0.5,
        }
    )


def test_layer_decay_scales_the_learning_rate_per_layer(small_config, model):
    cfg = small_config("SOLVER.LAYER_DECAY", "0.5", "SOLVER.BACKBONE_LR_FACTOR", "0.1")
    optimizer = build_optimizer(cfg, model)
    set_learning_rate(optimizer, 1.0)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    # The model has 5 layers: the decay applies 6 times to the patch embedding, 0 to the final norm.
    for depth in range(6):
        assert rates[f"backbone/layer_{depth:03d}/decay"] == pytest.approx(0.1 * 0.5 ** (6 - depth))
    assert rates["backbone/layer_006/no_decay"] == pytest.approx(0.1)
    assert rates["head/decay"] == rates["head/no_decay"] == 1.0
    groups = names_by_group(model, optimizer)
    assert sorted(name for names in groups.values() for name in names) == sorted(
        name for name, _ in model.named_parameters()
    )
    # Parameters with and without weight decay are still in separate groups.
    assert groups["backbone/layer_000/decay"] == ["patch_embed.proj.weight"]
    assert groups["backbone/layer_006/no_decay"] == ["norm.weight", "norm.bias"]
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.02, 0.0}
    assert rates.keys() == {group["name"] for group in optimizer.param_groups}


def test_layer_decay_needs_a_model_with_layers(small_config):
    with pytest.raises(UserError, match=r"LAYER_DECAY needs .* Linear does not"):
        build_optimizer(small_config("SOLVER.LAYER_DECAY", "0.9"), nn.Linear(1, 1))


def test_the_config_selects_the_optimizer(small_config, model):
    adamw = build_optimizer(small_config("SOLVER.BETAS", "(0.8, 0.9)"), model)
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.defaults["betas"] == (0.8, 0.9)
    sgd = build_optimizer(small_config("SOLVER.OPTIMIZING_METHOD", "sgd"), model)
    assert isinstance(sgd, torch.optim.SGD)
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (0.9, True)


def test_clipping():
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, -4.0])
    clip_gradients([parameter])
    assert parameter.grad.tolist() == [3.0, -4.0]
    clip_gradients([parameter], norm=1.0)
    assert parameter.grad.tolist() == pytest.approx([0.6, -0.8], abs=1e-5)
    clip_gradients([parameter], value=0.7)
    assert parameter.grad.tolist() == pytest.approx([0.6, -0.7], abs=1e-5)
    # A given total norm is used, unless clipping by value has changed the norm.
    clip_gradients([parameter], norm=1.0, total_norm=torch.tensor(2.0))
    assert parameter.grad.tolist() == pytest.approx([0.3, -0.35], abs=1e-5)
    clip_gradients([parameter], value=0.3, norm=1.0, total_norm=torch.tensor(9.0))
    assert parameter.grad.tolist() == pytest.approx([0.3, -0.3], abs=1e-5)
