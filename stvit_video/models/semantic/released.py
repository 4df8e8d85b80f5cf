"""What the released STViT-R does beside the paper, for weights that were trained so.

Letters: N frames, h w grid of keys, H W grid of image tokens, C channels.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stvit_video.models.semantic.key_windows import Grid, Keys, KeyWindows, Span, Window, grid_of
from stvit_video.models.semantic.stgm import SemanticTokenGeneration

# What is added to the logits of padding.
_PENALTY = -1000.0
# The norms of a detector's stages.
_DETECTOR = re.compile(r"(backbone\.)?norm(s\.)?\d\.")


@dataclass(frozen=True)
class PaddedKeyWindows(KeyWindows):
    """Centered windows of keys that reach into padding, some of which takes part.

    The grid of image tokens ends in zeros up to whole windows, and windows of keys may leave it,
    into more zeros. A penalty is given to what lies outside, and to the corner
    ``[-below:, -beside:]`` where rows and columns of padding meet. As ``-0:`` is a whole side in
    Python, a side without padding is all corner; where neither has any, everything gets the
    penalty and it cancels. The grid of semantic tokens has the very same corner.

    Attributes:
        image_window: side of the windows that the image tokens are padded to.
        recovers: image tokens are the queries, not the keys.
        penalized: without, all padding takes part (the released ``pad_mask`` off).
    """

    side: int
    image_window: int = 1
    recovers: bool = False
    penalized: bool = True

    def along(self, queries: int, keys: int) -> list[Window]:
        """Give the windows along an axis, on the padded grid that :meth:`project` gives."""
        return [
            Window(
                Span(start, min(start + self.queries, queries)),
                (Span(index * self.keys, index * self.keys + self.side),),
            )
            for index, start in enumerate(range(0, queries, self.queries))
        ]

    def project(
        self, tokens: Tensor, project: Callable[[Tensor], Tensor], *, queries: Grid
    ) -> Keys:
        """Project the tokens ``[N, h, w, C]``, and put them among projected zeros."""
        image = queries if self.recovers else grid_of(tokens)
        below, beside = (-size % self.image_window for size in image)
        if not self.recovers:
            tokens = F.pad(tokens, (0, 0, 0, beside, 0, below))
        height, width = grid_of(tokens)
        # Up to the last key of the last window.
        rows, columns = ((-(-size // self.queries) - 1) * self.keys + self.side for size in queries)
        before = (self.side - self.keys) // 2
        around = (before, columns - before - width, before, rows - before - height)
        # Padding all around is a zero before the norm, so its projection is no zero.
        zero = project(torch.zeros_like(tokens[:1, :1, :1]))
        projected = F.pad(project(tokens) - zero, (0, 0, *around)) + zero
        if not self.penalized:
            return Keys(projected)
        inside = torch.zeros((height, width), device=tokens.device)
        inside[-below:, -beside:] = _PENALTY
        return Keys(projected, F.pad(inside, around, value=_PENALTY))


def switch_mismatches(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Compare the switches of the released code, SHORTCUT and USE_GLOBAL, with a model.

    A file tells USE_GLOBAL by its centers. No weight tells SHORTCUT: detectors always have it,
    and the released classifiers, which have no global centers, were trained without.

    Args:
        model: what the file is for.
        names: of the file's weights, as they are called here.

    Returns:
        a sentence for each switch that differs.
    """
    generations = [m for m in model.modules() if isinstance(m, SemanticTokenGeneration)]
    if not generations:
        return []
    names = list(names)
    sentences = []
    has_global = any(name.endswith(".global_centers") for name in names)
    centers = [m for m in generations if m.global_centers is not None]
    # The released centers are those of the first unit alone, and added to its residual, too.
    is_released = len(centers) == 1 and centers[0].second.centers_role == "residual"
    if has_global != bool(centers) or (has_global and not is_released):
        value, wanted = (
            ("true", "spatial+global and STVIT.RELEASED_GLOBAL True")
            if has_global
            else ("false", f"spatial{' and STVIT.RELEASED_GLOBAL False' if is_released else ''}")
        )
        sentences.append(
            f"The file was trained with USE_GLOBAL {value}, the model is made otherwise: set "
            f"STVIT.INITIALIZATION {wanted}."
        )
    # A detector has SHORTCUT too where it begins with a classifier's weights.
    own = (name for name, _ in model.named_parameters())
    is_detector = any(_DETECTOR.match(name) for name in (*names, *own))
    model_has_shortcut = generations[0].first.shortcut
    if is_detector and not model_has_shortcut:
        sentences.append(
            "The file is a detector's, which has SHORTCUT, the model has not: set STVIT.SHORTCUT "
            "True."
        )
    if model_has_shortcut and not is_detector and not has_global:
        sentences.append(
            "The released weights for classification were trained with SHORTCUT false, the model "
            "has STVIT.SHORTCUT True: set it False. (No weight tells this switch: if you trained "
            "the file otherwise, save what load_weights makes of it by save_weights.)"
        )
    return sentences
