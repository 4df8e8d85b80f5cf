"""Broken files raise a one-line error; unusual but valid files are read."""

import gc
from pathlib import Path

import numpy as np
import psutil
import pytest
from broken_videos import BROKEN, ODD, make_broken_videos
from made_videos import plain_decode

from stvit_video.data.decode import BACKENDS, VideoError, open_video

# decord's FFmpeg cannot decode AV1, and rotates incorrectly at this size.
DECORD_FAILS = {"av1.mp4", "rotated.mp4"}
DECORD_READS_GARBAGE = {"damaged.mp4"}


@pytest.fixture(scope="module")
def broken_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken")
    make_broken_videos(folder)
    return folder


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_raises_an_error_with_the_reason(broken_folder, name, backend):
    if backend == "decord" and name in DECORD_READS_GARBAGE:
        pytest.skip("a known limitation of decord")
    path = broken_folder / name
    with pytest.raises(VideoError) as caught, open_video(path, backend=backend) as reader:
        reader.get_frames(range(reader.num_frames))
    assert caught.match(BROKEN[name][1])
    assert str(caught.value).startswith(f"cannot read the video {path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ODD)
def test_an_unusual_file_is_read(tmp_path, name):
    make, (frames, height, width) = ODD[name]
    path = tmp_path / name
    make(path)
    for backend in BACKENDS:
        if backend == "decord" and name in DECORD_FAILS:
            with pytest.raises(VideoError), open_video(path, backend=backend) as reader:
                reader.get_frames([0])
            continue
        with open_video(path, backend=backend) as reader:
            read = reader.get_frames(range(reader.num_frames))
        assert read.shape == (frames, height, width, 3)
        if name != "rotated.mp4" and (backend, name) != ("decord", "ten_bit.mkv"):
            np.testing.assert_array_equal(read, plain_decode(path))


@pytest.mark.parametrize("backend", BACKENDS)
def test_broken_files_leak_no_memory_files_or_threads(broken_folder, backend):
    process = psutil.Process()

    def open_all(times):
        for name in list(BROKEN) * times:
            try:
                with open_video(broken_folder / name, backend=backend) as reader:
                    reader.get_frames(range(reader.num_frames))
            except VideoError:
                pass
        gc.collect()
        return process.memory_info().rss, process.num_fds(), process.num_threads()

    rss, files, threads = open_all(2)
    later_rss, later_files, later_threads = open_all(15)  # 240 files
    assert (later_files, later_threads) == (files, threads)
    assert later_rss - rss < 10 * 2**20


def test_a_symlink_is_followed(tmp_path):
    ODD["mpeg4.avi"][0](tmp_path / "there.avi")
    (tmp_path / "link.avi").symlink_to(Path("there.avi"))
    with open_video(tmp_path / "link.avi") as reader:
        assert reader.num_frames == 12
