"""Operations of RandAugment and AutoAugment on uint8 clips, named as in timm, and color jitter."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

from stvit_video.data.transforms import uniform

# Input position (x, y) of an output position: (a x + b y + c, d x + e y + f), in pixels from the
# upper left corner.
Matrix = tuple[float, float, float, float, float, float]

# Levels of strength are from 0 to this.
MAX_LEVEL = 10.0
# Few enough for their floats to stay in the processor's cache, which saves a third of the time.
_FRAMES_AT_ONCE = 4
# Gray level of what a warp brings in from outside of the frame.
_FILL = 128


@dataclass(frozen=True)
class Operation:
    """What a level means to an operation.

    Attributes:
        argument: level -> the operation's own argument.
        is_signed: the level is made negative in half of the cases.
    """

    argument: Callable[[float], float] = lambda level: level
    is_signed: bool = False


@dataclass(frozen=True)
class Change:
    """An operation with its argument: all that is random about it has been drawn."""

    name: str
    argument: float


_ENHANCEMENT = Operation(lambda level: 0.1 + 0.18 * level)
_INCREASING_ENHANCEMENT = Operation(lambda level: 1 + 0.09 * level, is_signed=True)
_SHEAR = Operation(lambda level: 0.03 * level, is_signed=True)
_TRANSLATION = Operation(lambda level: 0.045 * level, is_signed=True)

# Whether more of a level is a stronger change depends on the operation; "Increasing" ones are
# stronger with more of it.
OPERATIONS: Mapping[str, Operation] = {
    "AutoContrast": Operation(),
    "Equalize": Operation(),
    "Invert": Operation(),
    # Degrees, counter-clockwise.
    "Rotate": Operation(lambda level: 3 * level, is_signed=True),
    # Bits that are kept; timm goes down to 0, but a black clip teaches nothing.
    "Posterize": Operation(lambda level: max(1, int(0.4 * level))),
    "PosterizeIncreasing": Operation(lambda level: max(1, 4 - int(0.4 * level))),
    "PosterizeOriginal": Operation(lambda level: 4 + int(0.4 * level)),
    # Gray level from which pixels are inverted.
    "Solarize": Operation(lambda level: int(25.6 * level)),
    "SolarizeIncreasing": Operation(lambda level: 256 - int(25.6 * level)),
    # Added to the dark half of the gray levels.
    "SolarizeAdd": Operation(lambda level: int(11 * level)),
    # Factors; 1 changes nothing.
    "Color": _ENHANCEMENT,
    "ColorIncreasing": _INCREASING_ENHANCEMENT,
    "Contrast": _ENHANCEMENT,
    "ContrastIncreasing": _INCREASING_ENHANCEMENT,
    "Brightness": _ENHANCEMENT,
    "BrightnessIncreasing": _INCREASING_ENHANCEMENT,
    "Sharpness": _ENHANCEMENT,
    "SharpnessIncreasing": _INCREASING_ENHANCEMENT,
    # Columns a row, rows a column.
    "ShearX": _SHEAR,
    "ShearY": _SHEAR,
    # Shares of the width, of the height.
    "TranslateXRel": _TRANSLATION,
    "TranslateYRel": _TRANSLATION,
}


def apply_changes(
    video: Tensor, changes: Sequence[Change], *, interpolation: str = "bilinear"
) -> Tensor:
    """Make changes one after another, all frames alike.

    Args:
        video: uint8 [C, T, H, W]; it is left as it is.
        changes: in order.
        interpolation: of rotations, shears and translations: "bilinear" or "bicubic".
    """
    parts = list(video.transpose(0, 1).split(_FRAMES_AT_ONCE))
    for place, frames in enumerate(parts):
        for change in changes:
            frames = _apply(change, frames, interpolation=interpolation)
        parts[place] = frames
    return torch.cat(parts).transpose(0, 1)


def _apply(change: Change, frames: Tensor, *, interpolation: str) -> Tensor:
    if change.name not in _MATRICES:
        return _PIXELS[change.name.removesuffix("Increasing")](frames, change.argument)
    matrix = _MATRICES[change.name](change.argument, *frames.shape[2:])
    return warp(frames, matrix, interpolation=interpolation)


def warp(frames: Tensor, matrix: Matrix, *, interpolation: str) -> Tensor:
    """Move the pixels of uint8 [T, C, H, W]; what comes from outside is gray.

    torchvision's affine has no bicubic interpolation for tensors, and takes twice the time, as it
    moves a mask with each frame to know where to fill in.
    """
    count, _, height, width = frames.shape
    x = torch.arange(width) + 0.5
    y = torch.arange(height)[:, None] + 0.5
    a, b, c, d, e, f = matrix
    from_x, from_y = a * x + b * y + c, d * x + e * y + f
    grid = torch.stack([2 * from_x / width - 1, 2 * from_y / height - 1], dim=-1)
    grids = grid.expand(count, -1, -1, -1)
    # Outside is 0, which becomes the gray.
    images = frames.float().sub_(_FILL)
    moved = F.grid_sample(images, grids, mode=interpolation, align_corners=False)
    return moved.add_(_FILL).round_().clamp_(0, 255).to(torch.uint8)


def _rotation(degrees: float, height: int, width: int) -> Matrix:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y


# Two take a fifth of the time in the right memory layout.
def _auto_contrast(frames: Tensor, _: float) -> Tensor:
    return tv.autocontrast(frames.contiguous())


def _sharpen(frames: Tensor, factor: float) -> Tensor:
    return tv.adjust_sharpness(frames.contiguous(memory_format=torch.channels_last), factor)


def _solarize(frames: Tensor, threshold: float) -> Tensor:
    # No byte reaches 256, which torchvision refuses.
    return frames if threshold > 255 else tv.solarize(frames, threshold)


def _solarize_add(frames: Tensor, addend: float) -> Tensor:
    # In bytes: 127 and the largest addend, 110, do not overflow.
    return frames + (frames < 128) * torch.tensor(int(addend), dtype=torch.uint8)


_MATRICES: Mapping[str, Callable[[float, int, int], Matrix]] = {
    "Rotate": _rotation,
    "ShearX": lambda share, height, width: (1, share, 0, 0, 1, 0),
    "ShearY": lambda share, height, width: (1, 0, 0, share, 1, 0),
    "TranslateXRel": lambda share, height, width: (1, 0, share * width, 0, 1, 0),
    "TranslateYRel": lambda share, height, width: (1, 0, 0, 0, 1, share * height),
}
_PIXELS: Mapping[str, Callable[[Tensor, float], Tensor]] = {
    "AutoContrast": _auto_contrast,
    "Equalize": lambda frames, _: tv.equalize(frames),
    "Invert": lambda frames, _: tv.invert(frames),
    "Posterize": lambda frames, bits: tv.posterize(frames, int(bits)),
    "PosterizeOriginal": lambda frames, bits: tv.posterize(frames, int(bits)),
    "Solarize": _solarize,
    "SolarizeAdd": _solarize_add,
    "Color": tv.adjust_saturation,
    "Contrast": tv.adjust_contrast,
    "Brightness": tv.adjust_brightness,
    "Sharpness": _sharpen,
}


_OPERATIONS = ("Brightness", "Contrast", "Color")


@dataclass(frozen=True)
class ColorJitter:
    """Changes brightness, contrast and saturation by random factors, in random order.

    Attributes:
        strength: the factors are drawn from 1 - strength to 1 + strength.
    """

    strength: float

    def __call__(self, video: Tensor, *, generator: torch.Generator) -> Tensor:
        """uint8 [C, T, H, W] to the same; all randomness comes from ``generator``."""
        return apply_changes(video, self.draw(generator=generator))

    def draw(self, *, generator: torch.Generator) -> list[Change]:
        """Draw what becomes of a clip."""
        low, high = 1 - self.strength, 1 + self.strength
        order = torch.randperm(len(_OPERATIONS), generator=generator).tolist()
        return [
            Change(_OPERATIONS[place], uniform(low, high, generator=generator)) for place in order
        ]
