"""The frames of the default reader are identical to those of the ffmpeg program.

The program comes from imageio-ffmpeg, so it is another build of FFmpeg than PyAV's.
"""

import hashlib
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from made_videos import moving_noise

from stvit_video.data.decode import open_video

NUM_FRAMES, HEIGHT, WIDTH, GROUP = 48, 64, 96, 12
H264 = ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p"]
CLOSED = [*H264, "-bf", "3", "-g", f"{GROUP}"]
OPEN = [*H264, "-x264-params"]
OPEN += [f"open-gop=1:keyint={GROUP}:min-keyint={GROUP}:bframes=3:b-adapt=0:scenecut=0"]
HEVC = ["-c:v", "libx265", "-preset", "veryfast", "-pix_fmt", "yuv420p"]
HEVC += ["-x265-params", f"keyint={GROUP}:bframes=3:log-level=none"]
MPEG4 = ["-c:v", "mpeg4", "-g", f"{GROUP}"]
# Alternate reference frames: packets that hold a hidden frame besides the shown one.
VP9 = ["-c:v", "libvpx-vp9", "-pix_fmt", "yuv420p", "-g", f"{GROUP}"]
VP9 += ["-cpu-used", "8", "-auto-alt-ref", "1", "-lag-in-frames", "16"]
AV1 = ["-c:v", "libaom-av1", "-pix_fmt", "yuv420p", "-g", f"{GROUP}", "-cpu-used", "8"]
UNEVEN = ["-vf", "select='not(between(mod(n,10),3,5))'", "-fps_mode", "vfr"]
# {file name: ffmpeg options for encoding the frames}
ENCODED = {
    "closed_groups.mp4": CLOSED,
    "closed_groups.mkv": CLOSED,
    "closed_groups.avi": CLOSED,
    "open_groups.mp4": OPEN,
    "open_groups.mkv": OPEN,
    "hevc.mp4": HEVC,
    "mpeg4.mp4": MPEG4,
    "mpeg4_b_frames.avi": [*MPEG4, "-bf", "2"],
    "vp9.webm": VP9,
    "av1.mp4": AV1,
    "uneven_times.mp4": [*UNEVEN, *CLOSED],
    "uneven_times.mkv": [*UNEVEN, *CLOSED],
}
# {file name: (ffmpeg options before the input, file whose packets are copied)}
COPIED = {
    "edit_list.mp4": (["-ss", "0.7"], "closed_groups.mp4"),
    "edit_list_open_groups.mp4": (["-ss", "0.7"], "open_groups.mp4"),
    "rotated.mp4": (["-display_rotation", "90"], "closed_groups.mp4"),
}


def ffmpeg(*options: str | Path, frames: bytes = b"") -> bytes:
    """Run ffmpeg with ``frames`` as its standard input, and return its standard output."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-threads", "1", *map(str, options)]
    return subprocess.run(command, input=frames, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def ffmpeg_video(tmp_path_factory) -> Callable[[str], Path]:
    """Return a function from a name in ENCODED or COPIED to such a file."""
    folder = tmp_path_factory.mktemp("ffmpeg")
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", "25", "-i", "-"]
    frames = moving_noise(NUM_FRAMES, height=HEIGHT, width=WIDTH).tobytes()

    def make(name: str) -> Path:
        path = folder / name
        if not path.exists() and name in COPIED:
            options, source = COPIED[name]
            ffmpeg(*options, "-i", make(source), "-c", "copy", path)
        elif not path.exists():
            ffmpeg(*raw, *ENCODED[name], path, frames=frames)
        return path

    return make


def ffmpeg_hashes(path: Path) -> list[str]:
    """MD5 of each RGB frame that ffmpeg shows, without frames repeated or dropped for the rate."""
    options = ["-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "framemd5"]
    lines = ffmpeg("-i", path, "-an", *options, "-").decode().splitlines()
    return [line.rpartition(",")[2].strip() for line in lines if not line.startswith("#")]


def assert_frames_match_ffmpeg(path: Path, *, reads: int) -> None:
    """Read ``reads`` frames, some repeatedly, in random order and in calls of random sizes."""
    expected = ffmpeg_hashes(path)
    rng = random.Random(path.name)
    with open_video(path) as reader:
        assert reader.num_frames == len(expected), path.name
        order = rng.choices(range(len(expected)), k=reads)
        while order:
            size = rng.choice((1, 2, 5, 16))
            indices, order = order[:size], order[size:]
            frames = reader.get_frames(indices).numpy()
            hashes = [hashlib.md5(frame.tobytes()).hexdigest() for frame in frames]
            assert hashes == [expected[index] for index in indices], (path.name, indices)


@pytest.mark.parametrize("name", [*ENCODED, *COPIED])
def test_random_access_matches_ffmpeg(ffmpeg_video, name):
    assert_frames_match_ffmpeg(ffmpeg_video(name), reads=4 * NUM_FRAMES)


def test_real_clips_match_ffmpeg(real_videos):
    for path in real_videos:
        assert_frames_match_ffmpeg(path, reads=24)


def test_the_generated_files_have_their_features(ffmpeg_video):
    with open_video(ffmpeg_video("rotated.mp4")) as reader:
        assert reader.get_frames([0]).shape == (1, WIDTH, HEIGHT, 3)
    for name in ("edit_list.mp4", "edit_list_open_groups.mp4"):
        with open_video(ffmpeg_video(name)) as reader:
            assert 0 < reader.num_frames < NUM_FRAMES
    for name in ("open_groups.mp4", "open_groups.mkv", "hevc.mp4"):
        with open_video(ffmpeg_video(name)) as reader:
            assert reader._source._index.has_open_gops, name
    for name in ("uneven_times.mp4", "uneven_times.mkv"):
        with open_video(ffmpeg_video(name)) as reader:
            assert np.ptp(np.diff(np.array(reader._times(), float))) > 0.1, name
