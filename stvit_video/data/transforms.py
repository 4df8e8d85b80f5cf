"""Crop, resize and flip uint8 clips; all random numbers come from the generator passed in."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import center_crop

from stvit_video.data.pytorchvideo import pytorchvideo_functional

# Attempts to draw a box that fits into the frame, as in torchvision.
_BOX_ATTEMPTS = 10


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels in a frame."""

    top: int
    left: int
    height: int
    width: int

    def crop_frames(self, frames: Tensor) -> Tensor:
        """Return the rectangle as a view of frames [..., H, W, C]."""
        rows = slice(self.top, self.top + self.height)
        return frames[..., rows, self.left : self.left + self.width, :]

    def crop_video(self, video: Tensor) -> Tensor:
        """Return the rectangle as a view of a video [..., H, W]."""
        return video[..., self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True)
class RandomCrop(ABC):
    """Crop a random rectangle, and resize only that rectangle to a square.

    Attributes:
        size: S.
    """

    size: int

    def __call__(self, frames: Tensor, *, generator: torch.Generator) -> Tensor:
        """Map uint8 [T, H, W, C] to [C, T, S, S]."""
        box = self.draw(frames.shape[1], frames.shape[2], generator=generator)
        return resize(box.crop_frames(frames), height=self.size, width=self.size)

    @abstractmethod
    def draw(self, height: int, width: int, *, generator: torch.Generator) -> Box:
        """Draw the rectangle, in pixels of the original frame."""


