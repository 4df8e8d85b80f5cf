"""Opening a video file with FFmpeg's demuxer (PyAV), and reading its packets."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from stvit_video.data.decode.errors import VideoError
from stvit_video.data.decode.frame_index import FrameIndex, PacketInfo, is_trustworthy

# Playlists (HLS, concat) named .mp4 would make FFmpeg open other files and addresses.
_OPEN_OPTIONS = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi",
    "protocol_whitelist": "file",
}
# 8K UHD. A file of a few hundred KB can hold frames of 12000x12000, a GB once they are decoded.
_MAX_PIXELS = 7680 * 4320
_RATE_TOLERANCE = 0.005


@contextmanager
def video_errors(path: str | Path) -> Iterator[None]:
    """Turn what PyAV raises inside the block into a `VideoError` of ``path``."""
    try:
        yield
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(path, error.strerror or str(error)) from error


def open_stream(path: str | Path) -> tuple[InputContainer, VideoStream]:
    """Open a local video file and pick its best video stream, without decoding anything.

    Damaged files decode differently from run to run with FFmpeg's frame threads, so the decoder
    runs in one thread; a data loader has a process for each core anyway.

    Returns:
        The container, which the caller closes, and the stream.

    Raises:
        VideoError: no such file, not a video file, no video stream, or frames above 8K.
    """
    with video_errors(path):
        # The prefix keeps a name with a colon from being taken for a protocol.
        # Titles in an old encoding are no reason to refuse a file.
        container = av.open(f"file:{path}", options=_OPEN_OPTIONS, metadata_errors="replace")
    try:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream):
            raise VideoError(path, "it has no video stream")
        context = stream.codec_context
        if context is None:
            raise VideoError(path, "FFmpeg has no decoder for its video stream")
        if not 0 < context.width * context.height <= _MAX_PIXELS:
            size = f"{context.width}x{context.height}"
            raise VideoError(path, f"its frames of {size} are empty or larger than 8K (7680x4320)")
        context.thread_type = "NONE"
        context.options = {"max_pixels": str(_MAX_PIXELS)}
    except BaseException:
        container.close()
        raise
    return container, stream


def read_index(container: InputContainer, stream: VideoStream) -> FrameIndex | None:
    """Read all packets of a stream, without decoding; the container is at its end afterwards.

    Returns:
        The index, or None where only decoding gives the frames and their order.
    """
    packets = [_info(packet) for packet in container.demux(stream) if not _is_flush(packet)]
    if not is_trustworthy(
        packets,
        codec=stream.codec_context.codec.canonical_name,
        container=container.format.name,
        reorders=stream.codec_context.has_b_frames,
    ):
        return None
    base = stream.time_base
    assert base is not None, "a container's stream has a time base"
    return FrameIndex(packets, time_base=Fraction(base.numerator, base.denominator))


def frame_rate(stream: VideoStream, index: FrameIndex | None) -> Fraction:
    """Frames a second, on average; 1 where nothing tells (a single picture).

    It is what the header says, unless the packets say otherwise: an edit list, or frames that
    are not evenly spaced. (In Matroska, times are rounded to milliseconds.)
    """
    header = stream.average_rate or stream.base_rate
    nominal = Fraction(header.numerator, header.denominator) if header else None
    measured = index.rate if index is not None else None
    if measured is None:
        return nominal or Fraction(1)
    agrees = nominal is not None and abs(nominal / measured - 1) < _RATE_TOLERANCE
    return nominal if nominal is not None and agrees else measured


def _info(packet: Packet) -> PacketInfo:
    return PacketInfo(
        pts=packet.pts,
        size=packet.size,
        is_key=packet.is_keyframe,
        is_hidden=packet.is_discard,
        is_damaged=packet.is_corrupt,
    )


def _is_flush(packet: Packet) -> bool:
    """PyAV ends each stream with an empty packet that makes the decoder give its last frames."""
    return packet.size == 0 and packet.pts is None and packet.dts is None
