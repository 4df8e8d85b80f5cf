"""Pictures of what augmentations make of a clip: columns are draws, rows are frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from stvit_video.data.augment.erasing import RandomErasing
from stvit_video.data.augment.mixing import Mixing
from stvit_video.data.augment.operations import OPERATIONS, Change, ColorJitter, apply_changes
from stvit_video.data.augment.policy import parse_policy
from stvit_video.data.transforms import RandomResizedCrop, TrainTransform, resize
from stvit_video.synthetic.motion import CLASSES, draw_camera_path, render

RAND_AUGMENT, AUTO_AUGMENT = "rand-m7-n4-mstd0.5-inc1", "original-mstd0.5"
# Of the generated videos: frames, of which some are shown, and the side of a square one.
_FRAMES, _SHOWN, _SIDE = 16, (0, 7, 14), 96
# White pixels between frames.
_GAP = 6
_DRAWS = 6
_DOTS_PER_INCH = 100
# Few enough for a small file: the videos are noisy, and noise does not compress.
_COLOURS = 64


@dataclass(frozen=True)
class Column:
    """A clip, uint8 [C, T, H, W], and what stands above it."""

    title: str
    video: Tensor


def plot_augmentations(folder: Path) -> list[Path]:
    """Draw a picture of each augmentation, as PNG files; the same ones each time."""
    clip = make_clip("approach", seed=59)
    other = make_clip("clockwise", seed=13)
    pictures = {
        "repeated_augmentation": _repeated(make_clip("approach", seed=59, width=128)),
        "operations_of_colour": _operations(clip, move_pixels=False),
        "operations_of_place": _operations(clip, move_pixels=True),
        "rand_augment": _policy(clip, RAND_AUGMENT),
        "auto_augment": _policy(clip, AUTO_AUGMENT),
        "color_jitter": _color_jitter(clip),
        "random_erasing": _erasing(clip),
        "mixup": _mixing(clip, other, mixup_alpha=0.8, cutmix_alpha=0.0),
        "cutmix": _mixing(clip, other, mixup_alpha=0.0, cutmix_alpha=1.0),
    }
    paths = []
    for name, columns in pictures.items():
        paths.append(folder / f"{name}.png")
        draw_columns(paths[-1], columns)
    paths.append(folder / "soft_labels.png")
    draw_soft_labels(paths[-1])
    return paths


def make_clip(motion: str, *, seed: int, width: int = _SIDE) -> Tensor:
    """Make a clip of a generated motion video: uint8 [C, T, H, W]."""
    rng = np.random.default_rng(seed)
    path = draw_camera_path(CLASSES.index(motion), num_frames=_FRAMES, rng=rng)
    # From twice the size, which takes away most of the noise.
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
    samples = [transform(frames, generator=generator) for _ in range(_DRAWS)]
    titles = [f"sample {number}" for number in range(1, _DRAWS + 1)]
    return [Column("decoded once", clip), *map(Column, titles, samples)]


def _operations(clip: Tensor, *, move_pixels: bool) -> list[Column]:
    columns = [Column("clip", clip)]
    for (step,) in parse_policy(RAND_AUGMENT, interpolation="bilinear").chains:
        if step.name.startswith(("Rotate", "Shear", "Translate")) == move_pixels:
            change = Change(step.name, OPERATIONS[step.name].argument(step.level))
            columns.append(Column(_describe([change]), apply_changes(clip, [change])))
    return columns


def _policy(clip: Tensor, text: str) -> list[Column]:
    policy = parse_policy(text, interpolation="bilinear")
    columns = [Column("clip", clip)]
    generator = torch.Generator().manual_seed(3)
    for _ in range(_DRAWS):
        changes = policy.draw(generator=generator)
        columns.append(Column(_describe(changes), apply_changes(clip, changes)))
    return columns


def _color_jitter(clip: Tensor) -> list[Column]:
    columns = [Column("clip", clip)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(_DRAWS):
        changes = ColorJitter(0.4).draw(generator=generator)
        columns.append(Column(_describe(changes), apply_changes(clip, changes)))
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
    for seed in range(_DRAWS - 1):
        batch = torch.stack([clip, other]).float()
        mixed, targets = mixing(batch, torch.tensor([0, 1]), seed=seed)
        title = "label\n{:.2f} first\n{:.2f} second".format(*targets[0].tolist())
        columns.append(Column(title, mixed[0].round().to(torch.uint8)))
    return columns


def _eraser(mode: str, *, probability: float = 1.0) -> RandomErasing:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return RandomErasing(probability, mode=mode, max_count=1, mean=mean, std=std)


def _describe(changes: Sequence[Change]) -> str:
    lines = []
    for change in changes:
        name = change.name.removesuffix("Increasing")
        has_argument = name not in ("AutoContrast", "Equalize", "Invert")
        lines.append(f"{name} {round(change.argument, 2):g}" if has_argument else name)
    return "\n".join(lines) or "nothing"


def draw_columns(path: Path, columns: Sequence[Column]) -> None:
    """Draw frames of clips of one height beside each other, each with its title above."""
    strips = [_strip(column.video) for column in columns]
    image = torch.cat(strips, dim=1).numpy()
    ends = np.cumsum([strip.shape[1] for strip in strips])
    middles = [
        end - _GAP - column.video.shape[3] / 2 for end, column in zip(ends, columns, strict=True)
    ]
    rows = [(_SIDE + _GAP) * row + _SIDE / 2 for row in range(len(_SHOWN))]

    height, width = image.shape[0] / _DOTS_PER_INCH, image.shape[1] / _DOTS_PER_INCH
    figure = Figure(figsize=(1.2 * width + 0.3, 1.15 * height + 0.4), layout="constrained")
    axes = FigureCanvasAgg(figure).figure.add_subplot()
    axes.imshow(image)
    axes.xaxis.tick_top()
    axes.set_xticks(middles, [column.title for column in columns], fontsize=7)
    axes.set_yticks(rows, [f"frame {frame}" for frame in _SHOWN], fontsize=7)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    _save(figure, path)


def _strip(video: Tensor) -> Tensor:
    """The shown frames of a clip [C, T, H, W] among each other, with gaps: [n (H + gap), w, C]."""
    frames = F.pad(video[:, list(_SHOWN)], (0, _GAP, 0, _GAP), value=255)
    return frames.flatten(1, 2).permute(1, 2, 0)


def draw_soft_labels(path: Path) -> None:
    """Draw the target of a clip: hard, smoothed, and smoothed after mixing."""
    label, other, share, smoothing = 1, 4, 0.7, 0.1
    hard = torch.eye(len(CLASSES))
    smoothed = hard * (1 - smoothing) + smoothing / len(CLASSES)
    targets = {
        "hard label": hard[label],
        f"smoothed by {smoothing}": smoothed[label],
        f"mixed {share} to {1 - share:.1f}": share * smoothed[label]
        + (1 - share) * smoothed[other],
    }
    figure = Figure(figsize=(8, 2.2), layout="constrained")
    axes = FigureCanvasAgg(figure).figure.subplots(1, len(targets), sharey=True)
    for axis, (title, target) in zip(axes, targets.items(), strict=True):
        bars = axis.barh(CLASSES, target.numpy())
        axis.bar_label(bars, fmt="%.3g", fontsize=7, padding=2)
        axis.set(title=title, xlim=(0, 1.25), xlabel="share of the target")
    axes[0].invert_yaxis()
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    figure.set_dpi(_DOTS_PER_INCH)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).quantize(_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
