"""Random numbers of a training sample, all from the generator that is passed in."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import center_crop

from stvit_video.data.pytorchvideo import pytorchvideo_functional


def uniform(low: float, high: float, *, generator: torch.Generator) -> float:
    """Draw a number from ``low`` to ``high``."""
    share = torch.rand((), dtype=torch.float64, generator=generator)
    return low + (high - low) * float(share)


def normal(mean: float, std: float, *, generator: torch.Generator) -> float:
    """Draw a number of the normal distribution."""
    return mean + std * float(torch.randn((), dtype=torch.float64, generator=generator))


def below(limit: int, *, generator: torch.Generator) -> int:
    """Draw a whole number from 0 to ``limit`` - 1."""
    return int(torch.randint(limit, (), generator=generator))


def chance(probability: float, *, generator: torch.Generator) -> bool:
    """Draw whether something happens."""
    return uniform(0.0, 1.0, generator=generator) < probability


# Draws of an area and an aspect ratio until both fit into the frame, as in torchvision.
_BOX_TRIES = 10


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels of a frame."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, frames: Tensor) -> Tensor:
        """The rectangle as a view of frames [..., H, W, C]."""
        rows = slice(self.top, self.top + self.height)
        return frames[..., rows, self.left : self.left + self.width, :]

    def within(self, video: Tensor) -> Tensor:
        """The rectangle as a view of a video [..., H, W]."""
        return video[..., self.top : self.top + self.height, self.left : self.left + self.width]


def draw_box(
    height: int,
    width: int,
    *,
    area: tuple[float, float],
    aspect: tuple[float, float],
    generator: torch.Generator,
) -> Box | None:
    """Draw a rectangle anywhere in a frame, or None if no one of several draws fits into it.

    Args:
        height: of the frame.
        width: of the frame.
        area: range of the rectangle's share of the frame, drawn uniformly.
        aspect: range of its width / height, drawn uniformly on a logarithmic scale.
        generator: source of the draws.
    """
    low, high = (math.log(limit) for limit in aspect)
    for _ in range(_BOX_TRIES):
        pixels = height * width * uniform(*area, generator=generator)
        ratio = math.exp(uniform(low, high, generator=generator))
        box_height, box_width = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
        if 0 < box_height <= height and 0 < box_width <= width:
            top = below(height - box_height + 1, generator=generator)
            left = below(width - box_width + 1, generator=generator)
            return Box(top, left, box_height, box_width)
    return None


def resize(frames: Tensor, *, height: int, width: int, interpolation: str = "bilinear") -> Tensor:
    """Resize uint8 [T, H, W, C] to [C, T, height, width], with antialiasing.

    Args:
        frames: uint8 [T, H, W, C].
        height: of what comes out.
        width: of what comes out.
        interpolation: "bilinear" or "bicubic".
    """
    if frames.shape[1:3] == (height, width):
        return frames.permute(3, 0, 1, 2)
    images = F.interpolate(
        frames.permute(0, 3, 1, 2), size=(height, width), mode=interpolation, antialias=True
    )
    return images.permute(1, 0, 2, 3)


def resize_short_side(frames: Tensor, side: int, *, interpolation: str = "bilinear") -> Tensor:
    """Resize uint8 [T, H, W, C] to [C, T, h, w], the shorter of h and w being ``side``."""
    height, width = frames.shape[1:3]
    short = min(height, width)
    size = {"height": height * side // short, "width": width * side // short}
    return resize(frames, **size, interpolation=interpolation)


@dataclass(frozen=True)
class RandomResizedCrop:
    """Cuts out a rectangle of random area and aspect ratio, and resizes it to a square.

    Attributes:
        size: S.
        area: range of the rectangle's share of the frame, drawn uniformly.
        aspect: range of its width / height, drawn uniformly on a logarithmic scale.
    """

    size: int
    area: tuple[float, float]
    aspect: tuple[float, float]

    def __call__(self, frames: Tensor, *, generator: torch.Generator) -> Tensor:
        """uint8 [T, H, W, C] to [C, T, S, S]; only the rectangle is resized."""
        box = self.draw(frames.shape[1], frames.shape[2], generator=generator)
        return resize(box.cut(frames), height=self.size, width=self.size)

    def draw(self, height: int, width: int, *, generator: torch.Generator) -> Box:
        """Draw the rectangle; the largest in the middle, if none of several draws fits."""
        box = draw_box(height, width, area=self.area, aspect=self.aspect, generator=generator)
        if box is not None:
            return box
        box_height = min(height, round(width / self.aspect[0]))
        box_width = min(width, round(height * self.aspect[1]))
        return Box((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


@dataclass(frozen=True)
class JitteredCrop:
    """Cuts a square out of the frame as if its short side had been resized to a random length.

    Attributes:
        size: S.
        short_sides: range of the short side, inclusive; at least S.
    """

    size: int
    short_sides: tuple[int, int]

    def __call__(self, frames: Tensor, *, generator: torch.Generator) -> Tensor:
        """uint8 [T, H, W, C] to [C, T, S, S]; only the square is resized."""
        box = self.draw(frames.shape[1], frames.shape[2], generator=generator)
        return resize(box.cut(frames), height=self.size, width=self.size)

    def draw(self, height: int, width: int, *, generator: torch.Generator) -> Box:
        """Draw the square in the frame's own pixels."""
        low, high = self.short_sides
        short_side = low + below(high - low + 1, generator=generator)
        side = max(1, round(min(height, width) * self.size / short_side))
        top = below(height - side + 1, generator=generator)
        left = below(width - side + 1, generator=generator)
        return Box(top, left, side, side)


