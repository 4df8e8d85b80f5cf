"""The config of a job: the user's, with what follows from its nodes and from the job before it."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from fvcore.common.config import CfgNode

from stvit_video.config import load_config
from stvit_video.config.keys import flatten
from stvit_video.config.load import check_output_dirs
from stvit_video.config.sources import read_overrides
from stvit_video.engine.checkpoint import checkpoint_path
from stvit_video.errors import UserError
from stvit_video.runtime.launch import resolve_device

# Paths that a config may give from the folder in which the user stands. The job stands elsewhere.
PATH_KEYS = (
    "OUTPUT_DIR",
    "DATA.PATH_TO_DATA_DIR",
    "DATA.PATH_PREFIX",
    "TRAIN.CHECKPOINT_FILE_PATH",
    "TEST.CHECKPOINT_FILE_PATH",
    "TENSORBOARD.CLASS_NAMES_PATH",
    "DETECTION.CACHE_DIR",
)
# Words that stand where a path may.
_NO_PATHS = ("", "best")
# What --nodes and --gpus-per-node say.
_OURS = {"NUM_SHARDS": "--nodes", "SHARD_ID": "--nodes", "NUM_GPUS": "--gpus-per-node"}


def load_job_config(
    path: str | Path,
    overrides: Sequence[str],
    *,
    nodes: int | None = None,
    gpus_per_node: int | None = None,
    is_local: bool = False,
) -> CfgNode:
    """Load a config for a job on some nodes; relative paths in it become absolute.

    Args:
        path: the YAML file.
        overrides: as ``load_config`` takes them.
        nodes: NUM_SHARDS; None: the config says it.
        gpus_per_node: NUM_GPUS; 0: DEVICE cpu, with the config's NUM_GPUS ranks a node; None: the
            config says it.
        is_local: the job runs on this machine.

    Raises:
        UserError: as ``load_config``, or an override says what the flags say too.
    """
    given = {setting.key for setting in read_overrides(overrides)}
    own = []
    if nodes is not None:
        own += _own("NUM_SHARDS", str(nodes), given)
    if gpus_per_node:
        own += _own("NUM_GPUS", str(gpus_per_node), given)
    elif gpus_per_node == 0:
        own += ["DEVICE", "cpu"]
    cfg = load_config(path, [*overrides, *own])
    if gpus_per_node and cfg.DEVICE == "cpu":
        raise UserError(
            f"--gpus-per-node is {gpus_per_node}, but DEVICE is cpu, which uses none: write "
            "--gpus-per-node 0, or DEVICE cuda"
        )
    if cfg.DEVICE == "auto":
        # On a node a GPU that cannot be used would go unnoticed, and the job train on the CPU.
        own += ["DEVICE", resolve_device("auto", cfg.NUM_GPUS) if is_local else "cuda"]
    return load_config(path, [*overrides, *own, *_absolute_paths(cfg)])


def with_settings(cfg: CfgNode, **settings: object) -> CfgNode:
    """Copy a config with other values; of TRAIN.ENABLE the name is TRAIN__ENABLE."""
    other = cfg.clone()
    other.defrost()
    for name, value in settings.items():
        *parents, last = name.split("__")
        node = other
        for parent in parents:
            node = node[parent]
        assert last in node, name
        node[last] = value
    other.freeze()
    return other


def split_array(text: str) -> tuple[str, list[str]]:
    """Split "SOLVER.BASE_LR=1e-3,5e-4" into the key and its values; brackets hold together.

    Raises:
        UserError: there is no key, or fewer than two different values.
    """
    key, _, listed = text.partition("=")
    values = [value.strip() for value in re.split(r",(?![^(\[]*[)\]])", listed)]
    if not key or not all(values) or len(set(values)) < 2 or len(set(values)) < len(values):
        raise UserError(
            f'--array takes a key and two or more different values, but it is "{text}": write '
            "KEY=VALUE,VALUE, such as SOLVER.BASE_LR=1e-3,5e-4"
        )
    return key, values


def array_overrides(key: str, value: str, *, output_dir: str) -> list[str]:
    """Return the overrides of one job of an array, which has an OUTPUT_DIR of its own."""
    if key == "OUTPUT_DIR":
        return [key, value]
    return [key, value, "OUTPUT_DIR", f"{output_dir}/{file_name(f'{key}={value}')}"]


def file_name(text: str) -> str:
    """Return ``text`` with an underscore for all that is not usual in names of files."""
    return re.sub(r"[^\w.=,+-]+", "_", text)


def _own(key: str, value: str, given: set[str]) -> list[str]:
    if key in given:
        raise UserError(f"{key} is what {_OURS[key]} says: give one of the two")
    return [key, value]


def _absolute_paths(cfg: CfgNode) -> list[str]:
    values = flatten(cfg)
    return [
        word
        for key in PATH_KEYS
        if values[key] not in _NO_PATHS
        for word in (key, str(Path(str(values[key])).absolute()))
    ]


def chain_configs(configs: Sequence[CfgNode]) -> list[CfgNode]:
    """Let every config but the first start from what the one before it will have trained.

    The weights alone are taken: it is another run, with a schedule of its own. A config that only
    tests, tests them.

    Raises:
        UserError: one that others build on does not train, or two write to the same folder.
    """
    chained = [configs[0]]
    for before, cfg in pairwise(configs):
        if not before.TRAIN.ENABLE:
            raise UserError(
                "every config of --chain but the last must train (TRAIN.ENABLE True), as the next "
                f"one starts from its checkpoint; that of {before.OUTPUT_DIR} does not"
            )
        chained.append(starting_from(cfg, last_checkpoint(before)))
    check_output_dirs(configs)
    return chained


def last_checkpoint(cfg: CfgNode) -> Path:
    """Return where the run of a config will write its last checkpoint."""
    return checkpoint_path(cfg.OUTPUT_DIR, cfg.SOLVER.MAX_EPOCH)


def starting_from(cfg: CfgNode, path: Path) -> CfgNode:
    """Copy a config that trains, or else tests, with the weights of a checkpoint."""
    if not cfg.TRAIN.ENABLE:
        return with_settings(cfg, TEST__CHECKPOINT_FILE_PATH=str(path))
    return with_settings(
        cfg, TRAIN__CHECKPOINT_FILE_PATH=str(path), TRAIN__CHECKPOINT_EPOCH_RESET=True
    )
