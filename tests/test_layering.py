"""Check the architecture by parsing the source code.

1. Imports go one way: tools -> slurm, paper, benchmarks, synthetic -> inference -> engine -> data,
   models, figures -> config, runtime -> errors. There are no circular imports.
2. ``cfg`` is read only in build.py files and in the packages that run a whole config.
3. Every key with a default is read somewhere, and every key that is read has a default.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from stvit_video.config.defaults import default_config
from stvit_video.config.keys import flatten, sections

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "stvit_video"
# What each package may import from this project besides itself. The longest matching name applies.
MAY_IMPORT = {
    "stvit_video.errors": [],
    "stvit_video.runtime": ["errors"],
    "stvit_video.config": ["errors"],
    "stvit_video.figures": ["errors"],
    "stvit_video.data": ["errors", "runtime"],
    "stvit_video.models": ["errors", "runtime"],
    "stvit_video.models.layers": ["errors"],
    "stvit_video.models.semantic": ["errors", "models.layers"],
    "stvit_video.engine": ["errors", "config", "runtime", "data", "models", "figures"],
    "stvit_video.inference": ["errors", "config", "runtime", "data", "models", "figures", "engine"],
    "stvit_video.slurm": ["errors", "config", "runtime", "engine"],
    # Only programs import the packages that measure or generate.
    "stvit_video.synthetic": ["errors", "data"],
    "stvit_video.benchmarks": [
        "errors",
        "config",
        "runtime",
        "data",
        "models",
        "engine",
        "inference",
    ],
    "stvit_video.paper": ["errors", "config", "runtime", "data", "models", "engine"],
    "tools": [""],
    "slurm": [""],
}
MAY_READ_CFG = ("config", "engine", "inference", "slurm", "paper", "benchmarks", "tools")


def sources() -> dict[str, ast.Module]:
    """Return the syntax trees of all source files, {"stvit_video/data/build.py": tree}."""
    files = [file for part in (PACKAGE, "tools", "slurm") for file in (ROOT / part).rglob("*.py")]
    return {
        file.relative_to(ROOT).as_posix(): ast.parse(file.read_text(encoding="utf-8"))
        for file in sorted(files)
    }


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def is_within(module: str, part: str) -> bool:
    return module == part or module.startswith(part + ".")


def imported_modules(path: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute name) of each import.

    ``from a import b`` gives a.b, because b may be a module.
    """
    package = module_name(path).split(".")
    if not path.endswith("/__init__.py"):
        package = package[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)


def forbidden_imports(path: str, tree: ast.Module) -> list[str]:
    module = module_name(path)
    part = max((part for part in MAY_IMPORT if is_within(module, part)), key=len, default=None)
    allowed = (
        [f"{PACKAGE}.{name}".rstrip(".") for name in MAY_IMPORT[part]] + [part] if part else []
    )
    project = (PACKAGE, "tools", "slurm", "tests")
    return [
        f"{path}:{line}: {part or 'a module without a rule'} must not import {name}"
        for line, name in imported_modules(path, tree)
        if name != PACKAGE  # Has no code of its own.
        and any(is_within(name, one) for one in project)
        and not any(is_within(name, one) for one in allowed)
    ]


def forbidden_cfg(path: str, tree: ast.Module) -> list[str]:
    parts = path.removeprefix(PACKAGE + "/").split("/")
    if parts[0] in MAY_READ_CFG or parts[-1] == "build.py":
        return []
    return [
        f"{path}:{node.lineno}: cfg must not be read here; pass the values as arguments"
        for node in ast.walk(tree)
        if "cfg" in (getattr(node, field, None) for field in ("id", "arg", "attr"))
    ]


def keys_of(node: ast.AST, aliases: dict[str, set[str]]) -> set[str]:
    """Return the dotted keys that an expression may refer to: cfg.A.B, alias.B, or a choice."""
    if isinstance(node, ast.Name):
        return {""} if node.id == "cfg" else aliases.get(node.id, set())
    if isinstance(node, ast.Attribute):
        return {f"{base}.{node.attr}".lstrip(".") for base in keys_of(node.value, aliases)}
    if isinstance(node, ast.IfExp):
        return keys_of(node.body, aliases) | keys_of(node.orelse, aliases)
    return set()


