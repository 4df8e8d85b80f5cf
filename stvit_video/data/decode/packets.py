"""Open a video file with FFmpeg's demuxer (PyAV), and index its frames by their packets."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from stvit_video.data.decode.reader import VideoError

# Playlists (HLS, concat) named .mp4 would make FFmpeg open other files and addresses.
_OPEN_OPTIONS = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi",
    "protocol_whitelist": "file",
}
# 8K UHD. A file of a few hundred KB can hold frames of 12000x12000, each a GB once decoded.
_MAX_PIXELS = 7680 * 4320
# Relative difference up to which the frame rate of the header and of the packets agree.
_RATE_TOLERANCE = 0.005
# Codecs in which every packet holds exactly one shown frame. (VP8, for example, has packets that
# are never shown, and only decoding identifies them.)
_ONE_FRAME_PER_PACKET = {"h264", "hevc", "av1", "vp9", "mjpeg", "mpeg4"}
# Codecs that may pack a B-frame into the packet of the previous frame, with wrong timestamps.
_PACKS_B_FRAMES = {"mpeg4"}
# Size in bytes up to which a packet shows no new frame: AVI's dropped frames, MPEG-4's "not coded".
_EMPTY_PACKET_SIZE = {"mpeg4": 16}


@contextmanager
def video_errors(path: str | Path) -> Iterator[None]:
    """Convert exceptions of PyAV inside the block to a `VideoError` of ``path``."""
    try:
        yield
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(path, error.strerror or str(error)) from error


def open_stream(path: str | Path) -> tuple[InputContainer, VideoStream]:
    """Open a local video file and select its best video stream, without decoding anything.

    Damaged files decode differently from run to run with FFmpeg's frame threads, so the decoder
    runs in one thread; a data loader has one process per core anyway.

    Returns:
        The container, to be closed by the caller, and the stream.

    Raises:
        VideoError: no such file, not a video file, no video stream, or frames above 8K.
    """
    with video_errors(path):
        # The prefix keeps FFmpeg from taking a file name with a colon for a protocol. Titles in
        # an old encoding are no reason to reject a file.
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


class PacketInfo(NamedTuple):
    """Properties of one packet that an index is built from.

    Attributes:
        pts: presentation time in the stream's time base, if the container has one.
        size: in bytes.
        is_key: decoding can start here.
        is_hidden: an edit list removes this frame; it is decoded, because others refer to it.
        is_damaged: the container marks it as incomplete.
    """

    pts: int | None
    size: int
    is_key: bool = False
    is_hidden: bool = False
    is_damaged: bool = False


class FrameIndex:
    """Timestamps of all shown frames, and the key frame to start decoding each from.

    Args:
        packets: in decoding order, each with a timestamp of its own.
        time_base: seconds per unit of the timestamps.

    Attributes:
        pts: timestamps of the shown frames, in presentation order.
        has_open_gops: some frames are shown before a key frame but decoded after it.
    """

    def __init__(self, packets: Sequence[PacketInfo], *, time_base: Fraction) -> None:
        timed = [(p.pts, p.is_key, p.is_hidden) for p in packets if p.pts is not None]
        self.pts = sorted(pts for pts, _, is_hidden in timed if not is_hidden)
        self._time_base = time_base
        self._keys = sorted(pts for pts, is_key, _ in timed if is_key)
        self._hidden = {pts for pts, _, is_hidden in timed if is_hidden}
        self._decode_position = {pts: i for i, (pts, _, _) in enumerate(timed)}
        last_key, self.has_open_gops = timed[0][0], False
        for pts, is_key, _ in timed:
            last_key = pts if is_key else last_key
            self.has_open_gops |= pts < last_key

    @property
    def has_hidden_frames(self) -> bool:
        """Whether an edit list removes frames."""
        return bool(self._hidden)

    @property
    def rate(self) -> Fraction | None:
        """Average frames per second; None for a single frame."""
        if len(self.pts) < 2:
            return None
        return (len(self.pts) - 1) / ((self.pts[-1] - self.pts[0]) * self._time_base)

    def times(self) -> list[Fraction]:
        """Return the seconds from the first frame to each frame."""
        return [(pts - self.pts[0]) * self._time_base for pts in self.pts]

    def has_packet(self, pts: int) -> bool:
        """Return whether a packet, shown or hidden, has this timestamp."""
        return pts in self._decode_position

    def is_shown(self, pts: int) -> bool:
        """Return whether the packet with this timestamp is shown."""
        return pts not in self._hidden

    def key_frame_before(self, pts: int) -> int:
        """Return the timestamp of the last key frame shown at ``pts`` or earlier."""
        return self._keys[bisect_right(self._keys, pts) - 1]

    def decode_position(self, pts: int) -> int:
        """Return the position in decoding order of the packet with this timestamp."""
        return self._decode_position[pts]


def read_index(container: InputContainer, stream: VideoStream) -> FrameIndex | None:
    """Read all packets of a stream without decoding; the container is at its end afterwards.

    Returns:
        The index, or None if only decoding gives the frames and their order.
    """
    packets = [
        PacketInfo(
            pts=packet.pts,
            size=packet.size,
            is_key=packet.is_keyframe,
            is_hidden=packet.is_discard,
            is_damaged=packet.is_corrupt,
        )
        for packet in container.demux(stream)
        if not _is_flush(packet)
    ]
    if not is_indexable(
        packets,
        codec=stream.codec_context.codec.canonical_name,
        container=container.format.name,
        reorders=stream.codec_context.has_b_frames,
    ):
        return None
    base = stream.time_base
    assert base is not None, "a container's stream has a time base"
    return FrameIndex(packets, time_base=Fraction(base.numerator, base.denominator))


def _is_flush(packet: Packet) -> bool:
    """PyAV ends each stream with an empty packet that flushes the decoder."""
    return packet.size == 0 and packet.pts is None and packet.dts is None


def is_indexable(
    packets: Sequence[PacketInfo], *, codec: str, container: str, reorders: bool
) -> bool:
    """Return whether packets alone determine the shown frames and their order.

    Args:
        packets: all packets of the stream in decoding order.
        codec: FFmpeg's name of the codec.
        container: FFmpeg's name of the container format.
        reorders: presentation order may differ from decoding order.

    Returns:
        False if only decoding the whole stream is reliable.
    """
    if codec not in _ONE_FRAME_PER_PACKET:
        return False
    if reorders and (container == "avi" or codec in _PACKS_B_FRAMES):
        return False  # AVI stores no presentation times, so FFmpeg synthesizes them
    empty = _EMPTY_PACKET_SIZE.get(codec, 0)
    if any(packet.is_damaged or packet.size <= empty for packet in packets):
        return False
    times = [packet.pts for packet in packets if packet.pts is not None]
    if not times or len(times) < len(packets) or len(set(times)) < len(times):
        return False
    # Frames without a key frame before them, or shown before it, may not be decodable.
    return packets[0].is_key and min(times) == times[0]


def frame_rate(stream: VideoStream, index: FrameIndex | None) -> Fraction:
    """Return the average frames per second; 1 if it is unknown (a single picture).

    The header's rate is used unless the packets disagree: with an edit list, or with frames that
    are not evenly spaced. (Matroska rounds times to milliseconds.)
    """
    header = stream.average_rate or stream.base_rate
    nominal = Fraction(header.numerator, header.denominator) if header else None
    measured = index.rate if index is not None else None
    if measured is None:
        return nominal or Fraction(1)
    agrees = nominal is not None and abs(nominal / measured - 1) < _RATE_TOLERANCE
    return nominal if nominal is not None and agrees else measured
