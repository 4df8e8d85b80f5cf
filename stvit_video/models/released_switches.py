"""Whether a model has the switches that a released STViT-R file was trained with."""

import re
from collections.abc import Iterable

from torch import nn

from .semantic.stgm import SemanticTokenGeneration

# The norms of a detector's stages.
_DETECTOR = re.compile(r"(backbone\.)?norm(s\.)?\d\.")


def switch_mismatches(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Compare the switches of the released code, SHORTCUT and USE_GLOBAL, with a model.

    A file tells USE_GLOBAL by its centres. No weight tells SHORTCUT: detectors always have it,
    and the released classifiers, which have no global centres, were trained without.

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
    if has_global != any(m.global_centers is not None for m in generations):
        value, wanted = (
            ("true", "spatial+global and STVIT.GLOBAL_WINDOWS 2")
            if has_global
            else ("false", "spatial")
        )
        sentences.append(
            f"The file was trained with USE_GLOBAL {value}, the model is made otherwise: set "
            f"STVIT.INITIALIZATION {wanted}."
        )
    # A detector has SHORTCUT too where it begins with a classifier's weights.
    own = (name for name, _ in model.named_parameters())
    is_detector = any(_DETECTOR.match(name) for name in (*names, *own))
    model_has_shortcut = generations[0].layers[0].shortcut
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
