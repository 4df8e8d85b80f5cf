"""Report which weights a file filled, and why a file does not fit a model."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

# Number of names in a line of the report.
_MAX_EXAMPLES = 4
# Number of differences in an error message.
_MAX_DIFFERENCES = 3
# Weights of parts that these models lack, without which the other weights compute something
# else: (pattern of names, part).
_FOREIGN_WEIGHTS = (
    (r"(^|\.)(ls\d\.gamma|gamma_[12])$", "LayerScale, as DeiT III and BEiT have it"),
    (r"^dist_token$", "a distillation token"),
    (r"\.(logit_scale$|cpb_mlp\.)", "Swin V2's attention"),
    (r"\.[qk]_norm\.", "norms of queries and keys"),
    (r"^norm_pre\.", "a norm before the first layer"),
    (r"^reg_token$", "register tokens"),
)
_HEAD_PREFIXES = ("head.", "backbone.head.")
_HEAD_BIAS = re.compile(r"^(head|backbone\.head)\.(fc|proj)\.bias$")


@dataclass
class LoadReport:
    """Outcome of loading a file: names of weights and their numbers of values.

    Attributes:
        path: the file.
        format: its format.
        averaged: whether its averaged weights were loaded.
        loaded: loaded unchanged.
        inflated: inflated over time from an image model.
        interpolated: resized, for example to another window.
        mismatched: in the file and in the model, but with shapes that cannot be fitted.
        missing: only in the model.
        unexpected: only in the file.
        warnings: sentences on weights that fit by shape, but whose model will compute something
            else.
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
        """Share of the model's values that were filled from the file, from 0 to 1."""
        filled = sum(sum(part.values()) for part in (self.loaded, self.inflated, self.interpolated))
        left = sum(sum(part.values()) for part in (self.mismatched, self.missing))
        return filled / (filled + left) if filled else 0.0

    def __str__(self) -> str:
        source = f"{self.format}, averaged weights" if self.averaged else self.format
        lines = [
            f"{self.path} ({source}): {format_share(self.share)} of the model's parameters filled"
        ]
        for name in ("loaded", "inflated", "interpolated", "mismatched", "missing", "unexpected"):
            part: dict[str, int] = getattr(self, name)
            if not part:
                continue
            examples = ""
            if name != "loaded":
                more = (
                    f", and {len(part) - _MAX_EXAMPLES} more" if len(part) > _MAX_EXAMPLES else ""
                )
                examples = f"  {', '.join(list(part)[:_MAX_EXAMPLES])}{more}"
            lines.append(
                f"  {name:<12} {len(part):>5} tensors {sum(part.values()):>13,} values{examples}"
            )
        lines += [f"  warning: {sentence}" for sentence in self.warnings]
        return "\n".join(lines)


def format_share(share: float) -> str:
    """Format a share in percent; anything less than 1 is at most 99.9%."""
    return f"{share if share == 1 else min(share, 0.999):.1%}"


def foreign_weight_warnings(report: LoadReport) -> list[str]:
    """Return a warning for each part of the file's model that this model does not have."""
    return [
        f"the file is of a model with {part} ({names[0]}), which this model does not have: the "
        "other weights were trained with it"
        for pattern, part in _FOREIGN_WEIGHTS
        if (names := [name for name in report.unexpected if re.search(pattern, name)])
    ]


def describe_mismatch(
    report: LoadReport,
    *,
    source: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    min_share: float,
) -> str:
    """Return an error message that says why a file does not fit a model.

    Args:
        report: report of the attempt.
        source: the file's state dict, converted to this package's names.
        target: the model's state dict.
        min_share: share of the model that the file must fill.
    """
    file = f"{report.path} ({report.format})"
    others = [name for name in report.mismatched if not name.startswith(_HEAD_PREFIXES)]
    bias = next(filter(_HEAD_BIAS.match, report.mismatched), None)
    if bias and not (others or report.missing):
        return (
            f"{file} has {len(source[bias])} classes, but the model has {len(target[bias])} "
            f"(MODEL.NUM_CLASSES): set {len(source[bias])}, or train from this file first "
            "(TRAIN.CHECKPOINT_FILE_PATH)."
        )
    differences = [
        *(
            f"{name} is {_shape(source, name)} in the file and {_shape(target, name)} in the model"
            for name in report.mismatched
        ),
        *(f"{name} is missing in the file" for name in report.missing),
        *(f"{name} is not in the model" for name in report.unexpected),
    ]
    more = (
        f", and {len(differences) - _MAX_DIFFERENCES} more"
        if len(differences) > _MAX_DIFFERENCES
        else ""
    )
    asked = f", but at least {min_share:.0%} are required" if report.share < min_share else ""
    return (
        f"{file} fills {format_share(report.share)} of the model's parameters{asked}: it belongs "
        f"to another model ({'; '.join(differences[:_MAX_DIFFERENCES])}{more})."
    )


def _shape(weights: Mapping[str, Tensor], name: str) -> str:
    return str(list(weights[name].shape)) if name in weights else "another shape"
