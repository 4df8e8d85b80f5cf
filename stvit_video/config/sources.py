"""Where settings come from: YAML files with ``_BASE_``, and overrides of the command line."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import yaml

from stvit_video.errors import UserError

_BASE_KEY = "_BASE_"
# Anything else is refused: the config libraries below would execute a .py file.
_SUFFIXES = (".yaml", ".yml")
_KEY_AND_VALUE = re.compile(r"([A-Za-z_][\w.]*)(?:\s*=\s*|\s+)(.*)", re.DOTALL)
_MOST_NAMES = 5


@dataclass(frozen=True)
class Setting:
    """A value for a key, as it was written, and where: "configs/a.yaml:3" or "override"."""

    key: str
    value: object
    origin: str


def read_file(path: Path) -> list[Setting]:
    """Read a YAML file after the file that its ``_BASE_`` names, and so on; later ones win.

    Raises:
        UserError: a file is missing, is not YAML, sets a key twice, or is its own base.
    """
    return _read_with_base(_File(path))


def read_overrides(overrides: Sequence[object]) -> list[Setting]:
    """Read ["A.B", "8", "C=9", "D 10"]: keys each followed by its value, or joined to it.

    Raises:
        UserError: the last key has no value.
    """
    settings = []
    items = iter(overrides)
    for item in items:
        joined = _KEY_AND_VALUE.fullmatch(str(item))
        if joined:
            settings.append(Setting(joined[1], joined[2], "override"))
            continue
        try:
            settings.append(Setting(str(item), next(items), "override"))
        except StopIteration:
            raise UserError(
                f'override: every key needs a value, but nothing follows "{item}": '
                "write KEY VALUE or KEY=VALUE"
            ) from None
    return settings


@dataclass(frozen=True)
class _File:
    """A file to read, and the files that led to it: each one's ``_BASE_`` is the next."""

    path: Path
    derived: tuple[Path, ...] = ()
    named_at: str = ""

    def origin(self, node: yaml.Node | yaml.Mark) -> str:
        line = (node.start_mark if isinstance(node, yaml.Node) else node).line + 1
        below = f", _BASE_ of {self.derived[0]}" if self.derived else ""
        return f"{self.path}:{line}{below}"

    def base(self, setting: Setting) -> "_File":
        if not isinstance(setting.value, str):
            raise UserError(f"{setting.origin}: _BASE_ takes one path, not {setting.value!r}")
        path = self.path.parent / Path(setting.value).expanduser()
        chain = (*self.derived, self.path)
        if path.resolve() in (file.resolve() for file in chain):
            names = " -> ".join(map(str, (*chain, path)))
            raise UserError(
                f"{setting.origin}: _BASE_ must not lead back to the file, but it does: {names}"
            )
        return _File(path, derived=chain, named_at=f"{setting.origin}: ")


def _read_with_base(file: _File) -> list[Setting]:
    _check_path(file.path, named_at=file.named_at)
    own: dict[str, Setting] = {}
    for setting in _parse(file):
        if setting.key in own:
            raise UserError(
                f"{setting.origin}: a file sets a key once, but {setting.key} stands at "
                f"{own[setting.key].origin} too: remove one of them"
            )
        own[setting.key] = setting
    base = own.pop(_BASE_KEY, None)
    inherited = _read_with_base(file.base(base)) if base else []
    return [*inherited, *own.values()]


def _parse(file: _File) -> list[Setting]:
    """Return all leaves of a YAML file, in the file's order."""
    try:
        loader = yaml.SafeLoader(file.path.read_bytes())
        try:
            root = loader.get_single_node()
            return [] if root is None else list(_leaves(root, loader=loader, file=file))
        finally:
            loader.dispose()
    except OSError as error:
        raise UserError(f"{file.path}: the config cannot be read: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        origin = file.origin(mark) if mark else file.path
        raise UserError(f"{origin}: this is not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise UserError(f"{file.path}: this is not valid YAML: {problem}") from None
    except RecursionError:
        raise UserError(f"{file.path}: the YAML is nested without end: unfold it") from None


def _leaves(
    node: yaml.Node, *, loader: yaml.SafeLoader, file: _File, prefix: str = ""
) -> Iterator[Setting]:
    # The node tree is walked, not the loaded dict: nodes know their lines, and a dict has
    # already dropped the first of two equal keys.
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{file.origin(node)}: a config file holds KEY: VALUE lines")
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(f"{file.origin(key_node)}: a key is a name, such as TRAIN")
        key, origin = prefix + key_node.value, file.origin(key_node)
        if isinstance(value_node, yaml.MappingNode) and value_node.value:
            yield from _leaves(value_node, loader=loader, file=file, prefix=f"{key}.")
            continue
        try:
            value = loader.construct_object(value_node, deep=True)
        except ValueError as error:  # a date that there is not, a number without end
            raise UserError(f"{origin}: {key} cannot be read: {error}") from None
        yield Setting(key, value, origin)


def _check_path(path: Path, *, named_at: str) -> None:
    if path.is_file() and path.suffix in _SUFFIXES:
        return
    if path.exists():
        raise UserError(f"{named_at}a config is a {' or '.join(_SUFFIXES)} file, not {path}")
    if not path.parent.is_dir():
        raise UserError(
            f"{named_at}there is no config {path}, as there is no folder {path.parent}: "
            "check the path and the folder in which you started"
        )
    names = sorted(file.name for file in path.parent.iterdir() if file.suffix in _SUFFIXES)
    near = get_close_matches(path.name, names, n=_MOST_NAMES, cutoff=0.0)
    there = f"that folder holds {', '.join(near)}" if near else "that folder holds no config"
    raise UserError(f"{named_at}there is no config {path}; {there}")
