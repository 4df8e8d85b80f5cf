"""Operations of RandAugment and AutoAugment on uint8 clips, named as in timm, and color jitter."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

from stvit_video.data.transforms import uniform

# Affine map from an output position to the input position (x, y) it shows:
# (a x + b y + c, d x + e y + f), in pixels from the upper left corner.
Matrix = tuple[float, float, float, float, float, float]

# Levels of operations range from 0 to this.
MAX_LEVEL = 10.0
# Few enough frames for their floats to stay in the CPU cache, which saves a third of the time.
_FRAMES_PER_CHUNK = 4
# Gray level of pixels that a warp brings in from outside the frame.
_FILL = 128


@dataclass(frozen=True)
class Operation:
    """Specification of an operation: the meaning of its level.

    Attributes:
        argument: maps the level to the operation's argument.
        is_signed: the level is negated with probability 0.5.
    """

    argument: Callable[[float], float] = lambda level: level
    is_signed: bool = False


_ENHANCEMENT = Operation(lambda level: 0.1 + 0.18 * level)
_INCREASING_ENHANCEMENT = Operation(lambda level: 1 + 0.09 * level, is_signed=True)
_SHEAR = Operation(lambda level: 0.03 * level, is_signed=True)
_TRANSLATION = Operation(lambda level: 0.045 * level, is_signed=True)

# Whether a higher level is a stronger change depends on the operation; it is for the variants
# named "Increasing".
OPERATIONS: Mapping[str, Operation] = {
    "AutoContrast": Operation(),
    "Equalize": Operation(),
    "Invert": Operation(),
    # Degrees, counterclockwise.
    "Rotate": Operation(lambda level: 3 * level, is_signed=True),
    # Number of bits kept. timm goes down to 0, but a black clip is useless for training.
    "Posterize": Operation(lambda level: max(1, int(0.4 * level))),
    "PosterizeIncreasing": Operation(lambda level: max(1, 4 - int(0.4 * level))),
    "PosterizeOriginal": Operation(lambda level: 4 + int(0.4 * level)),
    # Gray level from which pixels are inverted.
    "Solarize": Operation(lambda level: int(25.6 * level)),
    "SolarizeIncreasing": Operation(lambda level: 256 - int(25.6 * level)),
    # Added to gray levels below 128.
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
    # Shift in columns per row, in rows per column.
    "ShearX": _SHEAR,
    "ShearY": _SHEAR,
    # Shift relative to the width, to the height.
    "TranslateXRel": _TRANSLATION,
    "TranslateYRel": _TRANSLATION,
}


@dataclass(frozen=True)
class SampledOp:
    """An operation and its argument, after all random numbers are drawn."""

    name: str
    argument: float


def apply_ops(
    video: Tensor, ops: Sequence[SampledOp], *, interpolation: str = "bilinear"
) -> Tensor:
    """Apply operations one after another, equally to all frames.

    Args:
        video: uint8 [C, T, H, W]; not modified.
        ops: in order.
        interpolation: of rotations, shears and translations: "bilinear" or "bicubic".
    """
    chunks = list(video.transpose(0, 1).split(_FRAMES_PER_CHUNK))
    for i, frames in enumerate(chunks):
        for op in ops:
            frames = _apply_op(op, frames, interpolation=interpolation)
        chunks[i] = frames
    return torch.cat(chunks).transpose(0, 1)


def _apply_op(op: SampledOp, frames: Tensor, *, interpolation: str) -> Tensor:
    if op.name not in _AFFINE_OPS:
        return _PIXEL_OPS[op.name.removesuffix("Increasing")](frames, op.argument)
    matrix = _AFFINE_OPS[op.name](op.argument, *frames.shape[2:])
    return warp(frames, matrix, interpolation=interpolation)


def warp(frames: Tensor, matrix: Matrix, *, interpolation: str) -> Tensor:
    """Warp frames, uint8 [T, C, H, W]; pixels from outside the frame are gray.

    torchvision's affine has no bicubic interpolation for tensors, and takes twice the time because
    it warps a mask with each frame to know which pixels to fill.
    """
    count, _, height, width = frames.shape
    x = torch.arange(width) + 0.5
    y = torch.arange(height)[:, None] + 0.5
    a, b, c, d, e, f = matrix
    from_x, from_y = a * x + b * y + c, d * x + e * y + f
    grid = torch.stack([2 * from_x / width - 1, 2 * from_y / height - 1], dim=-1)
    grids = grid.expand(count, -1, -1, -1)
    # grid_sample fills with 0, so shift gray to 0.
    images = frames.float().sub_(_FILL)
    warped = F.grid_sample(images, grids, mode=interpolation, align_corners=False)
    return warped.add_(_FILL).round_().clamp_(0, 255).to(torch.uint8)


def _rotation(degrees: float, height: int, width: int) -> Matrix:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y


_AFFINE_OPS: Mapping[str, Callable[[float, int, int], Matrix]] = {
    "Rotate": _rotation,
    "ShearX": lambda share, height, width: (1, share, 0, 0, 1, 0),
    "ShearY": lambda share, height, width: (1, 0, 0, share, 1, 0),
    "TranslateXRel": lambda share, height, width: (1, 0, share * width, 0, 1, 0),
    "TranslateYRel": lambda share, height, width: (1, 0, 0, 0, 1, share * height),
}


# Autocontrast and sharpening take a fifth of the time in the right memory format.
def _auto_contrast(frames: Tensor, _: float) -> Tensor:
    return tv.autocontrast(frames.contiguous())


def _sharpen(frames: Tensor, factor: float) -> Tensor:
    return tv.adjust_sharpness(frames.contiguous(memory_format=torch.channels_last), factor)


def _solarize(frames: Tensor, threshold: float) -> Tensor:
    # torchvision rejects a threshold of 256, which no pixel reaches.
    return frames if threshold > 255 else tv.solarize(frames, threshold)


def _solarize_add(frames: Tensor, addend: float) -> Tensor:
    # The sum fits uint8: at most 127 plus the largest addend, 110.
    return frames + (frames < 128) * torch.tensor(int(addend), dtype=torch.uint8)


_PIXEL_OPS: Mapping[str, Callable[[Tensor, float], Tensor]] = {
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

_JITTERED = ("Brightness", "Contrast", "Color")


@dataclass(frozen=True)
class ColorJitter:
    """Changes brightness, contrast and saturation by random factors, in random order.

    Attributes:
        strength: the factors are drawn from 1 - strength to 1 + strength.
    """

    strength: float

    def __call__(self, video: Tensor, *, generator: torch.Generator) -> Tensor:
        """Jitter a clip, uint8 [C, T, H, W], with random numbers of ``generator``."""
        return apply_ops(video, self.draw(generator=generator))

    def draw(self, *, generator: torch.Generator) -> list[SampledOp]:
        """Draw the operations for a clip."""
        low, high = 1 - self.strength, 1 + self.strength
        order = torch.randperm(len(_JITTERED), generator=generator).tolist()
        return [SampledOp(_JITTERED[i], uniform(low, high, generator=generator)) for i in order]
