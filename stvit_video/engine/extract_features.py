"""Features of videos or images as arrays that numpy reads."""

import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from stvit_video.data.build import build_sampling, build_test_crops
from stvit_video.data.imagenet import IMAGE_SUFFIXES
from stvit_video.data.kinetics import MultiViewVideos
from stvit_video.data.labeled_paths import Entry, LabeledPaths
from stvit_video.data.labeled_videos import LabeledVideos
from stvit_video.engine.loader_benchmark import find_videos
from stvit_video.engine.precision import build_normalise, build_precision
from stvit_video.engine.tested_weights import checkpoint_to_test, load_tested_weights
from stvit_video.errors import UserError
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
    cfg: CfgNode, places: Sequence[Path], *, kind: str, output: Path, device: torch.device
) -> str:
    """Write the features of all test views of videos, or of images, to an ``.npz`` file.

    Its arrays are ``names`` [N], the files, and, with views V and t, h, w the grid:
    ``features`` [N, V, C] (pooled) or [N, V, t, h, w, C] (grid), or ``stage1`` to ``stage4``
    [N, V, t, h, w, C] (pyramid), float32. They are written as they are computed, so memory holds
    those of one video alone.

    Args:
        cfg: of the model, its newest checkpoint or TEST.CHECKPOINT_FILE_PATH, and its test views.
        places: video files, folders of videos, CSV files of them, image files or folders.
        kind: a name in :data:`FEATURES`.
        output: the file.
        device: where the model runs.

    Returns:
        a sentence with the names and the shapes of the arrays.

    Raises:
        UserError: a place holds nothing to read, a file is broken, the config does not fit, or
            there are no weights.
    """
    if output.suffix != ".npz":
        raise UserError(f"The output is an .npz file, but is {output}: end its name with .npz.")
    if cfg.MODEL.ARCH == "ptv" or (kind == "pyramid" and cfg.MODEL.ARCH != "swin"):
        raise UserError(f'MODEL.ARCH "{cfg.MODEL.ARCH}" has no {kind} features: take a Swin.')
    files, backend = find_media(places, backend=cfg.DATA.DECODING_BACKEND)
    if backend == "image" and cfg.DATA.NUM_FRAMES != 1:
        raise UserError(
            f"{files[0]} is an image, but a clip has DATA.NUM_FRAMES {cfg.DATA.NUM_FRAMES}: take a "
            "config of images, or set it to 1."
        )
    model = build_model(cfg).to(device).eval()
    load_tested_weights(cfg, model, checkpoint_to_test(cfg))
    dtype = next(model.parameters()).dtype
    normalise, precision = build_normalise(cfg, device), build_precision(cfg, device)
    dataset = _dataset(cfg, files, backend=backend)
    with tempfile.TemporaryDirectory(dir=_folder(output)) as folder:
        arrays = _Arrays(Path(folder), count=len(files))
        arrays.add_whole("names", np.array([str(file) for file in files]))
        for index in progress(range(len(files)), total=len(files), description="features"):
            views = dataset[index]["video"]
            with precision.autocast():
                parts = [
                    FEATURES[kind](model, normalise(part).to(dtype))
                    for part in views.split(cfg.TEST.BATCH_SIZE // cfg.NUM_GPUS)
                ]
            for name in parts[0]:
                arrays.put(name, index, torch.cat([part[name].float() for part in parts]))
        arrays.pack(output)
        shapes = ", ".join(f"{name} {shape}" for name, shape in arrays.shapes.items())
    return f"{output}: {shapes}"


def find_media(places: Sequence[Path], *, backend: str) -> tuple[list[Path], str]:
    """List the videos or the images of files, folders and CSV files, and say what reads them.

    Args:
        places: files, folders, CSV files.
        backend: what reads videos.

    Raises:
        UserError: a place holds nothing, or there are both videos and images.
    """
    images = [image for place in places for image in _images_at(place)]
    videos = [place for place in places if not _images_at(place)]
    if images and videos:
        raise UserError(
            f"{images[0]} is an image, but {videos[0]} is none: give images or videos, not both."
        )
    return (images, "image") if images else (find_videos(videos), backend)


def _images_at(place: Path) -> list[Path]:
    files = sorted(place.iterdir()) if place.is_dir() else [place] if place.is_file() else []
    return [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]


def _dataset(cfg: CfgNode, files: Sequence[Path], *, backend: str) -> MultiViewVideos:
    entries = [Entry(line, str(file.resolve()), 0) for line, file in enumerate(files, start=1)]
    paths = LabeledPaths(Path("the command line"), entries, unit="file")
    return MultiViewVideos(
        LabeledVideos(paths, prefix="", backend=backend),
        sampling=build_sampling(cfg),
        crops=build_test_crops(cfg),
        num_clips=cfg.TEST.NUM_ENSEMBLE_VIEWS,
    )


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
        count: N, their first size.
    """

    def __init__(self, folder: Path, *, count: int) -> None:
        self.folder = folder
        self.count = count
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._maps: dict[str, np.memmap] = {}

    def add_whole(self, name: str, array: np.ndarray) -> None:
        """Write an array at once."""
        np.save(self._file(name), array)
        self.shapes[name] = array.shape

    def put(self, name: str, index: int, values: Tensor) -> None:
        """Write the row of a video, which is of the same shape for all."""
        if name not in self._maps:
            self.shapes[name] = (self.count, *values.shape)
            self._maps[name] = np.lib.format.open_memmap(
                self._file(name), mode="w+", dtype=np.float32, shape=self.shapes[name]
            )
        self._maps[name][index] = values.cpu().numpy()

    def pack(self, output: Path) -> None:
        """Write all arrays to an ``.npz`` file, which is whole or not there."""
        for array in self._maps.values():
            array.flush()
        packed = self.folder / "packed"
        with zipfile.ZipFile(packed, "w") as archive:
            for name in self.shapes:
                archive.write(self._file(name), f"{name}.npy")
        packed.replace(output)

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.npy"
