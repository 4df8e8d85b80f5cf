"""Optimizers: parameter groups, the learning rate of every group, and gradient clipping."""

from collections.abc import Callable, Collection

import torch
from fvcore.common.config import CfgNode
from torch import nn

HEAD_PREFIX = "head."
_BIAS_TABLE = "relative_position_bias_table"


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    backbone_lr_factor: float = 1.0,
    decays: Callable[[str, nn.Parameter], bool] = lambda name, parameter: True,
) -> list[dict]:
    """Split the trainable parameters by learning rate (backbone, head) and by weight decay.

    Args:
        model: parameters named ``head.*`` are the classifier, all others the backbone.
        weight_decay: of the parameters that ``decays`` accepts; the others get 0.
        backbone_lr_factor: factor of the scheduled learning rate for the backbone.
        decays: says by name and value whether a parameter is decayed.

    Returns:
        Groups for a ``torch.optim`` optimizer, the empty ones left out, each with its ``name``
        and the ``lr_factor`` that :func:`set_learning_rate` multiplies by.
    """
    groups: dict[str, dict] = {}
    for part, factor in (("backbone", backbone_lr_factor), ("head", 1.0)):
        for kind, decay in (("decay", weight_decay), ("no_decay", 0.0)):
            name = f"{part}/{kind}"
            groups[name] = {"name": name, "params": [], "lr_factor": factor, "weight_decay": decay}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = "head" if name.startswith(HEAD_PREFIX) else "backbone"
            kind = "decay" if decays(name, parameter) else "no_decay"
            groups[f"{part}/{kind}"]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of the ``SOLVER`` keys over the trainable parameters of ``model``."""
    solver = cfg.SOLVER
    exempt: set[str] = set()
    if solver.ZERO_WD_1D_PARAM:
        exempt = _without_decay(model)
    groups = parameter_groups(
        model,
        weight_decay=solver.WEIGHT_DECAY,
        backbone_lr_factor=solver.BACKBONE_LR_FACTOR,
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


def _without_decay(model: nn.Module) -> set[str]:
    # A model may name further parameters itself, as timm's models do.
    method = getattr(model, "no_weight_decay", None)
    named: set[str] = method() if callable(method) else set()
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim <= 1 or name.endswith(_BIAS_TABLE) or name in named
    }


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the scheduled learning rate times the group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


def clip_gradients(
    parameters: Collection[nn.Parameter], *, value: float = 0.0, norm: float = 0.0
) -> None:
    """Clip gradients in place: each entry to ``value``, then their L2 norm to ``norm``; 0: not.

    Gradients must be unscaled before, or a loss scaler would change what the limits mean.
    """
    if value > 0:
        nn.utils.clip_grad_value_(parameters, value)
    if norm > 0:
        nn.utils.clip_grad_norm_(parameters, norm)
