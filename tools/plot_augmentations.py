"""Draw each augmentation of a generated clip, for docs/augmentations.md.

python tools/plot_augmentations.py docs/augmentations
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from _program import program
from torch import Tensor

from stvit_video.data.augment.erasing import RandomErasing
from stvit_video.data.augment.mixing import Mixing
from stvit_video.data.augment.operations import OPERATIONS, ColorJitter, SampledOp, apply_ops
from stvit_video.data.augment.policy import parse_policy
from stvit_video.data.transforms import RandomResizedCrop, TrainTransform, resize
from stvit_video.figures.augmentations import Column, draw_columns, draw_soft_labels
from stvit_video.synthetic.motion import CLASSES, draw_camera_path, render

RAND_AUGMENT, AUTO_AUGMENT = "rand-m7-n4-mstd0.5-inc1", "original-mstd0.5"
# Number of frames and height of the generated videos.
_NUM_FRAMES, _SIDE = 16, 96
# Augmented samples in each figure.
_NUM_SAMPLES = 6


@program("plot_augmentations.py")
def main() -> None:
    """Parse the command line, and draw the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="output folder of the PNG files")
    for path in plot_augmentations(parser.parse_args().folder):
        print(path)


def plot_augmentations(folder: Path) -> list[Path]:
    """Draw a figure of each augmentation as a PNG file, with fixed seeds."""
    clip = make_clip("approach", seed=59)
    other = make_clip("clockwise", seed=13)
    figures = {
        "repeated_augmentation": _repeated(make_clip("approach", seed=59, width=128)),
        "operations_of_color": _operations(clip, move_pixels=False),
        "operations_of_place": _operations(clip, move_pixels=True),
        "rand_augment": _policy(clip, RAND_AUGMENT),
        "auto_augment": _policy(clip, AUTO_AUGMENT),
        "color_jitter": _color_jitter(clip),
        "random_erasing": _erasing(clip),
        "mixup": _mixing(clip, other, mixup_alpha=0.8, cutmix_alpha=0.0),
        "cutmix": _mixing(clip, other, mixup_alpha=0.0, cutmix_alpha=1.0),
    }
    paths = []
    for name, columns in figures.items():
        paths.append(folder / f"{name}.png")
        draw_columns(paths[-1], columns)
    paths.append(folder / "soft_labels.png")
    draw_soft_labels(paths[-1], CLASSES)
    return paths


def make_clip(motion: str, *, seed: int, width: int = _SIDE) -> Tensor:
    """Generate a clip of a motion video: uint8 [C, T, H, W]."""
    rng = np.random.default_rng(seed)
    path = draw_camera_path(CLASSES.index(motion), num_frames=_NUM_FRAMES, rng=rng)
    # Downsampling from twice the size removes most of the noise.
    frames = torch.from_numpy(render(path, height=2 * _SIDE, width=2 * width, rng=rng))
    return resize(frames, height=_SIDE, width=width)


def _repeated(clip: Tensor) -> list[Column]:
    transform = TrainTransform(
        RandomResizedCrop(_SIDE, area=(0.08, 1.0), aspect=(3 / 4, 4 / 3)),
        flip=True,
        augmentations=(
            parse_policy(RAND_AUGMENT, interpolation="bilinear"),
            _eraser("pixel", probability=0.25),
        ),
    )
    frames, generator = clip.permute(1, 2, 3, 0), torch.Generator().manual_seed(0)
    samples = [transform(frames, generator=generator) for _ in range(_NUM_SAMPLES)]
    titles = [f"sample {number}" for number in range(1, _NUM_SAMPLES + 1)]
    return [Column("decoded once", clip), *map(Column, titles, samples)]


def _operations(clip: Tensor, *, move_pixels: bool) -> list[Column]:
    columns = [Column("clip", clip)]
    for (op,) in parse_policy(RAND_AUGMENT, interpolation="bilinear").sub_policies:
        if op.name.startswith(("Rotate", "Shear", "Translate")) == move_pixels:
            sampled = SampledOp(op.name, OPERATIONS[op.name].argument(op.level))
            columns.append(Column(_describe([sampled]), apply_ops(clip, [sampled])))
    return columns


def _policy(clip: Tensor, text: str) -> list[Column]:
    policy = parse_policy(text, interpolation="bilinear")
    columns = [Column("clip", clip)]
    generator = torch.Generator().manual_seed(3)
    for _ in range(_NUM_SAMPLES):
        changes = policy.draw(generator=generator)
        columns.append(Column(_describe(changes), apply_ops(clip, changes)))
    return columns


def _color_jitter(clip: Tensor) -> list[Column]:
    columns = [Column("clip", clip)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(_NUM_SAMPLES):
        changes = ColorJitter(0.4).draw(generator=generator)
        columns.append(Column(_describe(changes), apply_ops(clip, changes)))
    return columns


def _erasing(clip: Tensor) -> list[Column]:
    columns = [Column("clip", clip)]
    generator = torch.Generator().manual_seed(0)
    for mode in 2 * ("pixel", "rand", "const"):
        columns.append(Column(mode, _eraser(mode)(clip, generator=generator)))
    return columns


def _mixing(
    clip: Tensor, other: Tensor, *, mixup_alpha: float, cutmix_alpha: float
) -> list[Column]:
    mixing = Mixing(
        2,
        label_smoothing=0.0,
        probability=1.0,
        mixup_alpha=mixup_alpha,
        cutmix_alpha=cutmix_alpha,
        switch_probability=0.0,
    )
    columns = [Column("first clip", clip), Column("second clip", other)]
    for seed in range(_NUM_SAMPLES - 1):
        batch = torch.stack([clip, other]).float()
        mixed, targets = mixing(batch, torch.tensor([0, 1]), seed=seed)
        title = "label\n{:.2f} first\n{:.2f} second".format(*targets[0].tolist())
        columns.append(Column(title, mixed[0].round().to(torch.uint8)))
    return columns


def _eraser(mode: str, *, probability: float = 1.0) -> RandomErasing:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return RandomErasing(probability, mode=mode, max_count=1, mean=mean, std=std)


def _describe(ops: Sequence[SampledOp]) -> str:
    lines = []
    for op in ops:
        name = op.name.removesuffix("Increasing")
        has_argument = name not in ("AutoContrast", "Equalize", "Invert")
        lines.append(f"{name} {round(op.argument, 2):g}" if has_argument else name)
    return "\n".join(lines) or "nothing"


if __name__ == "__main__":
    sys.exit(main())
