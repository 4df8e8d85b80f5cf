"""Extract features of videos or images to NumPy arrays."""

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

# Function from a model and float views [B, 3, T, H, W] to named features, each [B, ...].
FeatureExtractor = Callable[[nn.Module, Tensor], dict[str, Tensor]]


def _pooled(model: nn.Module, views: Tensor) -> dict[str, Tensor]:
    grid = model.forward_features(views)  # type: ignore[operator]
    return {"features": model.head.pool(grid.float())}  # type: ignore[union-attr, operator]


def _grid(model: nn.Module, views: Tensor) -> dict[str, Tensor]:
    return {"features": model.forward_features(views)}  # type: ignore[operator]


def _pyramid(model: nn.Module, views: Tensor) -> dict[str, Tensor]:
    grids = model.forward_pyramid(views)  # type: ignore[operator]
    return {f"stage{number}": grid for number, grid in enumerate(grids, start=1)}


FEATURES: dict[str, FeatureExtractor] = {"pooled": _pooled, "grid": _grid, "pyramid": _pyramid}


@torch.no_grad()
def extract_features(
    cfg: CfgNode,
    paths: Sequence[str | Path],
    *,
    kind: str,
    output: Path,
    device: torch.device,
) -> str:
    """Write the features of all test views of videos or images to an ``.npz`` file.

    The file has these arrays, with V views and a grid of t x h x w tokens:

    - ``features``, float32 [N, V, C] (pooled) or [N, V, t, h, w, C] (grid); or ``stage1`` to
      ``stage4``, float32 [N, V, t, h, w, C] (pyramid);
    - ``names`` [N], the files;
    - ``left_out``, the files that could not be read; each of them is also logged as a warning.

    Features are written as they are computed, so only those of one video are in memory.

    Args:
        cfg: config of the model, its test views, and the precision of the forward pass
            (TRAIN.MIXED_PRECISION). The weights are those of TEST.CHECKPOINT_FILE_PATH, or of the
            newest checkpoint in OUTPUT_DIR.
        paths: files, folders and CSV files, see `find_media`.
        kind: a name in :data:`FEATURES`.
        output: the ``.npz`` file.
        device: device of the model.

    Returns:
        a line with the names and the shapes of the arrays.

    Raises:
        UserError: a path has no media, none of the files can be read, the config does not fit,
            or there are no weights.
    """
    if output.suffix != ".npz":
        raise UserError(
            f"The output must be an .npz file, but it is {output}: end its name with .npz."
        )
    if cfg.MODEL.ARCH == "ptv" or (kind == "pyramid" and cfg.MODEL.ARCH != "swin"):
        raise UserError(f'MODEL.ARCH "{cfg.MODEL.ARCH}" has no {kind} features: use a Swin model.')
    media = MediaViews(cfg, paths)
    model = build_model(cfg).to(device).eval()
    load_test_weights(cfg, model, checkpoint_to_test(cfg))
    dtype = next(model.parameters()).dtype
    normalize, precision = build_normalize(cfg, device), build_precision(cfg, device)
    with tempfile.TemporaryDirectory(dir=_make_parent(output)) as folder:
        arrays = _ArraysOnDisk(Path(folder), max_rows=len(media))
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
        shapes = arrays.pack(
            output,
            rows=len(names),
            names=np.array(names, dtype=np.str_),
            left_out=np.array(left_out, dtype=np.str_),
        )
    return f"{output}: {', '.join(f'{name} {shape}' for name, shape in shapes.items())}"


def _exact_convolutions(precision: Precision) -> AbstractContextManager:
    """Disable TF32 for float32 convolutions, which PyTorch enables by default on GPUs."""
    if precision.dtype is not None:
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def _make_parent(output: Path) -> Path:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"Cannot write {output} ({error.strerror}): choose another path."
        ) from error
    return output.parent


class _ArraysOnDisk:
    """Arrays that are kept on disk until they are packed into one file.

    Args:
        folder: folder of the files.
        max_rows: largest number of rows.
    """

    def __init__(self, folder: Path, *, max_rows: int) -> None:
        self._folder = folder
        self._max_rows = max_rows
        self._arrays: dict[str, np.memmap] = {}

    def put(self, name: str, row: int, values: Tensor) -> None:
        """Write one row of an array; all rows have the same shape."""
        if name not in self._arrays:
            self._arrays[name] = np.lib.format.open_memmap(
                self._folder / f"{name}.npy",
                mode="w+",
                dtype=np.float32,
                shape=(self._max_rows, *values.shape),
            )
        self._arrays[name][row] = values.cpu().numpy()

    def pack(self, output: Path, *, rows: int, **others: np.ndarray) -> dict[str, tuple[int, ...]]:
        """Write the first rows, and other arrays, to an ``.npz`` file atomically.

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
