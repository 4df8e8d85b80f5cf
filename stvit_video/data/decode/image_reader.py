"""An image as a video of one frame, so that all that is done to clips serves images too."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from stvit_video.data.decode.errors import VideoError
from stvit_video.data.decode.reader import FrameFunction, VideoReader


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
        VideoError: the file is missing, no image, not whole, or of more than 8 bits a pixel's grey.
    """
    try:
        with Image.open(path) as image:
            # Whose range nothing tells; Pillow would make white of all that is above 255.
            if image.mode.startswith(("I", "F")):
                raise VideoError(
                    path, f"its grey values have more than 8 bits ({image.mode}): convert it to 8"
                )
            turned = ImageOps.exif_transpose(image) if upright else image
            return torch.from_numpy(np.array(turned.convert("RGB")))
    except UnidentifiedImageError as error:
        raise VideoError(path, "it is no image that Pillow knows") from error
    # Pillow refuses pictures of more than 179 megapixels, which would fill the memory.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(path, reason) from error
