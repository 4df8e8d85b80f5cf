"""Reading frames with both backends: random access, clips in seconds, rotation, bad files."""

import pickle
import random

import av
import numpy as np
import pytest
import torch
from av.video.stream import VideoStream
from made_videos import CUT, KINDS, X264, moving_noise, plain_decode

from stvit_video.data.decode import BACKENDS, VideoError, open_video
from stvit_video.data.encode import write_video

# Videos that decord decodes differently from ffmpeg; DecordReader documents why.
DECORD_DIFFERS = ("intra_refresh.mp4", "ten_bit.mkv")


def random_requests(num_frames: int, *, calls: int = 25) -> list[list[int]]:
    """Lists of indices: single ones, runs, strides and jumps, also backwards, with repetitions."""
    rng = random.Random(0)
    lists = []
    for call in range(calls):
        start, step = rng.randrange(num_frames), rng.choice((1, 2, 5, -1, -7))
        stepping = [(start + step * i) % num_frames for i in range(rng.choice((1, 3, 8)))]
        lists.append(stepping if call % 2 else rng.choices(range(num_frames), k=4))
    return lists


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [*KINDS, CUT])
def test_random_access_matches_plain_decoding(video_kinds, name, backend):
    if backend == "decord" and name in DECORD_DIFFERS:
        pytest.skip("a known limitation of decord")
    path = video_kinds(name)
    expected = plain_decode(path)
    with open_video(path, backend=backend) as reader:
        assert reader.num_frames == len(expected)
        for indices in random_requests(len(expected)):
            np.testing.assert_array_equal(reader.get_frames(indices), expected[indices])


