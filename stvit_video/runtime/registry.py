"""Registries that map names in a config to builders."""

from collections.abc import Callable
from difflib import SequenceMatcher
from typing import Generic, TypeVar

from stvit_video.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """A table from names that a config may use to the registered objects.

    Args:
        kind: what the entries are, with the config key: "data set (TRAIN.DATASET)".
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers an object under ``name``.

        Raises:
            ValueError: the name is already registered.
        """

        def decorator(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f'two {self._kind}s are registered as "{name}"')
            self._entries[name] = entry
            return entry

        return decorator

    def get(self, name: str) -> T:
        """Return the object registered under ``name``.

        Raises:
            UserError: the name is unknown. The message lists all names, the most similar first.
        """
        if name not in self._entries:
            known = sorted(self._entries, key=lambda other: (-_similarity(name, other), other))
            quoted = ", ".join(f'"{other}"' for other in known)
            raise UserError(f'unknown {self._kind} "{name}": choose one of {quoted}')
        return self._entries[name]

    def names(self) -> tuple[str, ...]:
        """Return all registered names, sorted."""
        return tuple(sorted(self._entries))


def _similarity(name: str, other: str) -> float:
    return SequenceMatcher(None, name.lower(), other.lower()).ratio()
