"""Build the optimizer and its parameter groups, set learning rates, and clip gradients."""

from collections.abc import Callable, Collection

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from stvit_video.errors import UserError

_HEAD_PREFIX = "head."
_BIAS_TABLE = "relative_position_bias_table"


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of the ``SOLVER`` keys for the trainable parameters of ``model``."""
    solver = cfg.SOLVER
    no_decay = _no_weight_decay(model, include_1d=solver.ZERO_WD_1D_PARAM)
    groups = parameter_groups(
        model,
        weight_decay=solver.WEIGHT_DECAY,
        backbone_lr_factor=solver.BACKBONE_LR_FACTOR,
        full_lr_bias_tables=solver.FULL_LR_BIAS_TABLES,
        layer_decay=solver.LAYER_DECAY,
        decays=lambda name, parameter: name not in no_decay,
    )
    if solver.OPTIMIZING_METHOD == "adamw":
        # The fused kernel is faster on a GPU, the default on the CPU.
        fused = True if groups[0]["params"][0].is_cuda else None
        return torch.optim.AdamW(groups, lr=solver.BASE_LR, betas=tuple(solver.BETAS), fused=fused)
    assert solver.OPTIMIZING_METHOD == "sgd", solver.OPTIMIZING_METHOD
    return torch.optim.SGD(
        groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV
    )


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    backbone_lr_factor: float = 1.0,
    full_lr_bias_tables: bool = False,
    layer_decay: float = 1.0,
    decays: Callable[[str, nn.Parameter], bool] = lambda name, parameter: True,
) -> list[dict]:
    """Group the trainable parameters by learning rate and weight decay.

    Args:
        model: parameters named ``head.*`` are the classifier, all others the backbone.
        weight_decay: weight decay of the parameters that ``decays`` accepts; others get 0.
        backbone_lr_factor: factor on the learning rate of the backbone.
        full_lr_bias_tables: exempt the relative position bias tables from this factor.
        layer_decay: layer-wise learning rate decay, applied once for each layer between a
            parameter and the head; values other than 1 need a model with ``parameter_depths()``.
        decays: returns from its name and value whether a parameter gets weight decay.

    Returns:
        Groups for a ``torch.optim`` optimizer, sorted by ``name``, each with the ``lr_factor``
        that :func:`set_learning_rate` applies.

    Raises:
        UserError: ``layer_decay`` is not 1 and the model has no ``parameter_depths()``.
    """
    depths = _parameter_depths(model) if layer_decay != 1 else {}
    max_depth = max(depths.values(), default=0)
    groups: dict[str, dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part, factor = "backbone", backbone_lr_factor
        if name.startswith(_HEAD_PREFIX):
            part, factor = "head", 1.0
        elif full_lr_bias_tables and name.endswith(_BIAS_TABLE):
            part, factor = "bias_tables", 1.0
        if depths and part != "head":
            part += f"/layer_{depths[name]:03d}"
            factor *= layer_decay ** (max_depth - depths[name])
        has_decay = decays(name, parameter)
        group: dict = {
            "name": f"{part}/{'decay' if has_decay else 'no_decay'}",
            "params": [],
            "lr_factor": factor,
            "weight_decay": weight_decay if has_decay else 0.0,
        }
        groups.setdefault(group["name"], group)["params"].append(parameter)
    return [groups[name] for name in sorted(groups)]


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group to ``lr`` times the group's ``lr_factor``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


def clip_gradients(
    parameters: Collection[nn.Parameter],
    *,
    value: float = 0.0,
    norm: float = 0.0,
    total_norm: Tensor | None = None,
) -> None:
    """Clip gradients in place, first by value and then by L2 norm.

    Gradients must be unscaled first, as a loss scaler would change the meaning of the limits.

    Args:
        parameters: parameters whose gradients are clipped.
        value: largest absolute value of an entry; 0 disables clipping by value.
        norm: largest L2 norm of all gradients together; 0 disables clipping by norm.
        total_norm: this norm before clipping, if known, so that it is not computed again.
    """
    if value > 0:
        nn.utils.clip_grad_value_(parameters, value)
    if norm > 0 and total_norm is not None and value == 0:
        nn.utils.clip_grads_with_norm_(parameters, norm, total_norm)
    elif norm > 0:
        nn.utils.clip_grad_norm_(parameters, norm)


def _parameter_depths(model: nn.Module) -> dict[str, int]:
    method = getattr(model, "parameter_depths", None)
    if not callable(method):
        raise UserError(
            "SOLVER.LAYER_DECAY needs a model with numbered layers (parameter_depths), which "
            f"{type(model).__name__} does not have; set it to 1.0."
        )
    return method()


def _no_weight_decay(model: nn.Module, *, include_1d: bool) -> set[str]:
    """Return the names of the parameters without weight decay."""
    # Models may name further parameters, as timm's do.
    method = getattr(model, "no_weight_decay", None)
    listed: set[str] = method() if callable(method) else set()
    return {
        name
        for name, parameter in model.named_parameters()
        if (include_1d and parameter.ndim <= 1) or name.endswith(_BIAS_TABLE) or name in listed
    }
