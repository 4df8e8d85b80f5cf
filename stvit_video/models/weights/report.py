"""What became of each weight when a file was loaded into a model, and why a file does not fit."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

# Names that a line of the report gives.
_EXAMPLES = 4
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


@dataclass
class LoadReport:
    """What became of each weight: names and numbers of values.

    Attributes:
        path: the file.
        format: its format.
        averaged: whether its averaged weights were taken.
        loaded: taken as they are.
        inflated: from an image model, spread over time.
        interpolated: resized to another window.
        mismatched: in the file and in the model, but of shapes that cannot be fitted.
        missing: in the model alone.
        unexpected: in the file alone.
        warnings: sentences on what fits by its shape, but will not compute the same.
    """

    path: str
    format: str
    averaged: bool = False
    loaded: dict[str, int] = field(default_factory=dict)
    inflated: dict[str, int] = field(default_factory=dict)
    interpolated: dict[str, int] = field(default_factory=dict)
    mismatched: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    unexpected: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Share of the model's values that came from the file, from 0 to 1."""
        filled = sum(sum(part.values()) for part in (self.loaded, self.inflated, self.interpolated))
        left = sum(sum(part.values()) for part in (self.mismatched, self.missing))
        return filled / (filled + left) if filled else 0.0

    def __str__(self) -> str:
        source = f"{self.format}, averaged weights" if self.averaged else self.format
        lines = [
            f"{self.path} ({source}): {share_in_words(self.share)} of the model's parameters filled"
        ]
        for name in ("loaded", "inflated", "interpolated", "mismatched", "missing", "unexpected"):
            part: dict[str, int] = getattr(self, name)
            if not part:
                continue
            examples = ""
            if name != "loaded":
                more = f", and {len(part) - _EXAMPLES} more" if len(part) > _EXAMPLES else ""
                examples = f"  {', '.join(list(part)[:_EXAMPLES])}{more}"
            lines.append(
                f"  {name:<12} {len(part):>5} tensors {sum(part.values()):>13,} values{examples}"
            )
        lines += [f"  warning: {sentence}" for sentence in self.warnings]
        return "\n".join(lines)


def share_in_words(share: float) -> str:
    """Give a share in percent; only the whole is 100.0%."""
    return f"{share if share == 1 else min(share, 0.999):.1%}"


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
