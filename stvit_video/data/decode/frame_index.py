"""The presentation order of a video's frames, from its packets, without decoding them."""

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

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
