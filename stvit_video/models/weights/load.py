"""One loader for all checkpoint formats, with a report of what it did."""

import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import isqrt, prod
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stvit_video.errors import UserError
from stvit_video.models.depths import dense_name
from stvit_video.models.detection.detector import CascadeMaskRCNN
from stvit_video.models.layers.attention import WindowAttention
from stvit_video.models.layers.patch import PatchEmbed
from stvit_video.models.layers.position import PositionEmbedding, resize_positions
from stvit_video.models.semantic.pooling import IntraInterPooling, tile_centers
from stvit_video.models.semantic.released import switch_mismatches
from stvit_video.models.weights.formats import (
    BODY,
    STVIT_R,
    STVIT_VIDEO,
    detect_format,
    is_outdated,
    to_detector_names,
    to_our_names,
)
from stvit_video.models.weights.report import LoadReport, describe_misfit, foreign_parts
from stvit_video.models.weights.resize import (
    Size,
    inflate_bias_table,
    inflate_patch_embed,
    resize_bias_table,
)

# What training frameworks call the weights in their checkpoints.
_STATE_KEYS = ("model_state", "state_dict", "model")
# Of ours, DeiT's and timm's.
_AVERAGED_KEYS = ("ema_state", "model_ema", "state_dict_ema")
# Of a classifier, and of a detector's backbone.
_PATCH_NAMES = ("patch_embed.proj.weight", f"{BODY}patch_embed.proj.weight")


def load_weights(
    model: nn.Module,
    path: str | Path,
    *,
    min_share: float = 0.0,
    clear_name_patterns: Sequence[str] = (),
    averaged: bool = False,
) -> LoadReport:
    """Fill a model from a file of any known format, told by the file's keys.

    Known are our own checkpoints and state dicts, the official Video Swin, Swin, DeiT and STViT-R
    files, torchvision's ``swin3d_*``, timm's Swin and DeiT, and PyTorchVideo's model zoo;
    ``.safetensors`` or a pickle, which is read with ``weights_only=True``. Weights of image
    models are inflated. A dense file loads into a model with semantic tokens: layers that take
    the place of dense ones take their weights. A classifier's file, or an official detector's,
    loads into a detector's backbone.

    Args:
        model: what is filled, in place; untouched if the file is refused.
        path: the file.
        min_share: refuse a file that fills less than this share of the model's parameters; with 1
            also one that holds weights for which the model has no place, or that was trained with
            other switches: else, where it matters, these are warnings of the report.
        clear_name_patterns: parts of names to delete from the file's keys before they are
            matched (PySlowFast's ``CHECKPOINT_CLEAR_NAME_PATTERN``).
        averaged: take the moving average of the weights that a checkpoint of ours, DeiT's or
            timm's holds.

    Raises:
        UserError: the file cannot be read, is of no known format, holds values that are not
            finite, or fills too little.
    """
    state = _clear_names(read_state_dict(path, averaged=averaged), clear_name_patterns)
    format_ = detect_format(state)
    if format_ is None:
        raise UserError(
            f"{path} is of no known format (its first keys are {', '.join(list(state)[:3])}): "
            "load a checkpoint of stvit_video, Video Swin, Swin, DeiT, STViT-R, torchvision "
            "swin3d, timm or PyTorchVideo."
        )
    if format_ is STVIT_VIDEO and is_outdated(state):
        raise UserError(
            f"{path} was written by an older stvit_video, whose semantic tokens were not yet those "
            "of the paper: train it again."
        )
    if isinstance(model, CascadeMaskRCNN):
        state = to_detector_names(state, format_)
    else:
        state = to_our_names(state, format_)
    report = LoadReport(path=str(path), format=format_.name, averaged=averaged)
    if format_ is STVIT_R:
        report.warnings = switch_mismatches(model, state)
        if report.warnings and min_share >= 1:
            raise UserError(f"{path} does not fit the config: {report.warnings[0]}")
    fitted = _fit(model, state, report)
    report.warnings += _random_embeddings(report)
    for name, value in fitted.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(
                f"{path} holds values that are not finite, in {name}: take another file."
            )
    target = model.state_dict()
    is_too_little = not fitted or report.share < min_share
    if is_too_little or (min_share >= 1 and report.unexpected):
        raise UserError(describe_misfit(report, there=state, here=target, min_share=min_share))
    report.warnings += foreign_parts(report)
    with torch.no_grad():
        for name, value in fitted.items():
            target[name].copy_(value)
    return report


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write a model's weights as ``.safetensors``, in a form that :func:`load_weights` reads."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(state, str(path), metadata={"format": "pt"})


