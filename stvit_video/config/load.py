"""Loading: the defaults, then the YAML files, then the overrides, then validation."""

from collections.abc import Sequence
from pathlib import Path
from reprlib import repr as shorten

from fvcore.common.config import CfgNode

from stvit_video.config.defaults import default_config
from stvit_video.config.keys import describe_wrong_key, leaves, sections
from stvit_video.config.sources import Setting, read_file, read_overrides
from stvit_video.config.validate import validate
from stvit_video.config.values import convert
from stvit_video.errors import UserError


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
