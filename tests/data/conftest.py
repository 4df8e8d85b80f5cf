"""Videos that several tests read."""

from collections.abc import Callable
from pathlib import Path

import pytest
from made_videos import CUT, KINDS, cut_without_decoding, moving_noise

from stvit_video.data.encode import write_video


@pytest.fixture(scope="session")
def video_kinds(tmp_path_factory) -> Callable[[str], Path]:
    """Return a function from a name in KINDS, or CUT, to such a file of 40 frames at 25 fps."""
    folder = tmp_path_factory.mktemp("kinds")

    def make(name: str) -> Path:
        path = folder / name
        if not path.exists() and name == CUT:
            cut_without_decoding(make("b_frames.mp4"), path, frames=17)
        elif not path.exists():
            codec, options, pixel_format = KINDS[name]
            height, width = (47, 63) if "odd" in name else (48, 64)
            frames = moving_noise(40, height=height, width=width)
            write_video(
                path, frames, fps=25, codec=codec, options=options, pixel_format=pixel_format
            )
        return path

    return make


@pytest.fixture(scope="session")
def video_folder(tmp_path_factory) -> Path:
    """Six videos of 10 to 60 frames and two sizes, and a CSV file of them for every split."""
    folder = tmp_path_factory.mktemp("data set")
    for index, length in enumerate((10, 20, 30, 40, 50, 60)):
        height, width = ((48, 64), (80, 64))[index % 2]
        frames = moving_noise(length, height=height, width=width, seed=index)
        write_video(folder / f"video {index}.mp4", frames, fps=25, options={"preset": "ultrafast"})
    lines = [f"video {index}.mp4 {index % 3}\n" for index in range(6)]
    for split in ("train", "val", "test"):
        (folder / f"{split}.csv").write_text("".join(lines))
    return folder
