"""Read config settings from YAML files with ``_BASE_``, and from command line overrides."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import yaml

from stvit_video.errors import UserError

_BASE_KEY = "_BASE_"
# Other files are rejected, because fvcore's CfgNode would execute a .py file.
_SUFFIXES = (".yaml", ".yml")
_OVERRIDE = re.compile(r"([A-Za-z_][\w.]*)(?:\s*=\s*|\s+)(.*)", re.DOTALL)
_MAX_SUGGESTIONS = 5


@dataclass(frozen=True)
class Setting:
    """A key with its value as written, and its origin: "configs/a.yaml:3" or "override"."""

    key: str
    value: object
    origin: str


def read_file(path: Path) -> list[Setting]:
    """Read the settings of a YAML file, preceded by those of its ``_BASE_`` files. Later ones win.

    Raises:
        UserError: a file is missing, is not valid YAML, sets a key twice, or is its own base.
    """
    return _read_with_base(_File(path))


def read_overrides(overrides: Sequence[object]) -> list[Setting]:
    """Parse overrides: keys each followed by its value or joined to it, ["A.B", "8", "C=9", "D 1"].

    Raises:
        UserError: the last key has no value.
    """
    settings = []
    items = iter(overrides)
    for item in items:
        joined = _OVERRIDE.fullmatch(str(item))
        if joined:
            settings.append(Setting(joined[1], joined[2], "override"))
            continue
        try:
            settings.append(Setting(str(item), next(items), "override"))
        except StopIteration:
            raise UserError(
                f'override: each key needs a value, but nothing follows "{item}": '
                "write KEY VALUE or KEY=VALUE"
            ) from None
    return settings


@dataclass(frozen=True)
class _File:
    """A config file to read.

    Attributes:
        path: the file.
        derived: the files that led to it. The ``_BASE_`` of each is the next one.
        named_at: prefix of error messages, the place of the ``_BASE_`` that names the file.
    """

    path: Path
    derived: tuple[Path, ...] = ()
    named_at: str = ""

    def origin(self, node: yaml.Node | yaml.Mark) -> str:
        line = (node.start_mark if isinstance(node, yaml.Node) else node).line + 1
        suffix = f", _BASE_ of {self.derived[0]}" if self.derived else ""
        return f"{self.path}:{line}{suffix}"

    def base(self, setting: Setting) -> "_File":
        if not isinstance(setting.value, str):
            raise UserError(f"{setting.origin}: _BASE_ must be one path, not {setting.value!r}")
        path = self.path.parent / Path(setting.value).expanduser()
        chain = (*self.derived, self.path)
        if path.resolve() in (file.resolve() for file in chain):
            names = " -> ".join(map(str, (*chain, path)))
            raise UserError(f"{setting.origin}: _BASE_ must not be circular, but it is: {names}")
        return _File(path, derived=chain, named_at=f"{setting.origin}: ")


def _read_with_base(file: _File) -> list[Setting]:
    _check_path(file.path, named_at=file.named_at)
    own: dict[str, Setting] = {}
    for setting in _parse(file):
        if setting.key in own:
            raise UserError(
                f"{setting.origin}: a file must set a key only once, but {setting.key} is also "
                f"set at {own[setting.key].origin}: remove one of them"
            )
        own[setting.key] = setting
    base = own.pop(_BASE_KEY, None)
    inherited = _read_with_base(file.base(base)) if base else []
    return [*inherited, *own.values()]


def _check_path(path: Path, *, named_at: str) -> None:
    if path.is_file() and path.suffix in _SUFFIXES:
        return
    if path.exists():
        raise UserError(f"{named_at}a config must be a {' or '.join(_SUFFIXES)} file, not {path}")
    if not path.parent.is_dir():
        raise UserError(
            f"{named_at}config {path} not found, because folder {path.parent} does not exist: "
            "check the path and the working directory"
        )
    names = sorted(file.name for file in path.parent.iterdir() if file.suffix in _SUFFIXES)
    similar = get_close_matches(path.name, names, n=_MAX_SUGGESTIONS, cutoff=0.0)
    found = f"its folder has {', '.join(similar)}" if similar else "its folder has no configs"
    raise UserError(f"{named_at}config {path} not found; {found}")


def _parse(file: _File) -> list[Setting]:
    """Return all settings of a YAML file in its order."""
    try:
        loader = yaml.SafeLoader(file.path.read_bytes())
        try:
            root = loader.get_single_node()
            return [] if root is None else list(_settings(root, loader=loader, file=file))
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
        raise UserError(f"{file.path}: the YAML is nested too deeply: flatten it") from None


def _settings(
    node: yaml.Node, *, loader: yaml.SafeLoader, file: _File, prefix: str = ""
) -> Iterator[Setting]:
    # Walk the nodes instead of the loaded dict: nodes have line numbers, and a dict has already
    # dropped duplicate keys.
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{file.origin(node)}: a config file must have lines of KEY: VALUE")
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(f"{file.origin(key_node)}: a key must be a name, such as TRAIN")
        key, origin = prefix + key_node.value, file.origin(key_node)
        if isinstance(value_node, yaml.MappingNode) and value_node.value:
            yield from _settings(value_node, loader=loader, file=file, prefix=f"{key}.")
            continue
        try:
            value = loader.construct_object(value_node, deep=True)
        except ValueError as error:  # An invalid date, or an integer with too many digits.
            raise UserError(f"{origin}: {key} cannot be read: {error}") from None
        yield Setting(key, value, origin)
