"""Dotted names of config keys, and what to say to someone who wrote a wrong one."""

from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from typing import Any

# Below this likeness a suggestion would send the user to an unrelated key.
_LIKE_ENOUGH = 0.65
# Keys about as like as the best one are offered too: BATCH_SIZE stands in TRAIN and in TEST.
_NEARLY_AS_LIKE = 0.05
_MOST_SUGGESTIONS = 3


def leaves(node: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """Flatten a config or a dict of dicts: {"TRAIN.BATCH_SIZE": 64, ...}, in its order."""
    flat: dict[str, Any] = {}
    for name, value in node.items():
        if isinstance(value, Mapping):
            flat.update(leaves(value, prefix=f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def sections(keys: Iterable[str]) -> list[str]:
    """Names of the nodes that hold ``keys``: ["TRAIN", "TEST", ...]."""
    return list(dict.fromkeys(key.rpartition(".")[0] for key in keys if "." in key))


def describe_wrong_key(key: str, *, known: Iterable[str]) -> str:
    """Say in a clause why ``key`` cannot be set, and which key is probably meant.

    A key is compared as a whole and by its last part alone, without regard to case, so that
    a right name in the wrong section (TRAIN.NUM_FRAMES) finds its section (DATA.NUM_FRAMES).
    """
    known = list(known)
    if key in sections(known):
        return f"{key} is a section, so set one of its keys: {_keys_of(key, known)}"
    likeness = {candidate: _likeness(key, candidate) for candidate in known}
    ranked = sorted(known, key=lambda candidate: -likeness[candidate])
    best = likeness[ranked[0]]
    if best >= _LIKE_ENOUGH:
        near = [name for name in ranked if likeness[name] >= best - _NEARLY_AS_LIKE]
        return f"{key} is no config key; did you mean {' or '.join(near[:_MOST_SUGGESTIONS])}?"
    section = key.partition(".")[0]
    if section in known:
        return f"{key} is no config key; {section} is no section but a key itself"
    for name in sections(known):
        if section.lower() == name.lower():
            return f"{key} is no config key; the keys of {name} are {_keys_of(name, known)}"
    top = dict.fromkeys(name.partition(".")[0] for name in known)
    return f"{key} is no config key; the keys and sections are {', '.join(top)}"


def _keys_of(section: str, known: Iterable[str]) -> str:
    names = (key.removeprefix(section + ".") for key in known if key.startswith(section + "."))
    return ", ".join(names)


def _likeness(key: str, candidate: str) -> float:
    """Mean likeness, from 0 to 1, of the whole names and of their last parts."""
    key, candidate = key.lower(), candidate.lower()
    whole = SequenceMatcher(None, key, candidate).ratio()
    last = SequenceMatcher(None, key.rpartition(".")[2], candidate.rpartition(".")[2]).ratio()
    return (whole + last) / 2
