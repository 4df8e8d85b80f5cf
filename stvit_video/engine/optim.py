"""Optimizers: parameter groups, the learning rate of every group, and gradient clipping."""

from collections.abc import Callable, Collection

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from stvit_video.errors import UserError

HEAD_PREFIX = "head."
_BIAS_TABLE = "relative_position_bias_table"


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    backbone_lr_factor: float = 1.0,
    full_lr_bias_tables: bool = False,
    layer_decay: float = 1.0,
    decays: Callable[[str, nn.Parameter], bool] = lambda name, parameter: True,
) -> list[dict]:
    """Split the trainable parameters by learning rate and by weight decay.

    Args:
        model: parameters named ``head.*`` are the classifier, all others the backbone.
        weight_decay: of the parameters that ``decays`` accepts; the others get 0.
        backbone_lr_factor: factor of the scheduled learning rate for the backbone.
        full_lr_bias_tables: that factor is not for its position bias tables.
        layer_decay: further factor, once for each layer that lies between a parameter and the
            head; other than 1 it needs a model with ``parameter_depths()``.
        decays: says by name and value whether a parameter is decayed.

    Returns:
        Groups for a ``torch.optim`` optimizer, sorted by their ``name``, each with the
        ``lr_factor`` that :func:`set_learning_rate` multiplies by.

    Raises:
        UserError: the model does not tell the depths that ``layer_decay`` needs.
    """
    depths = _depths(model) if layer_decay != 1 else {}
    last = max(depths.values(), default=0)
    groups: dict[str, dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part, factor = "backbone", backbone_lr_factor
        if name.startswith(HEAD_PREFIX):
            part, factor = "head", 1.0
        elif full_lr_bias_tables and name.endswith(_BIAS_TABLE):
            part, factor = "bias_tables", 1.0
        if depths and part != "head":
            part += f"/layer_{depths[name]:03d}"
            factor *= layer_decay ** (last - depths[name])
        is_decayed = decays(name, parameter)
        group: dict = {
            "name": f"{part}/{'decay' if is_decayed else 'no_decay'}",
            "params": [],
            "lr_factor": factor,
            "weight_decay": weight_decay if is_decayed else 0.0,
        }
        groups.setdefault(group["name"], group)["params"].append(parameter)
    return [groups[name] for name in sorted(groups)]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of the ``SOLVER`` keys over the trainable parameters of ``model``."""
    solver = cfg.SOLVER
    exempt = _without_decay(model, vectors=solver.ZERO_WD_1D_PARAM)
    groups = parameter_groups(
        model,
        weight_decay=solver.WEIGHT_DECAY,
        backbone_lr_factor=solver.BACKBONE_LR_FACTOR,
        full_lr_bias_tables=solver.FULL_LR_BIAS_TABLES,
        layer_decay=solver.LAYER_DECAY,
        decays=lambda name, parameter: name not in exempt,
    )
    if solver.OPTIMIZING_METHOD == "adamw":
        # One kernel for all parameters; on the CPU the default is the faster one.
        fused = True if groups[0]["params"][0].is_cuda else None
        return torch.optim.AdamW(groups, lr=solver.BASE_LR, betas=tuple(solver.BETAS), fused=fused)
    assert solver.OPTIMIZING_METHOD == "sgd", solver.OPTIMIZING_METHOD
    return torch.optim.SGD(
        groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV
    )


def _depths(model: nn.Module) -> dict[str, int]:
    method = getattr(model, "parameter_depths", None)
    if not callable(method):
        raise UserError(
            f"SOLVER.LAYER_DECAY needs a model that numbers its layers, and {type(model).__name__} "
            "does not (parameter_depths); set it to 1.0."
        )
    return method()


def _without_decay(model: nn.Module, *, vectors: bool) -> set[str]:
    # A model may name further parameters itself, as timm's models do.
    method = getattr(model, "no_weight_decay", None)
    named: set[str] = method() if callable(method) else set()
    return {
        name
        for name, parameter in model.named_parameters()
        if (vectors and parameter.ndim <= 1) or name.endswith(_BIAS_TABLE) or name in named
    }


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the scheduled learning rate times the group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


def clip_gradients(
    parameters: Collection[nn.Parameter],
    *,
    value: float = 0.0,
    norm: float = 0.0,
    present_norm: Tensor | None = None,
) -> None:
    """Clip gradients in place: each entry to ``value``, then their L2 norm to ``norm``; 0: not.

    Gradients must be unscaled before, or a loss scaler would change what the limits mean. Their
    ``present_norm``, if it is known, is not computed again.
    """
    if value > 0:
        nn.utils.clip_grad_value_(parameters, value)
    if norm > 0 and present_norm is not None and value == 0:
        nn.utils.clip_grads_with_norm_(parameters, norm, present_norm)
    elif norm > 0:
        nn.utils.clip_grad_norm_(parameters, norm)
