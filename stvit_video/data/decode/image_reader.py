"""An image as a video of one frame, so that all that is done to clips serves images too."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from stvit_video.data.decode.errors import VideoError
from stvit_video.data.decode.reader import FrameFunction, VideoReader


class ImageReader(VideoReader):
    """Reads what Pillow reads, in RGB and without turning it, as ImageNet's users do.

    Args:
        path: the file.

    Raises:
        VideoError: the file is missing, no image, or not whole.
    """

    num_frames = 1
    fps = 1.0

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        try:
            with Image.open(path) as image:
                pixels = np.array(image.convert("RGB"))
        except UnidentifiedImageError as error:
            raise VideoError(path, "it is no image that Pillow knows") from error
        # Pillow refuses pictures of more than 179 megapixels, which would fill the memory.
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise VideoError(path, reason) from error
        self._frame = torch.from_numpy(pixels)

    def close(self) -> None:
        """Do nothing: the file is closed already."""

    def _decode(self, indices: list[int], keep: FrameFunction | None) -> Tensor:
        frame = self._frame if keep is None else keep(self._frame)
        return frame[None].expand(len(indices), -1, -1, -1)

    def _times(self) -> Sequence[Fraction]:
        return [Fraction(0)]
