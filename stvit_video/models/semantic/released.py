"""Reproduce how the released STViT-R code differs from the paper, for its weights.

Notation: N frames, h w grid of keys, C channels.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stvit_video.models.semantic.key_windows import (
    Grid,
    KeyWindows,
    ProjectedKeys,
    QueryKeySpans,
    Span,
    grid_size,
)
from stvit_video.models.semantic.stgm import SemanticTokenGeneration

# Added to the logits of padding, as in the released code.
_PENALTY = -1000.0
# The norms after each stage, which only a detector has.
_DETECTOR_NORM = re.compile(r"(backbone\.)?norm(s\.)?\d\.")


@dataclass(frozen=True)
class PaddedKeyWindows(KeyWindows):
    """Centered windows of keys that extend into zero padding, which is masked only in part.

    The grid of image tokens is padded to complete windows, and windows of keys may extend beyond
    it. The released mask puts a penalty on all keys beyond the padded grid, but inside it only on
    the corner ``[-pad_rows:, -pad_columns:]`` where padded rows and columns meet. As ``-0:``
    selects a whole axis in Python, the corner spans all rows if no rows are padded; if nothing is
    padded, all keys get the penalty and it cancels. The grid of semantic tokens has the same
    corner.

    Attributes:
        image_window: side of the windows that image tokens are padded to.
        recovers: whether image tokens are the queries instead of the keys.
        penalized: whether padding gets the penalty (the released ``pad_mask``).
    """

    side: int
    image_window: int = 1
    recovers: bool = False
    penalized: bool = True

    def spans(self, num_queries: int, num_keys: int) -> list[QueryKeySpans]:
        """Return the windows along an axis; keys are on the padded grid of :meth:`project`."""
        return [
            QueryKeySpans(
                Span(start, min(start + self.queries, num_queries)),
                (Span(index * self.keys, index * self.keys + self.side),),
            )
            for index, start in enumerate(range(0, num_queries, self.queries))
        ]

    def project(
        self, tokens: Tensor, project: Callable[[Tensor], Tensor], *, query_grid: Grid
    ) -> ProjectedKeys:
        """Project tokens ``[N, h, w, C]`` and surround them with projected zeros."""
        image_grid = query_grid if self.recovers else grid_size(tokens)
        pad_rows, pad_columns = (-size % self.image_window for size in image_grid)
        if not self.recovers:
            tokens = F.pad(tokens, (0, 0, 0, pad_columns, 0, pad_rows))
        height, width = grid_size(tokens)
        # The grid must hold the last key of the last window.
        rows, columns = (
            (-(-size // self.queries) - 1) * self.keys + self.side for size in query_grid
        )
        before = (self.side - self.keys) // 2
        around = (before, columns - before - width, before, rows - before - height)
        # Padding is zero before the norm, so its projection is not zero.
        zero = project(torch.zeros_like(tokens[:1, :1, :1]))
        projected = F.pad(project(tokens) - zero, (0, 0, *around)) + zero
        if not self.penalized:
            return ProjectedKeys(projected)
        penalty = torch.zeros((height, width), device=tokens.device)
        penalty[-pad_rows:, -pad_columns:] = _PENALTY
        return ProjectedKeys(projected, F.pad(penalty, around, value=_PENALTY))


def check_released_switches(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Compare the released code's switches SHORTCUT and USE_GLOBAL between a file and a model.

    Global centers in the file show USE_GLOBAL. No weight shows SHORTCUT: detectors always have it,
    and the released classifiers, which have no global centers, were trained without it.

    Args:
        model: model to load the file into.
        names: names of the file's weights, converted to this package's names.

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
    # The released code has centers only in the first unit, and adds them to the residual too.
    is_released = len(centers) == 1 and centers[0].second.centers_role == "residual"
    if has_global != bool(centers) or (has_global and not is_released):
        value, wanted = (
            ("true", "spatial+global and STVIT.RELEASED_GLOBAL True")
            if has_global
            else ("false", f"spatial{' and STVIT.RELEASED_GLOBAL False' if is_released else ''}")
        )
        sentences.append(
            f"The file was trained with USE_GLOBAL {value}, but the model was not: set "
            f"STVIT.INITIALIZATION {wanted}."
        )
    # A detector has SHORTCUT even if it starts from a classifier's weights.
    model_names = (name for name, _ in model.named_parameters())
    is_detector = any(_DETECTOR_NORM.match(name) for name in (*names, *model_names))
    model_has_shortcut = generations[0].first.shortcut
    if is_detector and not model_has_shortcut:
        sentences.append(
            "The file is a detector's, which has SHORTCUT, but the model does not: set "
            "STVIT.SHORTCUT True."
        )
    if model_has_shortcut and not is_detector and not has_global:
        sentences.append(
            "The released weights for classification were trained with SHORTCUT false, but the "
            "model has STVIT.SHORTCUT True: set it False. (No weight shows this switch: if you "
            "trained the file with it, load it with load_weights and save it with save_weights.)"
        )
    return sentences
