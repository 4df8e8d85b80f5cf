"""Builders by name."""

from collections.abc import Callable
from difflib import SequenceMatcher
from typing import Generic, TypeVar

from stvit_video.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """A table from the names that a config may give to what they stand for.

    Args:
        kind: what the entries are, with the key that names them: "data set (TRAIN.DATASET)".
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that enters what it decorates under ``name``.

        Raises:
            ValueError: the name is taken.
        """

        def enter(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f'two {self._kind}s are registered as "{name}"')
            self._entries[name] = entry
            return entry

        return enter

    def get(self, name: str) -> T:
        """Return what stands under ``name``.

        Raises:
            UserError: nothing does; the message lists the known names, the nearest one first.
        """
        if name not in self._entries:
            known = sorted(self._entries, key=lambda other: (-_likeness(name, other), other))
            listed = ", ".join(f'"{other}"' for other in known)
            raise UserError(f'there is no {self._kind} "{name}"; there are {listed}')
        return self._entries[name]

    def names(self) -> tuple[str, ...]:
        """All known names, sorted."""
        return tuple(sorted(self._entries))


def _likeness(name: str, other: str) -> float:
    return SequenceMatcher(None, name.lower(), other.lower()).ratio()
