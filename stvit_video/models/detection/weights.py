"""What a detector takes from files of classifiers and of the official detectors."""

import re
from collections.abc import Mapping

from torch import Tensor

from ..formats import Format, to_our_names

_BODY = "backbone.body."
_IS_DETECTOR = re.compile(r"backbone\.(body\.|norm0\.)")
# The official feature pyramid. Its heads are not taken: they were trained on regions that were
# pooled half a pixel away from torchvision's.
_OFFICIAL = (
    (re.compile(r"backbone\.norm(\d)\."), r"backbone.norms.\1."),
    (re.compile(r"neck\.lateral_convs\.(\d)\.conv\."), r"fpn.inner_blocks.\1.0."),
    (re.compile(r"neck\.fpn_convs\.(\d)\.conv\."), r"fpn.layer_blocks.\1.0."),
)


def to_detector_names(state: Mapping[str, Tensor], format_: Format) -> dict[str, Tensor]:
    """Rename the keys of a state dict to those of a :class:`~.detector.CascadeMaskRCNN`.

    Args:
        state: of a detector of ours, of a classifier, which becomes the backbone, or of an
            official detector, of which backbone, its norms and the feature pyramid get our names.
        format_: of the file, for the names inside the backbone.
    """
    if any(key.startswith(_BODY) for key in state):
        return dict(state)
    if not any(_IS_DETECTOR.match(key) for key in state):
        return {_BODY + name: value for name, value in to_our_names(state, format_).items()}
    renamed = {}
    for key, value in state.items():
        for pattern, name in _OFFICIAL:
            if pattern.match(key):
                renamed[pattern.sub(name, key)] = value
                break
        else:
            in_body = key.startswith("backbone.")
            for name in to_our_names({key: value}, format_):
                renamed[_BODY + name if in_body else key] = value
    return renamed
