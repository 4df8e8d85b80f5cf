"""Shared fixtures: a small config and data set, real videos, and a single thread."""

import os
from pathlib import Path

import pytest
import torch
from small_run import SMALL_CONFIG, write_data_set

from stvit_video.config import load_config


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Use one thread, because the last bits of sums depend on the number of threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_videos() -> list[Path]:
    """Real videos from STVIT_TEST_VIDEOS or shared/videos next to the checkout; skip if missing."""
    default = Path(__file__).resolve().parents[2] / "shared" / "videos"
    folder = Path(os.environ.get("STVIT_TEST_VIDEOS", default))
    videos = sorted(path for path in folder.glob("*") if path.suffix in (".mp4", ".mkv", ".avi"))
    if not videos:
        pytest.skip("no real videos: set STVIT_TEST_VIDEOS to a folder with some")
    return videos


@pytest.fixture
def config_file(tmp_path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL_CONFIG)
    return path


@pytest.fixture
def small_config(config_file, tmp_path):
    """Return a function that loads the small config with overrides and a temporary OUTPUT_DIR."""

    def load(*overrides: str):
        return load_config(config_file, ["OUTPUT_DIR", str(tmp_path / "run"), *overrides])

    return load


@pytest.fixture(scope="session")
def video_folder(tmp_path_factory) -> Path:
    """The folder of the small data set of ``small_run``."""
    folder = tmp_path_factory.mktemp("videos")
    write_data_set(folder)
    return folder


@pytest.fixture
def video_config(small_config, video_folder):
    """Return a function that loads the small config for ``video_folder`` with overrides."""
    return lambda *overrides: small_config("DATA.PATH_TO_DATA_DIR", str(video_folder), *overrides)