@pytest.mark.parametrize("name", ["b_frames.mp4", "mpeg4_b_frames.avi"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_frames_are_transformed_as_they_are_decoded(video_kinds, name, backend):
    path, indices = video_kinds(name), [30, 2, 39, 2, *range(10, 20)]
    expected = plain_decode(path)[indices][:, 5:25, ::2]
    with open_video(path, backend=backend) as reader:
        frames = reader.get_frames(indices, transform=lambda frame: frame[5:25, ::2])
    np.testing.assert_array_equal(frames, expected)


def test_an_edit_list_hides_frames(video_kinds):
    with open_video(video_kinds(CUT)) as reader:
        assert reader.num_frames == 40 - 17
        assert reader.duration == pytest.approx(23 / 25)


@pytest.mark.parametrize("name", ["b_frames.mp4", "open_groups.mkv", "mpeg4_b_frames.avi"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_clips_in_seconds(video_kinds, name, backend):
    path = video_kinds(name)
    expected = plain_decode(path)
    with open_video(path, backend=backend) as reader:
        assert reader.fps == 25
        assert reader.duration == 1.6
        clip = reader.get_clip(0.2, 0.6)
        assert clip["video"].dtype == torch.uint8
        np.testing.assert_array_equal(clip["video"], expected[5:15].transpose(3, 0, 1, 2))
        assert clip["audio"] is None
        assert reader.get_clip(-1, 0.01)["video"].shape[1] == 1
        assert reader.get_clip(1.6, 2.0)["video"] is None


def test_seeks_only_backwards_and_to_later_groups_of_pictures(tmp_path):
    path = tmp_path / "groups.mp4"
    write_video(path, moving_noise(60), fps=25, options={**X264, "bf": "0", "g": "40"})
    seeks = []
    with open_video(path) as reader:
        reader._source._container = Spy(reader._source._container, seeks)
        for index in (3, 9, 10, 30):
            reader.get_frames([index])
        assert len(seeks) == 1
        reader.get_frames([20, 30])
        assert len(seeks) == 2
        reader.get_frames([31, 55])
        assert len(seeks) == 3


class Spy:
    """A container that records the offsets of its seeks."""

    def __init__(self, container, seeks):
        self.container, self.seeks = container, seeks

    def seek(self, offset, **options):
        self.seeks.append(offset)
        self.container.seek(offset, **options)

    def __getattr__(self, name):
        return getattr(self.container, name)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (180, 2), (-90, 3)])
def test_rotated_videos_are_upright(tmp_path, degrees, turns, backend):
    if not hasattr(VideoStream, "set_display_rotation"):
        pytest.skip("writing such files needs PyAV 18")
    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.height, stream.width = 64, 96
        stream.set_display_rotation(degrees)
        for pixels in moving_noise(3, height=64, width=96):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    expected = np.rot90(plain_decode(path), turns, axes=(1, 2))
    with open_video(path, backend=backend) as reader:
        np.testing.assert_array_equal(reader.get_frames([0, 1, 2]), expected)


def bad_files(folder, whole):
    """Write bad files; return {file name: part of the expected error}."""
    data = whole.read_bytes()
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{whole}\n#EXT-X-ENDLIST\n"
    contents = {
        "empty.mp4": b"",
        "text.mp4": b"not a video " * 99,
        "cut.mp4": data[: len(data) // 2],
        "playlist.mp4": playlist.encode(),
        "concat.mp4": f"ffconcat version 1.0\nfile '{whole}'\n".encode(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder.mp4").mkdir()
    write_sound(folder / "sound.mp4")
    return {
        **dict.fromkeys(contents, "Invalid"),
        "folder.mp4": "directory",
        "missing.mp4": "No such file",
        "sound.mp4": "no video stream",
    }


def write_sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        samples = np.zeros((1, 1024), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_files_raise_an_error_with_the_reason(tmp_path, video_kinds, backend):
    for name, reason in bad_files(tmp_path, video_kinds("b_frames.mp4")).items():
        with pytest.raises(VideoError, match=reason) as caught:
            open_video(tmp_path / name, backend=backend)
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("backend", BACKENDS)
def test_huge_frames_are_rejected(video_kinds, monkeypatch, backend):
    monkeypatch.setattr("stvit_video.data.decode.packets._MAX_PIXELS", 48 * 64 - 1)
    with pytest.raises(VideoError, match="64x48"):
        open_video(video_kinds("b_frames.mp4"), backend=backend)


def test_damage_inside_a_file_raises_an_error(tmp_path, video_kinds):
    data = bytearray(video_kinds("b_frames.mp4").read_bytes())
    rng = np.random.default_rng(0)
    start = data.index(b"mdat") + 2000
    for place in rng.integers(start, start + 4000, 60):
        data[place] ^= 0xFF
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    with pytest.raises(VideoError, match=r"damaged|can be decoded|Invalid"), open_video(path) as r:
        r.get_frames(range(r.num_frames))


def test_a_file_name_with_a_colon_is_not_a_url(tmp_path):
    path = tmp_path / "http:video.mp4"
    source = tmp_path / "video.mp4"
    write_video(source, moving_noise(2), fps=5)
    source.rename(path)
    with open_video(path) as reader:
        assert reader.num_frames == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_index_out_of_range_raises_index_error(video_kinds, backend):
    with open_video(video_kinds("b_frames.mp4"), backend=backend) as reader:
        for index in (-1, 40):
            with pytest.raises(IndexError):
                reader.get_frames([0, index])


def test_video_error_can_be_pickled():
    error = pickle.loads(pickle.dumps(VideoError("a.mp4", "broken")))
    assert (error.path, error.reason) == ("a.mp4", "broken")
    assert str(error) == "cannot read the video a.mp4: broken"


def test_real_clips_match_plain_decoding(real_videos):
    for path in real_videos:
        expected = plain_decode(path)
        total = len(expected)
        clip = [(total // 3 + 2 * i) % total for i in range(32)]
        for backend in BACKENDS:
            with open_video(path, backend=backend) as reader:
                assert reader.num_frames == total, path.name
                frames = reader.get_frames(clip).numpy()
                np.testing.assert_array_equal(frames, expected[clip], err_msg=path.name)
