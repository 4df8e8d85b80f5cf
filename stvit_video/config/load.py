"""Load a config from the default values, YAML files and overrides, and check it."""

import ast
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from reprlib import repr as shorten

import yaml
from fvcore.common.config import CfgNode

from stvit_video.config.defaults import default_config
from stvit_video.config.keys import describe_wrong_key, flatten, sections
from stvit_video.config.model_rules import DETECTION_RULES, MODEL_RULES, SEMANTIC_RULES
from stvit_video.config.rules import DATA_RULES, RUN_RULES, SOLVER_RULES, Rule
from stvit_video.config.sources import Setting, read_file, read_overrides
from stvit_video.errors import UserError

# Rules are checked in this order, and a rule may assume that all earlier ones hold. For example,
# the length of a list is checked before its entries, and a divisor before a division.
RULES: tuple[Rule, ...] = (
    *RUN_RULES,
    *DATA_RULES,
    *MODEL_RULES,
    *SEMANTIC_RULES,
    *DETECTION_RULES,
    *SOLVER_RULES,
)

_TYPE_NAMES = {
    bool: "true or false",
    int: "an integer",
    float: "a finite number",
    str: "a string (in quotes if it looks like a number)",
}


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> CfgNode:
    """Load a YAML config over the default values, apply ``overrides``, check it and freeze it.

    A file may inherit from another one, relative to itself: ``_BASE_: swin_t.yaml``. Overrides are
    ["TRAIN.BATCH_SIZE", "8", ...] or ["TRAIN.BATCH_SIZE=8", ...]; the last one wins. Lists become
    tuples.

    Raises:
        UserError: an unknown key, a value of a wrong type, values that do not work together, or a
            file that cannot be read. The message has the file and the line.
    """
    cfg = default_config()
    defaults = flatten(cfg)
    origins: dict[str, str] = {}
    for setting in (*read_file(Path(path)), *read_overrides(overrides)):
        if setting.value in (None, {}) and setting.key in sections(defaults):
            continue  # A section with only comments.
        *section, name = setting.key.split(".")
        value = _converted_value(setting, defaults=defaults)
        node = cfg
        for part in section:
            node = node[part]
        node[name] = value
        origins[setting.key] = setting.origin
    validate(cfg, origins=origins)
    cfg.freeze()
    return cfg


def dump_config(cfg: CfgNode, path: str | Path) -> None:
    """Write all keys to a YAML file. ``load_config`` reads it back as an equal config."""
    text = cfg.dump(sort_keys=False, default_flow_style=None, allow_unicode=True)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")


def validate(cfg: CfgNode, *, origins: Mapping[str, str]) -> None:
    """Check a merged config against all rules.

    Args:
        cfg: the config, with values of the types of the defaults.
        origins: where the values that are not defaults come from, {dotted key: "a.yaml:3"}.

    Raises:
        UserError: a rule does not hold. The message has the values of the first such rule and
            their origins.
    """
    values = flatten(cfg)
    for rule in RULES:
        if rule.is_broken(values):
            raise UserError(rule.describe(values, origins=origins))


def check_output_dirs(configs: Sequence[CfgNode]) -> None:
    """Check that no two configs of one command train in the same OUTPUT_DIR.

    Raises:
        UserError: two configs do.
    """
    folders = [Path(cfg.OUTPUT_DIR).resolve() for cfg in configs if cfg.TRAIN.ENABLE]
    for folder in folders:
        if folders.count(folder) > 1:
            raise UserError(
                f"each config that is trained needs an OUTPUT_DIR of its own, but {folder} "
                "is used by several: set it in the files, or with --chain behind each file"
            )


def convert(value: object, *, like: object) -> object:
    """Convert ``value`` to the type of ``like``: bool, int, float, str, or a tuple of one of them.

    Strings are parsed as literals if another type is expected, because YAML 1.1 reads ``1e-3`` and
    ``(8, 7, 7)`` as strings, and so is every value on the command line. An int is accepted for a
    float and a list for a tuple, whose entries have the type of the first entry of ``like``, or
    str if ``like`` is empty. A bool is only accepted for a bool.

    Raises:
        TypeError: the value has another type. The message is the name of the expected type.
    """
    expected = type(like)
    if isinstance(value, str) and expected is not str:
        value = _parse_literal(value)
    if isinstance(like, tuple):
        return _convert_entries(value, like=like[0] if like else "")
    if expected is float and type(value) is int:
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
    # Compare exact types, because a bool is an instance of int.
    if type(value) is not expected or (isinstance(value, float) and not math.isfinite(value)):
        raise TypeError(_TYPE_NAMES[expected])
    return value


def _convert_entries(value: object, *, like: object) -> tuple[object, ...]:
    expected = f"a list in which each entry is {_TYPE_NAMES[type(like)]}"
    if not isinstance(value, list | tuple):
        raise TypeError(expected)
    try:
        return tuple(convert(entry, like=like) for entry in value)
    except TypeError:
        raise TypeError(expected) from None


def _parse_literal(text: str) -> object:
    """Parse ``text`` as a Python literal or YAML, or return it unchanged."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        pass
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def _converted_value(setting: Setting, *, defaults: dict[str, object]) -> object:
    if setting.key not in defaults:
        raise UserError(f"{setting.origin}: {describe_wrong_key(setting.key, known=defaults)}")
    try:
        return convert(setting.value, like=defaults[setting.key])
    except TypeError as error:
        raise UserError(
            f"{setting.origin}: {setting.key} must be {error}, not {shorten(setting.value)}"
        ) from None
