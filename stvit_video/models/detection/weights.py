"""What a detector takes from files of classifiers and of the official detectors."""

import re
from collections.abc import Mapping

from torch import Tensor

from stvit_video.models.weights.formats import Format, to_our_names

# In front of the names of a detector's backbone.
BODY = "backbone.body."

# The official feature pyramid. Its heads are not taken: they were trained on regions that were
# pooled half a pixel away from torchvision's.
_OFFICIAL = (
    (re.compile(r"backbone\.norm(\d)\."), r"backbone.norms.\1."),
    (re.compile(r"neck\.lateral_convs\.(\d)\.conv\."), r"fpn.inner_blocks.\1.0."),
    (re.compile(r"neck\.fpn_convs\.(\d)\.conv\."), r"fpn.layer_blocks.\1.0."),
)
_OFFICIAL_NORM = "backbone.norm0.weight"


def to_detector_names(state: Mapping[str, Tensor], format_: Format) -> dict[str, Tensor]:
    """Rename the keys of a state dict to those of a :class:`~.detector.CascadeMaskRCNN`.

    Args:
        state: of a detector of ours, of a classifier, which becomes the backbone, or of an
            official detector, of which backbone, its norms and the feature pyramid get our names.
        format_: of the file, for the names inside the backbone.
    """
    if any(key.startswith(BODY) for key in state):
        return dict(state)
    around, body = {}, {}
    for key, value in state.items():
        found = [(pattern, name) for pattern, name in _OFFICIAL if pattern.match(key)]
        if found:
            ((pattern, name),) = found
            around[pattern.sub(name, key)] = value
        elif _OFFICIAL_NORM in state and not key.startswith("backbone."):
            around[key] = value  # of a head
        else:
            body[key] = value
    renamed = to_our_names(body, format_)
    return {**around, **{BODY + name: value for name, value in renamed.items()}}
