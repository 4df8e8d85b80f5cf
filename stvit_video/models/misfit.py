"""Why a file of weights is not of a model, in words."""

import re
from collections.abc import Mapping

from torch import Tensor

from .load_report import LoadReport, share_in_words

# Differences that a sentence names.
_NAMED = 3
# Weights without a place here that change what all others compute, and what they are of.
_FOREIGN = (
    (r"(^|\.)(ls\d\.gamma|gamma_[12])$", "LayerScale, as DeiT III and BEiT have it"),
    (r"^dist_token$", "a distillation token"),
    (r"\.(logit_scale$|cpb_mlp\.)", "Swin V2's attention"),
    (r"\.[qk]_norm\.", "norms of queries and keys"),
    (r"^norm_pre\.", "a norm before the first layer"),
    (r"^reg_token$", "register tokens"),
)
_HEAD_BIAS = re.compile(r"^(head|backbone\.head)\.(fc|proj)\.bias$")


def foreign_parts(report: LoadReport) -> list[str]:
    """Say of what other model a file is, by weights that have no place in this one."""
    return [
        f"the file is of a model with {what} ({names[0]}), which this one has not: the other "
        "weights were trained for that"
        for pattern, what in _FOREIGN
        if (names := [name for name in report.unexpected if re.search(pattern, name)])
    ]


def describe_misfit(
    report: LoadReport, *, there: Mapping[str, Tensor], here: Mapping[str, Tensor], min_share: float
) -> str:
    """Say why a file does not do for a model.

    Args:
        report: of the attempt.
        there: the file's weights, as they are called here.
        here: the model's.
        min_share: share of the model that the file should fill.
    """
    file = f"{report.path} ({report.format})"
    others = [name for name in report.mismatched if not _is_of_head(name)]
    bias = next(filter(_HEAD_BIAS.match, report.mismatched), None)
    if bias and not (others or report.missing):
        return (
            f"{file} is of {len(there[bias])} classes, and the model of {len(here[bias])} "
            f"(MODEL.NUM_CLASSES): set {len(there[bias])}, or train from this file first "
            "(TRAIN.CHECKPOINT_FILE_PATH)."
        )
    differences = [
        *(
            f"{name} is {_shape(there, name)} there and {_shape(here, name)} here"
            for name in report.mismatched
        ),
        *(f"{name} is missing there" for name in report.missing),
        *(f"{name} has no place here" for name in report.unexpected),
    ]
    more = f", and {len(differences) - _NAMED} more" if len(differences) > _NAMED else ""
    asked = f", and at least {min_share:.0%} are asked for" if report.share < min_share else ""
    return (
        f"{file} fills {share_in_words(report.share)} of the model's parameters{asked}: it belongs "
        f"to another model ({'; '.join(differences[:_NAMED])}{more})."
    )


def _is_of_head(name: str) -> bool:
    return name.startswith(("head.", "backbone.head."))


def _shape(weights: Mapping[str, Tensor], name: str) -> str:
    return str(list(weights[name].shape)) if name in weights else "of another shape"
