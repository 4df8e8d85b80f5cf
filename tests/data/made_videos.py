"""Small video files of many kinds, and the plain way to read them."""

from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]


def moving_noise(num_frames: int, *, height: int = 48, width: int = 64, seed: int = 0) -> Frames:
    """Frames of which no two are alike: [T, H, W, 3]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    picture = coarse.repeat(8, 0).repeat(8, 1)[:height, :width]
    frames = np.stack([np.roll(picture, 2 * i, axis=1) for i in range(num_frames)])
    for i, frame in enumerate(frames):
        row, column = i % (height - 6), 3 * i % (width - 6)
        frame[row : row + 6, column : column + 6] = (255, 4 * i % 256, 0)
    return frames


def plain_decode(path: Path) -> Frames:
    """All frames in the order in which FFmpeg shows them, through its own filter chain."""
    frames = []
    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.best("video")
        stream.thread_type = "NONE"
        graph = av.filter.Graph()
        graph.link_nodes(
            graph.add_buffer(template=stream), graph.add("format", "rgb24"), graph.add("buffersink")
        ).configure()
        for frame in container.decode(stream):
            graph.vpush(frame)
            frames.append(graph.vpull().to_ndarray())
    return np.stack(frames)


def cut_without_decoding(source: Path, target: Path, *, frames: int) -> None:
    """Cut frames off the start by an edit list, as ``ffmpeg -ss ... -c copy`` does."""
    options = {"avoid_negative_ts": "disabled"}
    with av.open(str(source)) as before, av.open(str(target), "w", options=options) as after:
        copy = after.add_stream_from_template(before.streams.video[0])
        for packet in before.demux(video=0):
            if packet.pts is not None:
                packet.pts -= frames * packet.duration
                packet.dts -= frames * packet.duration
                packet.stream = copy
                after.mux(packet)


X264 = {"preset": "ultrafast", "bf": "3", "g": "12"}
OPEN_GROUPS = {
    "preset": "veryfast",
    "x264-params": "open-gop=1:keyint=12:min-keyint=12:bframes=3:b-pyramid=normal:scenecut=0",
}
INTRA_REFRESH = {
    "preset": "veryfast",
    "x264-params": "intra-refresh=1:keyint=12:bframes=0",
}
HEVC = {"preset": "ultrafast", "x265-params": "keyint=12:bframes=3:log-level=none"}
# name: (encoder, its options, pixel format)
KINDS = {
    "b_frames.mp4": ("libx264", X264, "yuv420p"),
    "b_frames.mkv": ("libx264", X264, "yuv420p"),
    "b_frames.avi": ("libx264", X264, "yuv420p"),
    "open_groups.mp4": ("libx264", OPEN_GROUPS, "yuv420p"),
    "open_groups.mkv": ("libx264", OPEN_GROUPS, "yuv420p"),
    "intra_refresh.mp4": ("libx264", INTRA_REFRESH, "yuv420p"),
    "ten_bit.mkv": ("libx264", X264, "yuv420p10le"),
    "odd_sides.mkv": ("libx264", X264, "yuv444p"),
    "hevc.mp4": ("libx265", HEVC, "yuv420p"),
    "mpeg4.avi": ("mpeg4", {"g": "10"}, "yuv420p"),
    "mpeg4_b_frames.avi": ("mpeg4", {"g": "10", "bf": "2"}, "yuv420p"),
    "mpeg4_b_frames.mp4": ("mpeg4", {"g": "10", "bf": "2"}, "yuv420p"),
    "motion_jpeg.avi": ("mjpeg", {}, "yuvj420p"),
    "vp8.webm": ("libvpx", {"g": "12", "auto-alt-ref": "1", "lag-in-frames": "8"}, "yuv420p"),
}
CUT = "edit_list.mp4"
