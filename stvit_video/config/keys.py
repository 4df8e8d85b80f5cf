"""Dotted names of config keys, and suggestions for misspelled ones."""

from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from typing import Any

# Keys that are less similar than this are probably unrelated.
_MIN_SIMILARITY = 0.65
# Keys almost as similar as the best one are suggested too: both TRAIN and TEST have BATCH_SIZE.
_SIMILARITY_MARGIN = 0.05
_MAX_SUGGESTIONS = 3


def flatten(node: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """Flatten a config or nested dict in its order, to {"TRAIN.BATCH_SIZE": 64, ...}."""
    flat: dict[str, Any] = {}
    for name, value in node.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, prefix=f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def sections(keys: Iterable[str]) -> list[str]:
    """Return the names of the sections that contain ``keys``: ["TRAIN", "TEST", ...]."""
    return list(dict.fromkeys(key.rpartition(".")[0] for key in keys if "." in key))


def describe_wrong_key(key: str, *, known: Iterable[str]) -> str:
    """Describe why ``key`` cannot be set, and suggest similar keys.

    Both the whole key and its last part are compared, ignoring case. So a correct name in a wrong
    section (TRAIN.NUM_FRAMES) suggests the correct section (DATA.NUM_FRAMES).
    """
    known = list(known)
    if key in sections(known):
        return f"{key} is a section: set one of its keys, {_keys_in(key, known)}"
    similarity = {candidate: _similarity(key, candidate) for candidate in known}
    ranked = sorted(known, key=lambda candidate: -similarity[candidate])
    best = similarity[ranked[0]]
    if best >= _MIN_SIMILARITY:
        similar = [name for name in ranked if similarity[name] >= best - _SIMILARITY_MARGIN]
        return f"{key} is not a config key; did you mean {' or '.join(similar[:_MAX_SUGGESTIONS])}?"
    section = key.partition(".")[0]
    if section in known:
        return f"{key} is not a config key; {section} is a key, not a section"
    for name in sections(known):
        if section.lower() == name.lower():
            return f"{key} is not a config key; the keys of {name} are {_keys_in(name, known)}"
    top_level = dict.fromkeys(name.partition(".")[0] for name in known)
    return f"{key} is not a config key; the keys and sections are {', '.join(top_level)}"


def _keys_in(section: str, known: Iterable[str]) -> str:
    names = (key.removeprefix(section + ".") for key in known if key.startswith(section + "."))
    return ", ".join(names)


def _similarity(key: str, candidate: str) -> float:
    """Return the mean similarity, from 0 to 1, of the whole keys and of their last parts."""
    key, candidate = key.lower(), candidate.lower()
    whole = SequenceMatcher(None, key, candidate).ratio()
    last = SequenceMatcher(None, key.rpartition(".")[2], candidate.rpartition(".")[2]).ratio()
    return (whole + last) / 2
