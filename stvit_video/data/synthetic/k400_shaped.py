"""Videos of the shape of Kinetics-400's files: to measure with, not to learn from."""

import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from stvit_video.data.encode import write_video
from stvit_video.data.synthetic.camera import CLASSES, draw_camera_path
from stvit_video.data.synthetic.render import render

_HEIGHT, _WIDTH, _FPS, _SECONDS = 256, 340, 30, 10
# A key frame about every 70 frames, as in the files that are passed around, and B-frames.
_H264 = {"preset": "fast", "crf": "23", "g": "70", "bf": "3"}
# The camera's way over the picture: how far it strays (in halves of the picture), turns and zooms.
_STRAY, _TURN, _ZOOM = 0.3, 0.2, 0.1
_GRAIN = 6.0


def write_k400_shaped(folder: Path, *, count: int, num_workers: int = 2) -> list[Path]:
    """Write videos of 10 s, 340x256, 30 frames a second, H.264, in a shaking, turning camera."""
    paths = [folder / f"k400_shaped_{index}.mp4" for index in range(count)]
    with ProcessPoolExecutor(num_workers) as pool:
        list(pool.map(_write_one, paths, range(count)))
    return paths


def _write_one(path: Path, seed: int) -> None:
    torch.set_num_threads(1)
    write_video(path, _frames(seed), fps=_FPS, options=_H264)


def _frames(seed: int) -> Iterator[NDArray[np.uint8]]:
    """What a camera held by hand sees of one large picture."""
    rng = np.random.default_rng(seed)
    still = draw_camera_path(seed % len(CLASSES), num_frames=1, rng=rng)
    picture = render(still, height=2 * _HEIGHT, width=2 * _WIDTH, rng=rng)
    source = torch.from_numpy(picture).permute(0, 3, 1, 2).float()
    speeds, phases = rng.uniform(0.5, 2.0, 4), rng.uniform(0, 2 * np.pi, 4)
    for frame in range(_FPS * _SECONDS):
        x, y, turn, zoom = np.sin(2 * np.pi * speeds * frame / (_FPS * _SECONDS) + phases)
        scale, angle = 0.5 + _ZOOM * zoom, _TURN * turn
        cos, sin = scale * math.cos(angle), scale * math.sin(angle)
        view = torch.tensor([[[cos, -sin, _STRAY * x], [sin, cos, _STRAY * y]]]).float()
        grid = F.affine_grid(view, [1, 3, _HEIGHT, _WIDTH], align_corners=False)
        seen = F.grid_sample(source, grid, padding_mode="reflection", align_corners=False)
        grain = rng.normal(0, _GRAIN, (_HEIGHT, _WIDTH, 1))
        yield (seen[0].permute(1, 2, 0).numpy() + grain).clip(0, 255).astype(np.uint8)
