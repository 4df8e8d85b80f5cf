"""Load weights of any known checkpoint format into a model."""

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
from stvit_video.models.layers.windows import Size
from stvit_video.models.semantic.pooling import IntraInterPooling, tile_centers
from stvit_video.models.semantic.released import check_released_switches
from stvit_video.models.weights.formats import (
    BODY_PREFIX,
    STVIT_R,
    STVIT_VIDEO,
    convert_detector_state_dict,
    convert_state_dict,
    detect_format,
    is_outdated,
)
from stvit_video.models.weights.report import LoadReport, describe_mismatch, foreign_weight_warnings
from stvit_video.models.weights.resize import (
    inflate_bias_table,
    inflate_patch_embed,
    resize_bias_table,
)

# Keys of the weights in training checkpoints.
_STATE_KEYS = ("model_state", "state_dict", "model")
# Keys of the averaged weights in checkpoints of stvit_video, DeiT and timm.
_AVERAGED_KEYS = ("ema_state", "model_ema", "state_dict_ema")
# In a classifier, and in a detector.
_PATCH_EMBED_NAMES = ("patch_embed.proj.weight", f"{BODY_PREFIX}patch_embed.proj.weight")


def load_weights(
    model: nn.Module,
    path: str | Path,
    *,
    min_share: float = 0.0,
    clear_name_patterns: Sequence[str] = (),
    averaged: bool = False,
) -> LoadReport:
    """Load weights from a file into a model; the format is detected from the file's keys.

    Known formats are checkpoints and state dicts of stvit_video, the official Video Swin, Swin,
    DeiT and STViT-R, torchvision's ``swin3d_*``, timm's Swin and DeiT, and PyTorchVideo's model
    zoo, as ``.safetensors`` or as a pickle, which is read with ``weights_only=True``. Weights of
    image models are inflated. Weights of a dense model load into a model with semantic tokens:
    each layer gets the weights of the dense layer that it replaces. Weights of a classifier or of
    an official detector load into the backbone of a detector.

    Args:
        model: model to load into, in place; unchanged if the file is rejected.
        path: the file.
        min_share: reject a file that fills less than this share of the model's parameters. With 1,
            also reject a file with weights that the model does not have, or one trained with other
            switches; otherwise the report warns about these if they matter.
        clear_name_patterns: substrings to delete from the file's keys (PySlowFast's
            ``CHECKPOINT_CLEAR_NAME_PATTERN``).
        averaged: load the moving average of the weights from a checkpoint of stvit_video, DeiT or
            timm.

    Raises:
        UserError: the file cannot be read, has an unknown format, holds values that are not
            finite, or fills too little of the model.
    """
    state = _clear_names(read_state_dict(path, averaged=averaged), clear_name_patterns)
    format_ = detect_format(state)
    if format_ is None:
        raise UserError(
            f"{path} has an unknown format (its first keys are {', '.join(list(state)[:3])}): "
            "load a checkpoint of stvit_video, Video Swin, Swin, DeiT, STViT-R, torchvision "
            "swin3d, timm or PyTorchVideo."
        )
    if format_ is STVIT_VIDEO and is_outdated(state):
        raise UserError(
            f"{path} was written by an older stvit_video, whose semantic tokens did not follow the "
            "paper yet: train it again."
        )
    if isinstance(model, CascadeMaskRCNN):
        state = convert_detector_state_dict(state, format_)
    else:
        state = convert_state_dict(state, format_)
    report = LoadReport(path=str(path), format=format_.name, averaged=averaged)
    if format_ is STVIT_R:
        report.warnings = check_released_switches(model, state)
        if report.warnings and min_share >= 1:
            raise UserError(f"{path} does not fit the config: {report.warnings[0]}")
    fitted = _fit_weights(model, state, report)
    report.warnings += _embedding_warnings(report)
    for name, value in fitted.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(
                f"{path} holds values that are not finite, in {name}: take another file."
            )
    target = model.state_dict()
    fills_too_little = not fitted or report.share < min_share
    if fills_too_little or (min_share >= 1 and report.unexpected):
        raise UserError(describe_mismatch(report, source=state, target=target, min_share=min_share))
    report.warnings += foreign_weight_warnings(report)
    with torch.no_grad():
        for name, value in fitted.items():
            target[name].copy_(value)
    return report


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Save a model's weights as ``.safetensors``, for :func:`load_weights`."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(state, str(path), metadata={"format": "pt"})


def read_state_dict(path: str | Path, *, averaged: bool = False) -> dict[str, Tensor]:
    """Read the state dict of a weights file or of a training checkpoint.

    Args:
        path: the file.
        averaged: read the moving average of the weights instead of the weights.

    Raises:
        UserError: the file is missing or damaged, holds more than tensors and plain values, or
            lacks the requested moving average.
    """
    path = Path(path)
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        fix = "download it first" if re.match(r"https?:/", str(path)) else "check the path"
        raise UserError(f"The weights file {path} {problem}: {fix}.")
    read = _read_safetensors if path.suffix == ".safetensors" else _read_pickle
    content: Mapping = read(path)
    if averaged and not any(isinstance(content.get(key), Mapping) for key in _AVERAGED_KEYS):
        raise UserError(
            f"The weights file {path} holds no averaged weights ({', '.join(_AVERAGED_KEYS)}), "
            "which EMA.EVAL or TRAIN.CHECKPOINT_EMA requires: set it False to load the weights "
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
            f"The weights file {path} is not a readable safetensors file ({error}): copy it again."
        ) from error


