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

# Codecs of which every packet holds one shown frame. (VP8, for one, has packets that are never
# shown, and only decoding tells which.)
_ONE_FRAME_A_PACKET = {"h264", "hevc", "av1", "vp9", "mjpeg", "mpeg4"}
# These may pack a B-frame into the packet before its own, with timestamps that are then wrong.
_MAY_BE_PACKED = {"mpeg4"}
# A packet as small as this shows no new frame: AVI's dropped frames, MPEG-4's "not coded".
_EMPTY_PACKET = {"mpeg4": 16}


class PacketInfo(NamedTuple):
    """What an index needs to know of one packet.

    Attributes:
        pts: presentation time in the stream's time base, if the container has one.
        size: in bytes.
        is_key: decoding can start here.
        is_hidden: an edit list cuts this frame out; it is decoded, for others refer to it.
        is_damaged: the container knows that it is not whole.
    """

    pts: int | None
    size: int
    is_key: bool = False
    is_hidden: bool = False
    is_damaged: bool = False


class FrameIndex:
    """Where each shown frame is: its timestamp, and the key frame to start decoding from.

    Attributes:
        pts: timestamps of the shown frames, in presentation order.
        has_open_groups: frames that are shown before a key frame are decoded after it.
    """

    def __init__(self, packets: Sequence[PacketInfo], *, time_base: Fraction) -> None:
        """Index packets in order of decoding, of which each has a pts of its own."""
        timed = [(p.pts, p.is_key, p.is_hidden) for p in packets if p.pts is not None]
        self.pts = sorted(pts for pts, _, is_hidden in timed if not is_hidden)
        self._time_base = time_base
        self._keys = sorted(pts for pts, is_key, _ in timed if is_key)
        self._hidden = {pts for pts, _, is_hidden in timed if is_hidden}
        self._decode_position = {pts: i for i, (pts, _, _) in enumerate(timed)}
        last_key, self.has_open_groups = timed[0][0], False
        for pts, is_key, _ in timed:
            last_key = pts if is_key else last_key
            self.has_open_groups |= pts < last_key

    @property
    def hides_frames(self) -> bool:
        """Whether an edit list cuts frames out."""
        return bool(self._hidden)

    @property
    def rate(self) -> Fraction | None:
        """Frames a second, on average; None for a single frame."""
        if len(self.pts) < 2:
            return None
        return (len(self.pts) - 1) / ((self.pts[-1] - self.pts[0]) * self._time_base)

    def times(self) -> list[Fraction]:
        """Seconds from the first frame to each frame."""
        return [(pts - self.pts[0]) * self._time_base for pts in self.pts]

    def holds(self, pts: int) -> bool:
        """Whether a packet, shown or hidden, has this timestamp."""
        return pts in self._decode_position

    def shows(self, pts: int) -> bool:
        """Whether the packet with this timestamp is shown."""
        return pts not in self._hidden

    def key_before(self, pts: int) -> int:
        """Timestamp of the last key frame shown at ``pts`` or earlier."""
        return self._keys[bisect_right(self._keys, pts) - 1]

    def decode_position(self, pts: int) -> int:
        """Place in the order of decoding of the packet with this timestamp."""
        return self._decode_position[pts]


def is_trustworthy(
    packets: Sequence[PacketInfo], *, codec: str, container: str, reorders: bool
) -> bool:
    """Whether packets alone tell which frames will be shown, and in what order.

    Args:
        packets: all packets of the stream in order of decoding.
        codec: FFmpeg's name of the codec.
        container: FFmpeg's name of the container format.
        reorders: frames may be shown in another order than they are decoded in.

    Returns:
        False where only decoding the whole stream gives the truth.
    """
    if codec not in _ONE_FRAME_A_PACKET:
        return False
    if reorders and (container == "avi" or codec in _MAY_BE_PACKED):
        return False  # AVI has no presentation times: FFmpeg makes them up
    empty = _EMPTY_PACKET.get(codec, 0)
    if any(packet.is_damaged or packet.size <= empty for packet in packets):
        return False
    times = [packet.pts for packet in packets if packet.pts is not None]
    if not times or len(times) < len(packets) or len(set(times)) < len(times):
        return False
    # Without a key frame first, or with frames shown before it, some may not be decodable.
    return packets[0].is_key and min(times) == times[0]


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