def keys_read(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, key) of each uppercase attribute of ``cfg`` or of an alias of a section."""
    aliases: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            aliases.setdefault(node.targets[0].id, set()).update(keys_of(node.value, {}))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.isupper():
            yield from ((node.lineno, key) for key in sorted(keys_of(node, aliases)))


def unknown_keys(path: str, tree: ast.Module) -> list[str]:
    defaults = flatten(default_config())
    known = {*defaults, *sections(defaults)}
    return [
        f"{path}:{line}: cfg.{key} has no default"
        for line, key in keys_read(tree)
        if key not in known
    ]


def unread_keys(trees: dict[str, ast.Module]) -> list[str]:
    read = {
        key
        for path, tree in trees.items()
        if not path.startswith(f"{PACKAGE}/config/")
        for _, key in keys_read(tree)
    }
    return [key for key in flatten(default_config()) if key not in read]


def test_imports_go_one_way() -> None:
    found = [line for path, tree in sources().items() for line in forbidden_imports(path, tree)]
    assert not found, "\n".join(found)


def test_cfg_is_read_only_where_allowed() -> None:
    found = [line for path, tree in sources().items() for line in forbidden_cfg(path, tree)]
    assert not found, "\n".join(found)


def test_every_key_read_has_a_default() -> None:
    found = [line for path, tree in sources().items() for line in unknown_keys(path, tree)]
    assert not found, "\n".join(found)


def test_every_default_is_read() -> None:
    found = unread_keys(sources())
    assert not found, "never read: " + ", ".join(found)


@pytest.mark.parametrize(
    ("path", "code", "forbidden"),
    [
        ("stvit_video/models/swin.py", "from stvit_video.data import build", True),
        ("stvit_video/models/swin.py", "import stvit_video.engine.train", True),
        ("stvit_video/models/swin.py", "from stvit_video import engine", True),
        ("stvit_video/models/swin.py", "from ..engine import train", True),
        ("stvit_video/models/swin.py", "from .layers import block", False),
        ("stvit_video/models/__init__.py", "from .layers import block", False),
        ("stvit_video/models/layers/block.py", "from stvit_video.models import swin", True),
        ("stvit_video/models/layers/block.py", "import torch", False),
        ("stvit_video/models/layers/block.py", "from stvit_video.errors import UserError", False),
        ("stvit_video/runtime/logging.py", "def f():\n  import stvit_video.config", True),
        ("stvit_video/engine/train.py", "from tools import run_net", True),
        ("stvit_video/engine/train.py", "from stvit_video.models import build_model", False),
        ("stvit_video/engine/train.py", "import stvit_video", False),
        ("stvit_video/new.py", "from stvit_video.models import build_model", True),
        ("tools/run_net.py", "from stvit_video.engine.train import train", False),
        ("stvit_video/engine/train.py", "from stvit_video.slurm.job import RankJob", True),
        ("slurm/launch.py", "from stvit_video.slurm.job import RankJob", False),
    ],
)
def test_forbidden_imports(path: str, code: str, forbidden: bool) -> None:
    assert bool(forbidden_imports(path, ast.parse(code))) == forbidden


@pytest.mark.parametrize(
    ("path", "code", "forbidden"),
    [
        ("stvit_video/models/swin.py", "def f(cfg): ...", True),
        ("stvit_video/models/swin.py", "f(self.cfg)", True),
        ("stvit_video/models/swin.py", "f(config)", False),
        ("stvit_video/models/build.py", "def f(cfg): ...", False),
        ("stvit_video/engine/train.py", "def f(cfg): ...", False),
    ],
)
def test_forbidden_cfg(path: str, code: str, forbidden: bool) -> None:
    assert bool(forbidden_cfg(path, ast.parse(code))) == forbidden


def test_unread_and_unknown_keys() -> None:
    code = """
    node = cfg.TRAIN if training else cfg.TEST
    node.DATASET
    cfg.SWIN.DEPTHS.index(2)
    cfg.freeze()
    cfg.SWIN.DEPTH
    """
    tree = ast.parse("if True:" + code)
    unread = unread_keys({"tools/a.py": tree})
    assert not {"TRAIN.DATASET", "TEST.DATASET", "SWIN.DEPTHS"} & set(unread)
    assert {"TRAIN.BATCH_SIZE", "NUM_GPUS"} <= set(unread)
    assert unread_keys({"stvit_video/config/a.py": tree}) == list(flatten(default_config()))
    assert unknown_keys("tools/a.py", tree) == ["tools/a.py:6: cfg.SWIN.DEPTH has no default"]


def circular_imports(trees: dict[str, ast.Module]) -> list[str]:
    """Return the modules in import cycles, including imports inside functions."""
    modules = {module_name(path) for path in trees}
    imports = {
        module_name(path): {
            next((one for one in (name, name.rpartition(".")[0]) if one in modules), "")
            for _, name in imported_modules(path, tree)
        }
        - {"", module_name(path)}
        for path, tree in trees.items()
    }
    while True:
        imported = set().union(*imports.values())
        inside = {module for module, names in imports.items() if names & imports.keys()} & imported
        if len(inside) == len(imports):
            return sorted(imports)
        imports = {module: imports[module] for module in inside}


def test_no_circular_imports() -> None:
    assert circular_imports(sources()) == []


def test_circular_imports_are_found() -> None:
    trees = {
        "stvit_video/a.py": ast.parse("def f():\n  from stvit_video.b import g"),
        "stvit_video/b.py": ast.parse("from stvit_video import c"),
        "stvit_video/c.py": ast.parse("from stvit_video.a import f"),
        "stvit_video/d.py": ast.parse("from stvit_video.errors import UserError"),
    }
    assert circular_imports(trees) == ["stvit_video.a", "stvit_video.b", "stvit_video.c"]
