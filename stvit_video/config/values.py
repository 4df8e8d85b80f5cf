"""Conversion of a value as it was written to the type that the key's default has."""

import ast
import math

import yaml

_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "text (in quotes if need be)",
}


def convert(value: object, *, like: object) -> object:
    """Return ``value`` as the type of ``like``, a bool, int, float, str or tuple of one of them.

    Text is read as a literal where something else is wanted, because YAML 1.1 takes ``1e-3`` and
    ``(8, 7, 7)`` for text and the command line knows nothing but text. A whole number may stand
    for a float and a list for a tuple (whose entries are of the type of the first entry of
    ``like``, or text if it is empty); a bool stands for nothing but a bool.

    Raises:
        TypeError: the value does not fit; the message says what does.
    """
    kind = type(like)
    if isinstance(value, str) and kind is not str:
        value = _literal(value)
    if isinstance(like, tuple):
        return _convert_entries(value, like=like[0] if like else "")
    if kind is float and type(value) is int:
        value = _float(value)
    # Exact types, because a bool is an int to isinstance.
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        raise TypeError(_KINDS[kind])
    return value


def _convert_entries(value: object, *, like: object) -> tuple[object, ...]:
    expected = f"a list in which each entry is {_KINDS[type(like)]}"
    if not isinstance(value, list | tuple):
        raise TypeError(expected)
    try:
        return tuple(convert(entry, like=like) for entry in value)
    except TypeError:
        raise TypeError(expected) from None


def _float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _literal(text: str) -> object:
    """Read text as a Python literal, else as YAML, else leave it."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        pass
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
