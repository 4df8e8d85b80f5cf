"""What became of each weight when a file was loaded into a model."""

from dataclasses import dataclass, field

# Names that a line of the report gives.
_EXAMPLES = 4


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
