"""A picture of what semantic tokens look at in the frames of a video (paper, Figure 3)."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from stvit_video.data.build import build_dataset
from stvit_video.data.kinetics import MultiViewVideos
from stvit_video.engine.class_names import build_class_names
from stvit_video.engine.precision import build_normalise
from stvit_video.engine.tested_weights import checkpoint_to_test, load_tested_weights
from stvit_video.errors import UserError
from stvit_video.models import build_model
from stvit_video.models.semantic.attention_maps import record_attention_maps

_FRAMES, _TOKENS = 5, 6
_DOTS_PER_INCH = 130


@torch.no_grad()
def plot_attention(cfg: CfgNode, *, video_index: int, output: Path) -> str:
    """Draw the last generation layer's attention over frames of a test video, as a PNG file.

    Rows are frames, columns are the semantic tokens whose attention is most focused.

    Args:
        cfg: of a model with semantic tokens; its newest checkpoint, or
            TEST.CHECKPOINT_FILE_PATH, is used.
        video_index: place in the test split, from 0.
        output: the picture.

    Returns:
        a sentence with the video, its label and the prediction.

    Raises:
        UserError: the model has no semantic tokens, there are no weights, or there is no such
            video.
    """
    if not cfg.STVIT.ENABLE:
        raise UserError(
            "Only a model with semantic tokens has this picture: set STVIT.ENABLE True."
        )
    if cfg.STVIT.BORDER.startswith("released"):
        raise UserError(
            f'With STVIT.BORDER "{cfg.STVIT.BORDER}" semantic tokens look at padding too, which is '
            'no part of the picture: set it "cut".'
        )
    dataset = build_dataset(cfg, "test")
    assert isinstance(dataset, MultiViewVideos)
    if not 0 <= video_index < len(dataset):
        raise UserError(
            f"The video is a place in the test split, from 0 to {len(dataset) - 1}, but is "
            f"{video_index}."
        )
    model = build_model(cfg).eval()
    load_tested_weights(cfg, model, checkpoint_to_test(cfg))
    model.float()  # NumPy, which draws, knows no bfloat16
    item = dataset[video_index]
    view = item["video"][cfg.TEST.NUM_SPATIAL_CROPS // 2][None]  # first clip, centre crop
    with record_attention_maps(model) as maps:
        logits = model(build_normalise(cfg, torch.device("cpu"))(view))
    names = build_class_names(cfg)
    label, guess = names[item["label"]], names[int(logits.argmax())]
    title = f"{item['video_name']}: {label}, taken for {guess}"
    draw_attention(output, view[0].permute(1, 2, 3, 0).numpy(), maps[-1], title=title)
    return title


def draw_attention(path: Path, frames: np.ndarray, maps: Tensor, *, title: str) -> None:
    """Draw attention maps over frames as a PNG file.

    Args:
        path: the picture.
        frames: uint8 ``[T, H, W, 3]``.
        maps: ``[t, h, w, y, x]``, the attention of each of h w semantic tokens over the y x
            image tokens of each of t steps in time.
        title: a line above.
    """
    steps = np.unique(np.linspace(0, len(maps) - 1, _FRAMES).round().astype(int))
    tokens = maps.flatten(1, 2)  # [t, h w, y, x]
    focus = tokens.flatten(2).amax(-1).mean(0)
    chosen = sorted(focus.topk(min(_TOKENS, len(focus))).indices.tolist())
    shape = (len(steps), 1 + len(chosen))
    figure = Figure(figsize=(1.3 * shape[1], 1.3 * shape[0] + 0.5), layout="constrained")
    axes = FigureCanvasAgg(figure).figure.subplots(*shape, squeeze=False)
    figure.suptitle(title, fontsize=10)
    for row, step in zip(axes, steps, strict=True):
        frame = frames[min(int((step + 0.5) * len(frames) / len(maps)), len(frames) - 1)]
        row[0].imshow(frame)
        row[0].set_ylabel(f"step {step}", fontsize=8)
        for axis, token in zip(row[1:], chosen, strict=True):
            axis.imshow(_overlay(frame, tokens[step, token]))
    for axis, token in zip(axes[0][1:], chosen, strict=True):
        axis.set_title(f"token {divmod(token, maps.shape[2])}", fontsize=8)
    axes[0][0].set_title("frame", fontsize=8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DOTS_PER_INCH)


def _overlay(frame: np.ndarray, attention: Tensor) -> np.ndarray:
    """Darken a frame ``[H, W, 3]`` where an attention map ``[y, x]`` is low, and redden its top."""
    share = attention / attention.max().clamp(min=1e-12)
    resized = F.interpolate(
        share[None, None], size=frame.shape[:2], mode="bilinear", align_corners=False
    )
    strength = resized[0, 0].numpy()[..., None]
    glow = np.array([255.0, 60.0, 0.0]) * strength
    return (frame * (0.3 + 0.4 * strength) + 0.3 * glow).clip(0, 255).astype(np.uint8)
