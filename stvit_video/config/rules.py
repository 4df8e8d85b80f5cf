"""What a rule over config values is, and short ways to write the common ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """A sentence about one or more keys, and the test of it.

    Attributes:
        keys: the keys concerned; ``holds`` gets their values in this order, and the sentence is
            about the first one, which is the one to mend.
        text: what must hold: "must be a multiple of NUM_GPUS".
        holds: says whether it does; may take for granted that all earlier rules hold.
        when: a boolean key without which the rule does not matter.
        mend: what to do, where ``text`` does not say it already.
    """

    keys: tuple[str, ...]
    text: str
    holds: Callable[..., bool]
    when: str = ""
    mend: str = ""

    def is_broken(self, values: Mapping[str, Any]) -> bool:
        """Say whether ``values``, {dotted key: value}, break the rule."""
        applies = not self.when or values[self.when]
        return bool(applies) and not self.holds(*(values[key] for key in self.keys))

    def describe(self, values: Mapping[str, Any], *, origins: Mapping[str, str]) -> str:
        """Say in a sentence what must hold, what stands there instead, and from where."""
        first, *others = self.keys
        shown = [f"it is {_show(values[first])} ({origins.get(first, 'default')})"]
        shown += [
            f"{key} is {_show(values[key])} ({origins.get(key, 'default')})" for key in others
        ]
        mend = f": {self.mend}" if self.mend else ""
        return f"{first} {self.text}, but {' and '.join(shown)}{mend}"


def one_of(key: str, *choices: object) -> Rule:
    """Require one of a few values."""
    names = [_show(choice) for choice in choices]
    *most, last = names
    text = f"must be {', '.join(most)} or {last}" if most else f"must be {last}"
    return Rule((key,), text, lambda value: value in choices)


def at_least(low: float, *keys: str, mend: str = "") -> tuple[Rule, ...]:
    """Require a lowest value of each key."""
    return each(f"must be at least {low}", lambda value: value >= low, *keys, mend=mend)


def entries_at_least(low: float, *keys: str) -> tuple[Rule, ...]:
    """Require a lowest value of every entry of each key."""
    return each(
        f"must be at least {low} in every entry", lambda value: all(v >= low for v in value), *keys
    )


def length(size: int, *keys: str) -> tuple[Rule, ...]:
    """Require a number of entries of each key."""
    return each(f"must have {size} entries", lambda value: len(value) == size, *keys)


def each(text: str, holds: Callable[[Any], bool], *keys: str, mend: str = "") -> tuple[Rule, ...]:
    """State the same rule for each of several keys."""
    return tuple(Rule((key,), text, holds, mend=mend) for key in keys)


def is_range(values: tuple[float, ...]) -> bool:
    """Say whether values are a lowest and a highest one above 0, or none."""
    return not values or (len(values) == 2 and 0 < values[0] <= values[1])


def is_swin(arch: str) -> bool:
    """Say whether MODEL.ARCH is a Swin, or has one as its backbone."""
    return arch in ("swin", "cascade_mask_rcnn")


def _show(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
