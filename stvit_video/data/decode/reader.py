"""Define the video reader interface that all backends share, and the image reader."""

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from pytorchvideo.data.video import Video
from torch import Tensor

from stvit_video.errors import UserError

# Maps uint8 [H, W, 3] to uint8 [h, w, 3].
FrameTransform = Callable[[Tensor], Tensor]

# Tolerance of comparisons of times: 0.2 as a float is slightly more than the 1/5 s at which a
# frame is shown.
_MICROSECOND = Fraction(1, 1_000_000)


class VideoError(UserError):
    """A video file that cannot be opened or decoded.

    ``path`` and ``reason`` are separate attributes, so that a data set can add the line of its CSV
    file. The error can be pickled, so worker processes can raise it.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(str(path), reason)
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot read the video {self.path}: {self.reason}"


class VideoReader(Video):
    """An open video file that decodes only the requested frames.

    A reader holds the decoder's state: use it in the process and thread that opened it, and close
    it (it is a context manager). It is a PyTorchVideo ``Video`` and can replace ``EncodedVideo``;
    audio is never decoded, and frames stay uint8.

    Attributes:
        path: the file.
        num_frames: number of shown frames; frame ``i`` is the ``i``-th that ffmpeg shows.
        fps: average frames per second.
    """

    path: str
    num_frames: int
    fps: float

    @property
    def name(self) -> str:
        """Name of the file without its folder."""
        return Path(self.path).name

    @property
    def duration(self) -> float:
        """Length in seconds; the last frame is shown for one average frame period."""
        return self.num_frames / self.fps

    def get_frames(
        self, indices: Sequence[int] | Tensor, *, transform: FrameTransform | None = None
    ) -> Tensor:
        """Decode frames, in any order and with repetitions.

        Frames are decoded in ascending order and at most once each, so one call for all clips of
        a video is cheaper than one call per clip.

        Args:
            indices: [T] positions in presentation order, each in ``[0, num_frames)``.
            transform: applied to each frame as soon as it is decoded, such as a crop or a resize,
                so that memory never holds all full-size frames. It may return a view.

        Returns:
            RGB frames, uint8 [T, H, W, 3], upright and transformed.

        Raises:
            VideoError: the file is damaged.
            IndexError: an index is out of range.
        """
        requested = torch.as_tensor(indices, dtype=torch.int64)
        distinct, position = torch.unique(requested, return_inverse=True)
        if len(distinct) and not 0 <= distinct[0] <= distinct[-1] < self.num_frames:
            raise IndexError(
                f"frame indices must be in [0, {self.num_frames}), but they range from "
                f"{int(distinct[0])} to {int(distinct[-1])}"
            )
        frames = self._decode(distinct.tolist(), transform)
        return frames if torch.equal(requested, distinct) else frames[position]

    def get_clip(
        self, start_sec: float | Fraction, end_sec: float | Fraction
    ) -> dict[str, Tensor | None]:
        """Decode all frames shown at or after ``start_sec`` and before ``end_sec``.

        Times are relative to the first frame and compared to the microsecond.

        Returns:
            ``{"video": uint8 [3, T, H, W], "audio": None}``; the video is also None if there is no
            frame between the two times, as PyTorchVideo's data sets expect.
        """
        times = self._times()
        first, end = (bisect_left(times, sec - _MICROSECOND) for sec in (start_sec, end_sec))
        indices = range(first, end)
        video = self.get_frames(indices).permute(3, 0, 1, 2) if indices else None
        return {"video": video, "audio": None}

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Free the decoder; closing twice is allowed."""

    @abstractmethod
    def _decode(self, indices: list[int], transform: FrameTransform | None) -> Tensor:
        """Decode frames of distinct, ascending indices to uint8 [T, h, w, 3]."""

    @abstractmethod
    def _times(self) -> Sequence[Fraction]:
        """Return the seconds from the first frame to each frame."""


class ImageReader(VideoReader):
    """Reads an image with Pillow as a video of one RGB frame, with the pixels as stored.

    The EXIF orientation is ignored, as in torchvision's ``ImageFolder`` and ``CocoDetection``:
    COCO's boxes, masks and sizes refer to the stored pixels.

    Args:
        path: the file.

    Raises:
        VideoError: the file is missing, not an image, or truncated.
    """

    num_frames = 1
    fps = 1.0

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._frame = read_image(path)

    def close(self) -> None:
        """Do nothing, as the file is closed after it is read."""

    def _decode(self, indices: list[int], transform: FrameTransform | None) -> Tensor:
        frame = self._frame if transform is None else transform(self._frame)
        return frame[None].expand(len(indices), -1, -1, -1)

    def _times(self) -> Sequence[Fraction]:
        return [Fraction(0)]


def read_image(path: str | Path, *, upright: bool = False) -> Tensor:
    """Read an image to uint8 ``[H, W, 3]``.

    Args:
        path: the file.
        upright: apply the EXIF orientation, for photos of cameras and phones.

    Raises:
        VideoError: the file is missing, not an image, truncated, or has more than 8 bits per gray
            value.
    """
    try:
        with Image.open(path) as image:
            # The range of these modes is unknown, and Pillow would clip values above 255.
            if image.mode.startswith(("I", "F")):
                raise VideoError(
                    path,
                    f"its gray values have more than 8 bits (mode {image.mode}); convert it to 8",
                )
            oriented = ImageOps.exif_transpose(image) if upright else image
            return torch.from_numpy(np.array(oriented.convert("RGB")))
    except UnidentifiedImageError as error:
        raise VideoError(path, "Pillow cannot identify the image") from error
    # Pillow rejects pictures of more than 179 megapixels, which would fill the memory.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(path, reason) from error
