"""Load a config: the defaults, then the YAML files, then the overrides, then validation."""

import ast
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from reprlib import repr as shorten

import yaml
from fvcore.common.config import CfgNode

from stvit_video.config.defaults import default_config
from stvit_video.config.keys import describe_wrong_key, leaves, sections
from stvit_video.config.model_rules import DETECTION_RULES, MODEL_RULES, SEMANTIC_RULES
from stvit_video.config.rules import DATA_RULES, RUN_RULES, SOLVER_RULES, Rule
from stvit_video.config.sources import Setting, read_file, read_overrides
from stvit_video.errors import UserError

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


# In order: a rule may take for granted that those before it hold (a length before the entries,
# a divisor above 0 before a division).
RULES: tuple[Rule, ...] = (
    *RUN_RULES,
    *DATA_RULES,
    *MODEL_RULES,
    *SEMANTIC_RULES,
    *DETECTION_RULES,
    *SOLVER_RULES,
)


def validate(cfg: CfgNode, *, origins: Mapping[str, str]) -> None:
    """Check a merged config against all rules before anything starts.

    Args:
        cfg: the config, whose values have the types of the defaults.
        origins: where the values that are not defaults were written, {dotted key: "a.yaml:3"}.

    Raises:
        UserError: the first rule that does not hold, with the values and where they stand.
    """
    values = leaves(cfg)
    for rule in RULES:
        if rule.is_broken(values):
            raise UserError(rule.describe(values, origins=origins))


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> CfgNode:
    """Load a YAML config on top of the defaults, apply ``overrides``, check it and freeze it.

    A file may name another one to inherit from, relative to itself: ``_BASE_: swin_t.yaml``.
    Overrides are ["TRAIN.BATCH_SIZE", "8", ...] or ["TRAIN.BATCH_SIZE=8", ...]; the last wins.
    Sequences come out as tuples.

    Raises:
        UserError: an unknown key, a value of a wrong type, a combination that cannot run, or a
            file that cannot be read; the message names the file and the line.
    """
    cfg = default_config()
    defaults = leaves(cfg)
    origins: dict[str, str] = {}
    for setting in (*read_file(Path(path)), *read_overrides(overrides)):
        if setting.value in (None, {}) and setting.key in sections(defaults):
            continue  # a section all of whose lines are comments
        _set(cfg, setting.key, _checked_value(setting, defaults=defaults))
        origins[setting.key] = setting.origin
    validate(cfg, origins=origins)
    cfg.freeze()
    return cfg


def check_output_dirs(configs: Sequence[CfgNode]) -> None:
    """Check that no two configs of one command train in the same folder.

    Raises:
        UserError: two do.
    """
    folders = [Path(cfg.OUTPUT_DIR).resolve() for cfg in configs if cfg.TRAIN.ENABLE]
    for folder in folders:
        if folders.count(folder) > 1:
            raise UserError(
                f"every config that is trained needs an OUTPUT_DIR of its own, but {folder} "
                "belongs to several: set it in the files, or with --chain behind each file"
            )


def dump_config(cfg: CfgNode, path: str | Path) -> None:
    """Write every key as YAML; ``load_config`` reads the file back to an equal config."""
    text = cfg.dump(sort_keys=False, default_flow_style=None, allow_unicode=True)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")


def _checked_value(setting: Setting, *, defaults: dict[str, object]) -> object:
    if setting.key not in defaults:
        raise UserError(f"{setting.origin}: {describe_wrong_key(setting.key, known=defaults)}")
    try:
        return convert(setting.value, like=defaults[setting.key])
    except TypeError as error:
        raise UserError(
            f"{setting.origin}: {setting.key} takes {error}, not {shorten(setting.value)}"
        ) from None


def _set(cfg: CfgNode, key: str, value: object) -> None:
    *parents, name = key.split(".")
    for parent in parents:
        cfg = cfg[parent]
    cfg[name] = value