def _read_pickle(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"The weights file {path} is damaged or holds Python objects beside its tensors, which "
            "are not loaded because they could run code: if you trust it, load it with "
            "torch.load(..., weights_only=False) and save only its tensors."
        ) from error
    except Exception as error:  # the unpickler may raise anything on damaged bytes
        raise UserError(
            f"The weights file {path} cannot be read ({type(error).__name__}): copy it again."
        ) from error
    if not isinstance(content, Mapping):
        raise UserError(
            f"The weights file {path} holds a {type(content).__name__}, not a state dict."
        )
    return dict(content)


def _clear_names(state: dict[str, Tensor], patterns: Sequence[str]) -> dict[str, Tensor]:
    # DistributedDataParallel adds the prefix "module.".
    state = {key.removeprefix("module."): value for key, value in state.items()}
    for pattern in patterns:
        state = {key.replace(pattern, ""): value for key, value in state.items()}
    return state


def _fit_weights(
    model: nn.Module, state: Mapping[str, Tensor], report: LoadReport
) -> dict[str, Tensor]:
    """Return the fitted weights that the file has for the model, and fill the report."""
    target = model.state_dict()
    fitters = _fitters(model, state)
    fitted, used = {}, set()
    for name, old in target.items():
        source = name if name in state else _name_in_dense_model(name)
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


def _name_in_dense_model(name: str) -> str:
    """Return the name of a classifier's or detector's weight in a dense model."""
    prefix = BODY_PREFIX if name.startswith(BODY_PREFIX) else ""
    dense = dense_name(name.removeprefix(prefix))
    return name if dense is None else prefix + dense


def _fitters(
    model: nn.Module, state: Mapping[str, Tensor]
) -> dict[str, Callable[[Tensor], tuple[str, Tensor | None]]]:
    """Return, for weights that can be fitted, a function of the value to (report field, value)."""
    patch = next((state[name] for name in _PATCH_EMBED_NAMES if name in state), None)
    from_image = patch is not None and patch.ndim == 4

    def fit_patch(value: Tensor, *, frames: int) -> tuple[str, Tensor | None]:
        if value.ndim == 5 and value.shape[2] == 1:  # an image model of stvit_video
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
        size = _position_grid(value.shape[1], like=module.size)
        if size is None:
            return "mismatched", None
        special, grid = value.tensor_split([value.shape[1] - prod(size)], dim=1)
        grid = resize_positions(grid, size, module.size)
        part = "loaded" if size == module.size else "interpolated"
        if module.class_token is None:
            return part, grid
        # Zero if the file's model has no class token, or one without a position.
        zero = value.new_zeros(1, 1, value.shape[2])
        return part, torch.cat([torch.cat([special, zero], dim=1)[:, :1], grid], dim=1)

    def fit_centers(value: Tensor, *, size: torch.Size) -> tuple[str, Tensor | None]:
        if value.ndim != 3 or value.shape[2] != size[2]:
            return "mismatched", None
        return "interpolated", tile_centers(value, (size[0], size[1]))

    def fit_offsets(value: Tensor, *, region: tuple[int, int]) -> tuple[str, Tensor | None]:
        side = isqrt(len(value))
        if side * side != len(value):
            return "mismatched", None
        grid = value.reshape(1, side, side, -1).permute(0, 3, 1, 2)  # a bias has one channel
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
                fit = partial(fit_offsets, region=module.region_size)
                fitters[f"{name}.inter.pointwise.{part}"] = fit
    for name, parameter in model.named_parameters():
        if name.endswith((".global_centers", ".pooling.centers")):
            fitters[name] = partial(fit_centers, size=parameter.shape)
    return fitters


def _position_grid(count: int, *, like: tuple[int, int]) -> tuple[int, int] | None:
    """Return the rows and columns of a position table, with the aspect ratio of ``like``.

    Positions of a class token and of a distillation token may precede those of the grid.
    """
    for tokens in (count, count - 1, count - 2):
        rows = isqrt(tokens * like[0] // like[1]) if tokens > 0 else 0
        if rows and rows * rows * like[1] == tokens * like[0]:
            return rows, tokens // rows
    return None


def _embedding_warnings(report: LoadReport) -> list[str]:
    """Return warnings if the patch or position embeddings were not filled."""
    names = [*report.missing, *report.mismatched] if report.share else []
    unfilled = {
        "patch size, stem or width": [name for name in names if "patch_embed." in name],
        "patch size or width": [name for name in names if name == "position.table"],
    }
    return [
        f"{embeddings[0]} keeps its previous value, so the other layers see tokens that they were "
        f"not trained on: the file was trained with another {setting}"
        for setting, embeddings in unfilled.items()
        if embeddings
    ]
