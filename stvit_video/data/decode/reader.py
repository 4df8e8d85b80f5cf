"""The interface of a video reader, the same for every backend, and the reader of images."""

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


class VideoError(UserError):
    """A video file that cannot be opened or decoded.

    It keeps ``path`` and ``reason`` apart, so that a data set can add the line of its CSV file,
    and it can be pickled, so that it travels from a worker process as it is.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(str(path), reason)
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot read the video {self.path}: {self.reason}"


# uint8 [H, W, 3] to uint8 [h, w, 3]
FrameFunction = Callable[[Tensor], Tensor]

# 0.2 as a float is a little more than the 1/5 s at which a frame is shown.
_MICROSECOND = Fraction(1, 1_000_000)


class VideoReader(Video):
    """An open video file that decodes only the frames it is asked for.

    A reader holds the decoder's state: use it in the process and the thread that opened it, and
    close it (it is a context manager). As PyTorchVideo's ``Video`` it can stand in for
    ``EncodedVideo``; audio is never decoded, and frames stay uint8.

    Attributes:
        path: the file.
        num_frames: how many frames can be shown; frame ``i`` is the ``i``-th that ffmpeg shows.
        fps: frames a second, on average.
    """

    path: str
    num_frames: int
    fps: float

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return Path(self.path).name

    @property
    def duration(self) -> float:
        """Length in seconds; the last frame is shown for one average period."""
        return self.num_frames / self.fps

    def get_frames(
        self, indices: Sequence[int] | Tensor, *, keep: FrameFunction | None = None
    ) -> Tensor:
        """Decode frames, in any order and with repetitions.

        Frames are decoded in ascending order and each at most once, so one call for all clips of
        a video is cheaper than a call for each.

        Args:
            indices: [T] positions in presentation order, each in ``[0, num_frames)``.
            keep: what to keep of each frame, such as a part of it, or all of it resized; called
                as soon as the frame is decoded, so that whole frames are not held in memory
                together. It may return a view. None: all of it.

        Returns:
            RGB frames, uint8 [T, H, W, 3], upright, or what ``keep`` makes of them.

        Raises:
            VideoError: the file is damaged.
            IndexError: an index is out of range.
        """
        requested = torch.as_tensor(indices, dtype=torch.int64)
        distinct, position = torch.unique(requested, return_inverse=True)
        if len(distinct) and not 0 <= distinct[0] <= distinct[-1] < self.num_frames:
            raise IndexError(
                f"frames {int(distinct[0])} to {int(distinct[-1])} of a video of {self.num_frames}"
            )
        frames = self._decode(distinct.tolist(), keep)
        return frames if torch.equal(requested, distinct) else frames[position]

    def get_clip(
        self, start_sec: float | Fraction, end_sec: float | Fraction
    ) -> dict[str, Tensor | None]:
        """Decode all frames shown from ``start_sec`` on and before ``end_sec``.

        Times count from the first frame, and are compared to the microsecond.

        Returns:
            ``{"video": uint8 [3, T, H, W], "audio": None}``; the video too is None where no frame
            lies between the two times, as PyTorchVideo's data sets expect it.
        """
        times = self._times()
        first, end = (bisect_left(times, sec - _MICROSECOND) for sec in (start_sec, end_sec))
        inside = range(first, end)
        video = self.get_frames(inside).permute(3, 0, 1, 2) if inside else None
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
    def _decode(self, indices: list[int], keep: FrameFunction | None) -> Tensor:
        """Decode frames of distinct, ascending indices to uint8 [T, h, w, 3]."""

    @abstractmethod
    def _times(self) -> Sequence[Fraction]:
        """Seconds from the first frame to each frame."""


class ImageReader(VideoReader):
    """Reads what Pillow reads, in RGB, the pixels as they are stored.

    An orientation in the EXIF data does not turn them: ImageNet's users and torchvision's
    ``CocoDetection`` read so, and COCO's boxes, masks and sizes are of the stored pixels.

    Args:
        path: the file.

    Raises:
        VideoError: the file is missing, no image, or not whole.
    """

    num_frames = 1
    fps = 1.0

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._frame = read_image(path)

    def close(self) -> None:
        """Do nothing: the file is closed already."""

    def _decode(self, indices: list[int], keep: FrameFunction | None) -> Tensor:
        frame = self._frame if keep is None else keep(self._frame)
        return frame[None].expand(len(indices), -1, -1, -1)

    def _times(self) -> Sequence[Fraction]:
        return [Fraction(0)]


def read_image(path: str | Path, *, upright: bool = False) -> Tensor:
    """Read an image, uint8 ``[H, W, 3]``.

    Args:
        path: the file.
        upright: turn it as its EXIF orientation says, for photos as cameras and phones store them.

    Raises:
        VideoError: the file is missing, no image, not whole, or of more than 8 bits a pixel's gray.
    """
    try:
        with Image.open(path) as image:
            # Whose range nothing tells; Pillow would make white of all that is above 255.
            if image.mode.startswith(("I", "F")):
                raise VideoError(
                    path, f"its gray values have more than 8 bits ({image.mode}): convert it to 8"
                )
            turned = ImageOps.exif_transpose(image) if upright else image
            return torch.from_numpy(np.array(turned.convert("RGB")))
    except UnidentifiedImageError as error:
        raise VideoError(path, "it is no image that Pillow knows") from error
    # Pillow refuses pictures of more than 179 megapixels, which would fill the memory.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(path, reason) from error