def read_state_dict(path: str | Path, *, averaged: bool = False) -> dict[str, Tensor]:
    """Read the tensors of a weights file or of a checkpoint that holds one.

    Args:
        path: the file.
        averaged: read the moving average of the weights instead of the weights.

    Raises:
        UserError: the file is missing, damaged, holds more than tensors and plain values, or no
            average where one is asked for.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        fix = "download it first" if re.match(r"https?:/", str(path)) else "check the path"
        raise UserError(f"The weights file {path} {what}: {fix}.")
    read = _read_safetensors if path.suffix == ".safetensors" else _read_pickle
    content: Mapping = read(path)
    if averaged and not any(isinstance(content.get(key), Mapping) for key in _AVERAGED_KEYS):
        raise UserError(
            f"The weights file {path} holds no averaged weights ({', '.join(_AVERAGED_KEYS)}), "
            "which EMA.EVAL or TRAIN.CHECKPOINT_EMA asks for: set it False to take the weights "
            "themselves."
        )
    for key in _AVERAGED_KEYS if averaged else _STATE_KEYS:
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    state = {
        key: value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    if not state:
        raise UserError(f"The weights file {path} holds no tensors: check the path.")
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(str(path))
    except SafetensorError as error:
        raise UserError(
            f"The weights file {path} is no readable safetensors file ({error}): copy it again."
        ) from error


def _read_pickle(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"The weights file {path} is damaged or holds Python objects beside its tensors, which "
            "are not loaded because they could run code: save its tensors alone, in a program "
            "that trusts it."
        ) from error
    except Exception as error:  # damaged bytes make the unpickler raise nearly anything
        raise UserError(
            f"The weights file {path} cannot be read ({type(error).__name__}): copy it again."
        ) from error
    if not isinstance(content, Mapping):
        raise UserError(
            f"The weights file {path} holds a {type(content).__name__}, not a state dict."
        )
    return dict(content)


def _clear_names(state: dict[str, Tensor], patterns: Sequence[str]) -> dict[str, Tensor]:
    # "module." is what DistributedDataParallel puts in front.
    state = {key.removeprefix("module."): value for key, value in state.items()}
    for pattern in patterns:
        state = {key.replace(pattern, ""): value for key, value in state.items()}
    return state


def _fit(model: nn.Module, state: Mapping[str, Tensor], report: LoadReport) -> dict[str, Tensor]:
    """Give the value of each weight of the model that the file has, and fill the report."""
    target = model.state_dict()
    fitters = _fitters(model, state)
    fitted, used = {}, set()
    for name, old in target.items():
        source = name if name in state else _dense_name(name)
        used.add(source)
        value: Tensor | None = state.get(source)
        if value is None:
            report.missing[name] = old.numel()
            continue
        part = "loaded"
        if value.shape != old.shape and name in fitters:
            part, value = fitters[name](value)
        if value is None or value.shape != old.shape:
            part, value = "mismatched", None
        getattr(report, part)[name] = old.numel()
        if value is not None:
            fitted[name] = value
    report.unexpected = {name: value.numel() for name, value in state.items() if name not in used}
    return fitted


def _random_embeddings(report: LoadReport) -> list[str]:
    """Say so if what all tokens are made by got nothing from the file."""
    names = [*report.missing, *report.mismatched] if report.share else []
    left = {
        "patch size, stem or width": [name for name in names if "patch_embed." in name],
        "patch size or width": [name for name in names if name == "position.table"],
    }
    return [
        f"{stay[0]} stays as it was, so the other layers see tokens that they were not trained on: "
        f"the file was trained with another {keys}"
        for keys, stay in left.items()
        if stay
    ]


def _grid_of_positions(count: int, *, like: tuple[int, int]) -> tuple[int, int] | None:
    """Give rows and columns of a table of positions of a grid of the proportions of ``like``.

    Before the grid it may have one of a class token, and one of the token of distilled models.
    """
    for tokens in (count, count - 1, count - 2):
        rows = isqrt(tokens * like[0] // like[1]) if tokens > 0 else 0
        if rows and rows * rows * like[1] == tokens * like[0]:
            return rows, tokens // rows
    return None


def _dense_name(name: str) -> str:
    """Give the name that a weight would have in a dense model, of a classifier or a detector."""
    prefix = BODY if name.startswith(BODY) else ""
    dense = dense_name(name.removeprefix(prefix))
    return name if dense is None else prefix + dense


def _fitters(
    model: nn.Module, state: Mapping[str, Tensor]
) -> dict[str, Callable[[Tensor], tuple[str, Tensor | None]]]:
    """Give, for weights that can be fitted, a function to (part of the report, fitted value)."""
    patch = next((state[name] for name in _PATCH_NAMES if name in state), None)
    from_image = patch is not None and patch.ndim == 4

    def fit_patch(value: Tensor, *, frames: int) -> tuple[str, Tensor | None]:
        if value.ndim == 5 and value.shape[2] == 1:  # an image model's of ours
            value = value.squeeze(2)
        part = "loaded" if frames == 1 else "inflated"
        return part, inflate_patch_embed(value, frames=frames) if value.ndim == 4 else None

    def fit_table(value: Tensor, *, window: Size) -> tuple[str, Tensor | None]:
        if not from_image:
            return "interpolated", resize_bias_table(value, window=window)
        table = inflate_bias_table(value, window=window)
        same = len(value) == (2 * window[1] - 1) * (2 * window[2] - 1)
        return "inflated" if same else "interpolated", table

    def fit_positions(value: Tensor, *, module: PositionEmbedding) -> tuple[str, Tensor | None]:
        size = _grid_of_positions(value.shape[1], like=module.size)
        if size is None:
            return "mismatched", None
        first, grid = value.tensor_split([value.shape[1] - prod(size)], dim=1)
        grid = resize_positions(grid, size, module.size)
        part = "loaded" if size == module.size else "interpolated"
        if module.class_token is None:
            return part, grid
        # Of a model without a class token, or whose class token had no position.
        none = value.new_zeros(1, 1, value.shape[2])
        return part, torch.cat([torch.cat([first, none], dim=1)[:, :1], grid], dim=1)

    def fit_centers(value: Tensor, *, size: torch.Size) -> tuple[str, Tensor | None]:
        if value.ndim != 3 or value.shape[2] != size[2]:
            return "mismatched", None
        return "interpolated", tile_centers(value, (size[0], size[1]))

    def fit_offsets(value: Tensor, *, region: tuple[int, int]) -> tuple[str, Tensor | None]:
        side = isqrt(len(value))
        if side * side != len(value):
            return "mismatched", None
        grid = value.reshape(1, side, side, -1).permute(0, 3, 1, 2)  # channels, of a bias one
        resized = F.interpolate(grid.float(), size=region, mode="bilinear").permute(0, 2, 3, 1)
        return "interpolated", resized.reshape(-1, *value.shape[1:]).to(value.dtype)

    fitters: dict[str, Callable[[Tensor], tuple[str, Tensor | None]]] = {}
    for name, module in model.named_modules():
        if isinstance(module, PatchEmbed):
            fitters[f"{name}.proj.weight"] = partial(fit_patch, frames=module.patch[0])
        elif isinstance(module, WindowAttention) and module.table_window is not None:
            table = f"{name}.relative_position_bias_table"
            fitters[table] = partial(fit_table, window=module.table_window)
        elif isinstance(module, PositionEmbedding):
            fitters[f"{name}.table"] = partial(fit_positions, module=module)
        elif isinstance(module, IntraInterPooling):
            for part in ("weight", "bias"):
                fit = partial(fit_offsets, region=module.region)
                fitters[f"{name}.inter.pointwise.{part}"] = fit
    for name, parameter in model.named_parameters():
        if name.endswith((".global_centers", ".pooling.centers")):
            fitters[name] = partial(fit_centers, size=parameter.shape)
    return fitters