@dataclass
class CutOnce:
    """Cuts one rectangle out of all frames it is given, be they given one by one.

    Attributes:
        draw: (height, width) of a frame -> the rectangle; called with the first frame.
        box: the rectangle, once it is drawn.
    """

    draw: Callable[[int, int], Box]
    box: Box | None = None

    def __call__(self, frames: Tensor) -> Tensor:
        """[..., H, W, C] to a view of the rectangle."""
        if self.box is None:
            height, width = frames.shape[-3:-1]
            self.box = self.draw(height, width)
        return self.box.cut(frames)


@dataclass(frozen=True)
class TrainTransform:
    """A random crop, then a mirrored picture in half of the cases if ``flip`` is set.

    It can be had in two steps: what `cut` takes out of each frame as it is decoded, so that whole
    frames need not be kept, is all that `finish` needs.

    Attributes:
        crop: draws what to cut out.
        flip: mirror half of the clips left to right.
        augmentations: made after these, in order; each maps uint8 [C, T, S, S] to the same and
            takes the ``generator``.
        interpolation: of the resizing, "bilinear" or "bicubic".
    """

    crop: RandomResizedCrop | JitteredCrop
    flip: bool
    augmentations: tuple[Callable[..., Tensor], ...] = ()
    interpolation: str = "bilinear"

    def __call__(self, frames: Tensor, *, generator: torch.Generator) -> Tensor:
        """uint8 [T, H, W, C] to [C, T, S, S]; all randomness comes from ``generator``."""
        return self.finish(self.cut(generator=generator)(frames), generator=generator)

    def cut(self, *, generator: torch.Generator) -> CutOnce:
        """The first step for one clip; it draws when it sees the first frame."""
        return CutOnce(partial(self.crop.draw, generator=generator))

    def finish(self, frames: Tensor, *, generator: torch.Generator) -> Tensor:
        """The second step: uint8 [T, h, w, C], already cut, to [C, T, S, S]."""
        size = self.crop.size
        video = resize(frames, height=size, width=size, interpolation=self.interpolation)
        if self.flip and chance(0.5, generator=generator):
            video = video.flip(-1)
        for augment in self.augmentations:
            video = augment(video, generator=generator)
        return video


@dataclass(frozen=True)
class SpatialCrops:
    """The deterministic squares of validation and test, out of the resized frame.

    Attributes:
        short_side: what the frame's short side is resized to; at least S.
        size: S.
        count: 1, the center; or 3: left, center, right of a wide frame, top, center, bottom of a
            tall one.
        interpolation: of the resizing, "bilinear" or "bicubic".
        of_images: a single center lies where torchvision and timm have it; else, as PySlowFast
            has it for videos, a margin of an odd number of pixels is larger at the left and top.
    """

    short_side: int
    size: int
    count: int = 1
    interpolation: str = "bilinear"
    of_images: bool = False

    def resize(self, frame: Tensor) -> Tensor:
        """One frame, uint8 [H, W, C] to [h, w, C]."""
        resized = resize_short_side(frame[None], self.short_side, interpolation=self.interpolation)
        return resized[:, 0].permute(1, 2, 0)

    def crop(self, video: Tensor) -> list[Tensor]:
        """[C, T, h, w] to ``count`` views of it, [C, T, S, S] each."""
        if self.of_images and self.count == 1:
            return [center_crop(video, [self.size, self.size])]
        uniform_crop = pytorchvideo_functional().uniform_crop
        positions = (1,) if self.count == 1 else (0, 1, 2)
        return [uniform_crop(video, self.size, position) for position in positions]
