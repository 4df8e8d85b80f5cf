"""Files that cannot be read, one for each way, and files that are odd but good."""

import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from made_videos import HEVC, X264, moving_noise

from stvit_video.data.encode import write_video

# Width and height of an AVI's stream lie so far behind the name of its format chunk.
_SIZE_OFFSET = 12


def _plain(path: Path) -> bytes:
    """Write a good file, and return what is in it."""
    write_video(path, moving_noise(12), fps=25, codec="mpeg4", options={"g": "4"})
    return path.read_bytes()


def _truncated(path: Path) -> None:
    data = _plain(path)
    path.write_bytes(data[: len(data) // 2])


def _damaged(path: Path) -> None:
    write_video(path, moving_noise(40), fps=25, options=X264)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 2000
    for place in np.random.default_rng(0).integers(start, start + 4000, 60):
        data[place] ^= 0xFF
    path.write_bytes(data)


def _sound_alone(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        samples = np.zeros((1, 1024), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _without_frames(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()


def _huge_frames(path: Path) -> None:
    write_video(path, moving_noise(12), fps=25, codec="rawvideo", pixel_format="bgr24")
    data = bytearray(path.read_bytes())
    place = data.index(b"strf") + _SIZE_OFFSET
    assert struct.unpack_from("<i", data, place) == (64,)
    struct.pack_into("<ii", data, place, 12000, 12000)
    path.write_bytes(data)


def _playlist(path: Path) -> None:
    target = path.with_name("target of a playlist.mp4")
    _plain(target)
    lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:9", "#EXTINF:9,", str(target), "#EXT-X-ENDLIST", ""]
    path.write_text("\n".join(lines))


def _concatenation(path: Path) -> None:
    target = path.with_name("target of a list.mp4")
    _plain(target)
    path.write_text(f"ffconcat version 1.0\nfile '{target}'\n")


# {file name: (how it is made, part of the reason it is refused for)}
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing.mp4": (lambda path: None, "No such file"),
    "empty.mp4": (lambda path: path.touch(), "Invalid data"),
    "truncated.mp4": (_truncated, "Invalid data"),
    "text.mp4": (lambda path: path.write_bytes(b"not a video " * 99), "Invalid data"),
    "noise.mp4": (
        lambda path: path.write_bytes(np.random.default_rng(0).bytes(9999)),
        "Invalid data",
    ),
    "damaged.mp4": (_damaged, "damaged|can be decoded|Invalid data"),
    "sound_alone.mp4": (_sound_alone, "no video stream"),
    "without_frames.mp4": (_without_frames, "no video stream"),
    "without_frames.mkv": (_without_frames, "End of file"),
    "huge_frames.avi": (_huge_frames, "12000x12000"),
    "playlist.mp4": (_playlist, "Invalid data"),
    "concatenation.mp4": (_concatenation, "Invalid"),
    "folder.mp4": (lambda path: path.mkdir(), "Is a directory"),
    "broken_link.mp4": (lambda path: path.symlink_to(path.with_name("gone.mp4")), "No such file"),
    "circular_link.mp4": (lambda path: path.symlink_to(path), "symbolic links"),
    "forbidden_folder.mp4/a.mp4": (lambda path: path.parent.touch(), "Not a directory"),
}


def _encoded(codec: str, *, height: int = 48, width: int = 64, frames: int = 12, **options: str):
    def make(path: Path) -> None:
        pixel_format = options.pop("pixel_format", "yuv420p")
        pictures = moving_noise(frames, height=height, width=width)
        write_video(path, pictures, fps=25, codec=codec, options=options, pixel_format=pixel_format)

    return make


def _rotated(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.height, stream.width = 48, 64
        stream.set_display_rotation(90)
        for pixels in moving_noise(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def _wrongly_stamped(path: Path) -> None:
    """Pairs of frames with one time, a jump of an hour, and a start that is not 0."""
    plain = path.with_name(f"stamped well, {path.name}")
    write_video(plain, moving_noise(12), fps=25, options={**X264, "bf": "0"})
    with av.open(str(plain)) as before, av.open(str(path), "w") as after:
        copy = after.add_stream_from_template(before.streams.video[0])
        for number, packet in enumerate(before.demux(video=0)):
            if packet.pts is not None:
                time = 5000 + number // 2 + 3_600_000 * (number > 7)
                packet.pts = packet.dts = time
                packet.stream = copy
                after.mux(packet)


def _titled_in_an_old_encoding(path: Path) -> None:
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "TITLE"
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for pixels in moving_noise(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes().replace(b"TITLE", b"\xff\xfe\xe9\xe8\xe0"))


# {file name: (how it is made, its number of frames, height, width)}
ODD: dict[str, tuple[Callable[[Path], object], tuple[int, int, int]]] = {
    "rotated.mp4": (_rotated, (12, 64, 48)),
    "odd_sides.mkv": (
        _encoded("libx264", height=47, width=63, pixel_format="yuv444p"),
        (12, 47, 63),
    ),
    "one_frame.mp4": (_encoded("libx264", frames=1), (1, 48, 64)),
    "ten_bit.mkv": (_encoded("libx264", pixel_format="yuv420p10le", **X264), (12, 48, 64)),
    "hevc.mp4": (_encoded("libx265", **HEVC), (12, 48, 64)),
    "av1.mp4": (_encoded("libsvtav1", height=64, preset="12"), (12, 64, 64)),
    "vp9.webm": (_encoded("libvpx-vp9", **{"cpu-used": "8", "deadline": "realtime"}), (12, 48, 64)),
    "mpeg4.avi": (_encoded("mpeg4"), (12, 48, 64)),
    "wrongly_stamped.mkv": (_wrongly_stamped, (12, 48, 64)),
    "old_title.mkv": (_titled_in_an_old_encoding, (12, 48, 64)),
}


def make_broken_videos(folder: Path) -> list[str]:
    """Make one file of each kind in BROKEN; returns their names."""
    for name, (make, _) in BROKEN.items():
        make(folder / name)
    return list(BROKEN)


def make_odd_videos(folder: Path) -> list[str]:
    """Make one file of each kind in ODD; returns their names."""
    for name, (make, _) in ODD.items():
        make(folder / name)
    return list(ODD)
