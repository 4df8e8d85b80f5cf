"""What tests of several packages share."""

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Sums over threads of other tests' numbers would change the last bits."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_videos() -> list[Path]:
    """Real clips, from the folder in STVIT_TEST_VIDEOS or beside the checkout; else skips."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "videos"
    folder = Path(os.environ.get("STVIT_TEST_VIDEOS", beside))
    videos = sorted(path for path in folder.glob("*") if path.suffix in (".mp4", ".mkv", ".avi"))
    if not videos:
        pytest.skip("no real clips: set STVIT_TEST_VIDEOS to a folder of some")
    return videos
