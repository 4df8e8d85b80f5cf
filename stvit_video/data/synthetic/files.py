"""The motion data set on disk: video files of many kinds, CSV files and the classes' names."""

import json
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from stvit_video.data.encode import write_video
from stvit_video.data.synthetic.camera import CLASSES, draw_camera_path
from stvit_video.data.synthetic.render import render
from stvit_video.data.synthetic.whole_folder import make_whole

# (height, width); all even, as yuv420p wants them.
_FRAME_SIZES = ((72, 96), (80, 80), (96, 72), (64, 96), (72, 72), (96, 64))
_LENGTHS = (24, 60)
_FPS = (12, 15, 20, 24, 25, 30)
_X264 = {"preset": "veryfast", "crf": "20"}
_MPEG4 = {"b": "2M"}
# (suffix, encoder, its options)
_KINDS = (
    (".mp4", "libx264", _X264),
    (".mkv", "libx264", _X264),
    (".mp4", "mpeg4", _MPEG4),
    (".avi", "mpeg4", _MPEG4),
)
# To be raised when the same seed gives other videos.
_VERSION = 2


@dataclass(frozen=True)
class MotionRecipe:
    """What determines a motion data set.

    Attributes:
        seed: of all choices; splits share none.
        train: videos of the training split.
        val: videos of the validation split.
        test: videos of the test split.
    """

    seed: int = 0
    train: int = 640
    val: int = 64
    test: int = 160

    @property
    def counts(self) -> Mapping[str, int]:
        """Videos of each split."""
        return {"train": self.train, "val": self.val, "test": self.test}


def make_motion_dataset(folder: str | Path, recipe: MotionRecipe, *, num_workers: int) -> bool:
    """Write a data set, unless ``folder`` holds it already.

    Args:
        folder: gets train.csv, val.csv, test.csv, classes.json ({name: label}) and the videos.
        recipe: the same recipe gives the same frames.
        num_workers: processes.

    Returns:
        Whether it had to be written.

    Raises:
        UserError: ``folder`` holds something else.
    """
    description = {"dataset": "motion", "version": _VERSION, **asdict(recipe)}

    def write(empty: Path) -> None:
        for split in recipe.counts:
            (empty / split).mkdir()
        _write_splits(empty, recipe, num_workers=num_workers)
        classes = {name: label for label, name in enumerate(CLASSES)}
        (empty / "classes.json").write_text(json.dumps(classes, indent=2) + "\n")

    return make_whole(Path(folder), description, write)


def _write_splits(folder: Path, recipe: MotionRecipe, *, num_workers: int) -> None:
    with ProcessPoolExecutor(num_workers) as pool:
        for number, (split, count) in enumerate(recipe.counts.items()):
            write = partial(_write_one, folder, split, seed=(recipe.seed, number))
            lines = pool.map(write, range(count), chunksize=8)
            (folder / f"{split}.csv").write_text("".join(lines))


def _write_one(folder: Path, split: str, index: int, *, seed: tuple[int, int]) -> str:
    """Write a video, and return its line of the CSV file."""
    rng = np.random.default_rng((*seed, index))
    label = index % len(CLASSES)
    height, width = _FRAME_SIZES[rng.integers(len(_FRAME_SIZES))]
    suffix, codec, options = _KINDS[rng.integers(len(_KINDS))]
    fps = _FPS[rng.integers(len(_FPS))]
    num_frames = int(rng.integers(_LENGTHS[0], _LENGTHS[1] + 1))
    path = draw_camera_path(label, num_frames=num_frames, rng=rng)
    frames = render(path, height=height, width=width, rng=rng)
    name = f"{split}/{index:05d}{suffix}"
    write_video(folder / name, frames, fps=fps, codec=codec, options=options)
    return f"{name} {label}\n"
