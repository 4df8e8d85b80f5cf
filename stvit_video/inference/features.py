"""Features of videos or images as arrays that numpy reads."""

import tempfile
import zipfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from stvit_video.engine.precision import Precision, build_normalize, build_precision
from stvit_video.engine.resume import checkpoint_to_test, load_test_weights
from stvit_video.errors import UserError
from stvit_video.inference.media import MediaViews
from stvit_video.models import build_model
from stvit_video.runtime.logging import progress

# Maps float views [B, 3, T, H, W] to arrays by name, each [B, ...].
Features = Callable[[nn.Module, Tensor], dict[str, Tensor]]


def _pooled(model: nn.Module, views: Tensor) -> dict[str, Tensor]:
    grid = model.forward_features(views)  # type: ignore[operator]
    return {"features": model.head.pool(grid.float())}  # type: ignore[union-attr, operator]


def _grid(model: nn.Module, views: Tensor) -> dict[str, Tensor]:
    return {"features": model.forward_features(views)}  # type: ignore[operator]


def _pyramid(model: nn.Module, views: Tensor) -> dict[str, Tensor]:
    grids = model.forward_pyramid(views)  # type: ignore[operator]
    return {f"stage{number}": grid for number, grid in enumerate(grids, start=1)}


FEATURES: dict[str, Features] = {"pooled": _pooled, "grid": _grid, "pyramid": _pyramid}


@torch.no_grad()
def extract_features(
    cfg: CfgNode,
    places: Sequence[str | Path],
    *,
    kind: str,
    output: Path,
    device: torch.device,
) -> str:
    """Write the features of all test views of videos, or of images, to an ``.npz`` file.

    Its arrays are, with views V and t, h, w the grid: ``features`` [N, V, C] (pooled) or
    [N, V, t, h, w, C] (grid), or ``stage1`` to ``stage4`` [N, V, t, h, w, C] (pyramid), float32;
    ``names`` [N], the files; and ``left_out``, the names of those that cannot be read, each of
    which is a warning, too. They are written as they are computed, so memory holds those of one
    video alone.

    Args:
        cfg: of the model, its newest checkpoint or TEST.CHECKPOINT_FILE_PATH, its test views, and
            the precision of the forward pass (TRAIN.MIXED_PRECISION).
        places: files, folders and CSV files, see `find_media`.
        kind: a name in :data:`FEATURES`.
        output: the file.
        device: where the model runs.

    Returns:
        a sentence with the names and the shapes of the arrays.

    Raises:
        UserError: a place holds nothing, none of its files can be read, the config does not fit,
            or there are no weights.
    """
    if output.suffix != ".npz":
        raise UserError(f"The output is an .npz file, but is {output}: end its name with .npz.")
    if cfg.MODEL.ARCH == "ptv" or (kind == "pyramid" and cfg.MODEL.ARCH != "swin"):
        raise UserError(f'MODEL.ARCH "{cfg.MODEL.ARCH}" has no {kind} features: take a Swin.')
    media = MediaViews(cfg, places)
    model = build_model(cfg).to(device).eval()
    load_test_weights(cfg, model, checkpoint_to_test(cfg))
    dtype = next(model.parameters()).dtype
    normalize, precision = build_normalize(cfg, device), build_precision(cfg, device)
    with tempfile.TemporaryDirectory(dir=_folder(output)) as folder:
        arrays = _Arrays(Path(folder), max_rows=len(media))
        names: list[str] = []
        for item in progress(media, total=len(media), description="features"):
            with precision.autocast(), _exact_convolutions(precision):
                parts = [
                    FEATURES[kind](model, normalize(part).to(dtype))
                    for part in item["video"].split(cfg.TEST.BATCH_SIZE // cfg.NUM_GPUS)
                ]
            for name in parts[0]:
                arrays.put(name, len(names), torch.cat([part[name].float() for part in parts]))
            names.append(item["video_name"])
        left_out = [str(file) for file in media.left_out]
        packed = arrays.pack(
            output,
            rows=len(names),
            names=np.array(names, dtype=np.str_),
            left_out=np.array(left_out, dtype=np.str_),
        )
    return f"{output}: {', '.join(f'{name} {shape}' for name, shape in packed.items())}"


def _exact_convolutions(precision: Precision) -> AbstractContextManager:
    """Keep a GPU's convolutions of float32 from TF32, which PyTorch lets them have."""
    if precision.dtype is not None:
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def _folder(output: Path) -> Path:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot write {output} ({error.strerror}): take another path.") from error
    return output.parent


class _Arrays:
    """Arrays that lie on the disk until they are packed into one file.

    Args:
        folder: for the files.
        max_rows: how many rows they may get.
    """

    def __init__(self, folder: Path, *, max_rows: int) -> None:
        self._folder = folder
        self._max_rows = max_rows
        self._arrays: dict[str, np.memmap] = {}

    def put(self, name: str, row: int, values: Tensor) -> None:
        """Write the row of a video, which is of the same shape for all."""
        if name not in self._arrays:
            self._arrays[name] = np.lib.format.open_memmap(
                self._folder / f"{name}.npy",
                mode="w+",
                dtype=np.float32,
                shape=(self._max_rows, *values.shape),
            )
        self._arrays[name][row] = values.cpu().numpy()

    def pack(self, output: Path, *, rows: int, **others: np.ndarray) -> dict[str, tuple[int, ...]]:
        """Write the first rows, and other arrays, to an ``.npz`` file, whole or not there.

        Returns:
            the shapes of the arrays by name.
        """
        arrays = {**others, **{name: array[:rows] for name, array in self._arrays.items()}}
        packed = self._folder / "packed"
        with zipfile.ZipFile(packed, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, array, allow_pickle=False)
        packed.replace(output)
        return {name: array.shape for name, array in arrays.items()}