@dataclass(frozen=True)
class RandomResizedCrop(RandomCrop):
    """Crop a rectangle of random area and aspect ratio, and resize it to a square [S, S].

    Attributes:
        area: range of the rectangle's area relative to the frame, drawn uniformly.
        aspect: range of its width / height, drawn uniformly on a logarithmic scale.
    """

    area: tuple[float, float]
    aspect: tuple[float, float]

    def draw(self, height: int, width: int, *, generator: torch.Generator) -> Box:
        """Draw the rectangle; if none fits, it is the largest one in the center."""
        box = draw_box(height, width, area=self.area, aspect=self.aspect, generator=generator)
        if box is not None:
            return box
        box_height = min(height, round(width / self.aspect[0]))
        box_width = min(width, round(height * self.aspect[1]))
        return Box((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


@dataclass(frozen=True)
class JitteredCrop(RandomCrop):
    """Crop a random square as if the short side of the frame had been resized to a random length.

    Attributes:
        short_sides: range of the short side, inclusive; at least S.
    """

    short_sides: tuple[int, int]

    def draw(self, height: int, width: int, *, generator: torch.Generator) -> Box:
        """Draw the square, in pixels of the original frame."""
        low, high = self.short_sides
        short_side = low + randint(high - low + 1, generator=generator)
        side = max(1, round(min(height, width) * self.size / short_side))
        top = randint(height - side + 1, generator=generator)
        left = randint(width - side + 1, generator=generator)
        return Box(top, left, side, side)


@dataclass
class LazyCrop:
    """Crop the same rectangle from all frames, which may come one by one.

    Attributes:
        draw: maps (height, width) of the first frame to the rectangle.
        box: the rectangle; None before the first frame.
    """

    draw: Callable[[int, int], Box]
    box: Box | None = None

    def __call__(self, frames: Tensor) -> Tensor:
        """Return the rectangle as a view of frames [..., H, W, C]."""
        if self.box is None:
            height, width = frames.shape[-3:-1]
            self.box = self.draw(height, width)
        return self.box.crop_frames(frames)


@dataclass(frozen=True)
class TrainTransform:
    """A random crop, a random horizontal flip and augmentations.

    It can also be applied in two steps: `make_crop` returns a crop to apply to each frame as it is
    decoded, so whole frames need not be kept, and `finish` does the rest.

    Attributes:
        crop: draws the rectangle to crop.
        flip: whether to flip half of the clips horizontally.
        augmentations: applied last, in order; each maps uint8 [C, T, S, S] to the same shape and
            takes the ``generator``.
        interpolation: "bilinear" or "bicubic".
    """

    crop: RandomCrop
    flip: bool
    augmentations: tuple[Callable[..., Tensor], ...] = ()
    interpolation: str = "bilinear"

    def __call__(self, frames: Tensor, *, generator: torch.Generator) -> Tensor:
        """Map uint8 [T, H, W, C] to [C, T, S, S]."""
        return self.finish(self.make_crop(generator=generator)(frames), generator=generator)

    def make_crop(self, *, generator: torch.Generator) -> LazyCrop:
        """Return the crop of one clip, which is drawn at the first frame."""
        return LazyCrop(partial(self.crop.draw, generator=generator))

    def finish(self, frames: Tensor, *, generator: torch.Generator) -> Tensor:
        """Map uint8 [T, h, w, C], already cropped, to [C, T, S, S]."""
        size = self.crop.size
        video = resize(frames, height=size, width=size, interpolation=self.interpolation)
        if self.flip and bernoulli(0.5, generator=generator):
            video = video.flip(-1)
        for augment in self.augmentations:
            video = augment(video, generator=generator)
        return video


@dataclass(frozen=True)
class SpatialCrops:
    """The deterministic square crops of validation and test, taken from the resized frame.

    Attributes:
        short_side: length that the frame's short side is resized to; at least S.
        size: S.
        count: 1: the center; 3: left, center and right of a landscape frame, top, center and bottom
            of a portrait frame.
        interpolation: "bilinear" or "bicubic".
        for_images: round the position of a single center crop as torchvision and timm do for
            images; otherwise as PySlowFast does for videos, where the left and top margins get the
            odd pixel.
    """

    short_side: int
    size: int
    count: int = 1
    interpolation: str = "bilinear"
    for_images: bool = False

    def resize(self, frame: Tensor) -> Tensor:
        """Resize one frame, uint8 [H, W, C] to [h, w, C]."""
        resized = resize_short_side(frame[None], self.short_side, interpolation=self.interpolation)
        return resized[:, 0].permute(1, 2, 0)

    def crop(self, video: Tensor) -> list[Tensor]:
        """Return ``count`` crops of [C, T, h, w], views of [C, T, S, S] each."""
        if self.for_images and self.count == 1:
            return [center_crop(video, [self.size, self.size])]
        uniform_crop = pytorchvideo_functional().uniform_crop
        positions = (1,) if self.count == 1 else (0, 1, 2)
        return [uniform_crop(video, self.size, position) for position in positions]


def draw_box(
    height: int,
    width: int,
    *,
    area: tuple[float, float],
    aspect: tuple[float, float],
    generator: torch.Generator,
) -> Box | None:
    """Draw a random rectangle in a frame, or return None if none fits after several attempts.

    Args:
        height: height of the frame.
        width: width of the frame.
        area: range of the rectangle's area relative to the frame, drawn uniformly.
        aspect: range of its width / height, drawn uniformly on a logarithmic scale.
        generator: source of the random numbers.
    """
    low, high = (math.log(limit) for limit in aspect)
    for _ in range(_BOX_ATTEMPTS):
        pixels = height * width * uniform(*area, generator=generator)
        ratio = math.exp(uniform(low, high, generator=generator))
        box_height, box_width = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
        if 0 < box_height <= height and 0 < box_width <= width:
            top = randint(height - box_height + 1, generator=generator)
            left = randint(width - box_width + 1, generator=generator)
            return Box(top, left, box_height, box_width)
    return None


def resize(frames: Tensor, *, height: int, width: int, interpolation: str = "bilinear") -> Tensor:
    """Resize uint8 [T, H, W, C] to [C, T, height, width], with antialiasing.

    Args:
        frames: uint8 [T, H, W, C].
        height: height of the output.
        width: width of the output.
        interpolation: "bilinear" or "bicubic".
    """
    if frames.shape[1:3] == (height, width):
        return frames.permute(3, 0, 1, 2)
    images = F.interpolate(
        frames.permute(0, 3, 1, 2), size=(height, width), mode=interpolation, antialias=True
    )
    return images.permute(1, 0, 2, 3)


def resize_short_side(frames: Tensor, side: int, *, interpolation: str = "bilinear") -> Tensor:
    """Resize uint8 [T, H, W, C] to [C, T, h, w], where the shorter of h and w is ``side``."""
    height, width = frames.shape[1:3]
    short = min(height, width)
    return resize(
        frames,
        height=height * side // short,
        width=width * side // short,
        interpolation=interpolation,
    )


def uniform(low: float, high: float, *, generator: torch.Generator) -> float:
    """Draw a number uniformly from ``low`` to ``high``."""
    fraction = torch.rand((), dtype=torch.float64, generator=generator)
    return low + (high - low) * float(fraction)


def normal(mean: float, std: float, *, generator: torch.Generator) -> float:
    """Draw a number from a normal distribution."""
    return mean + std * float(torch.randn((), dtype=torch.float64, generator=generator))


def randint(high: int, *, generator: torch.Generator) -> int:
    """Draw an integer uniformly from 0 to ``high`` - 1."""
    return int(torch.randint(high, (), generator=generator))


def bernoulli(probability: float, *, generator: torch.Generator) -> bool:
    """Return True with a probability."""
    return uniform(0.0, 1.0, generator=generator) < probability
