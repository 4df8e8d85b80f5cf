"""Build the plans of jobs from the options of a launch and the configs it names."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
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
from stvit_video.slurm.plan import Plan, Request
from stvit_video.slurm.sbatch import check_gres_gpus, read_sbatch_options, read_srun_options
from stvit_video.slurm.scontrol import parse_minutes

_DEFAULT_TIME = "1-00:00:00"
# A job on this machine needs no limit, but submitit requires one.
_LOCAL_TIME = "1000-0"
# Keys that may hold paths relative to the user's working directory, which is not the job's.
PATH_KEYS = (
    "OUTPUT_DIR",
    "DATA.PATH_TO_DATA_DIR",
    "DATA.PATH_PREFIX",
    "TRAIN.CHECKPOINT_FILE_PATH",
    "TEST.CHECKPOINT_FILE_PATH",
    "TENSORBOARD.CLASS_NAMES_PATH",
    "DETECTION.CACHE_DIR",
)
# Values of these keys that are no paths.
_NO_PATHS = ("", "best")


@dataclass(frozen=True)
class LaunchOptions:
    """The command line of a launch; options that are None or empty follow from the config.

    Attributes:
        cfg_files: the config of one job, or of each job of a chain (``is_chain``).
        overrides: overrides of all configs.
        own_overrides: overrides of each config, which win over ``overrides``.
        local: run the job on this machine, without SLURM.
        array: "KEY=VALUE,VALUE": a job for each value; empty: one job.
        time: time limit of one start in SLURM's format; empty: a day, or the partition's limit.
        job_dir: where the job folders are.
        sbatch, srun_args: more options, see `read_sbatch_options` and `read_srun_options`.

    The others are as in `Request` and `Plan`.
    """

    cfg_files: Sequence[str]
    overrides: Sequence[str]
    own_overrides: Sequence[Sequence[str]]
    is_chain: bool
    local: bool
    array: str
    nodes: int | None
    gpus_per_node: int | None
    cpus_per_task: int | None
    time: str
    mem: str
    partition: str
    account: str
    qos: str
    constraint: str
    exclude: str
    mail: str
    name: str
    job_dir: Path
    max_requeues: int
    requeue_on_failure: bool
    timeout_s: float
    sbatch: Sequence[str] = ()
    srun_args: Sequence[str] = ()


def build_plans(options: LaunchOptions) -> list[Plan]:
    """Read the configs and build the plan of each job.

    Raises:
        UserError: a config or an option is wrong.
    """
    minutes = parse_minutes(options.time or (_LOCAL_TIME if options.local else _DEFAULT_TIME))
    if not minutes:
        raise UserError(f"--time must be above 0 and limited, but it is {options.time}")
    if "%" in str(options.job_dir):
        raise UserError(
            "--job-dir must not contain %, which SLURM expands in file names, but it is "
            f"{options.job_dir}"
        )
    sources, names, configs = _build_configs(options)
    folders = _choose_folders(options.job_dir, names)
    return [
        Plan(
            name=name,
            source=source,
            cfg=cfg,
            request=_build_request(options, cfg, minutes=minutes),
            folder=folder,
            max_requeues=options.max_requeues,
            requeue_on_failure=options.requeue_on_failure,
            timeout_s=options.timeout_s,
            is_local=options.local,
        )
        for source, name, cfg, folder in zip(sources, names, configs, folders, strict=True)
    ]


def _build_configs(options: LaunchOptions) -> tuple[list[str], list[str], list[CfgNode]]:
    """Return the config file, the name and the config of each job."""
    sources = list(options.cfg_files)

    def load(source: str, overrides: Sequence[str]) -> CfgNode:
        return load_job_config(
            source,
            [*options.overrides, *overrides],
            nodes=options.nodes,
            gpus_per_node=options.gpus_per_node,
            is_local=options.local,
        )

    configs = [
        load(source, own) for source, own in zip(sources, options.own_overrides, strict=True)
    ]
    names = [options.name or Path(source).stem for source in sources]
    if options.array:
        key, values = parse_array(options.array)
        output_dir = configs[0].OUTPUT_DIR
        configs = [
            load(sources[0], array_overrides(key, value, output_dir=output_dir)) for value in values
        ]
        names = [_to_file_name(f"{names[0]}-{key}={value}") for value in values]
        sources *= len(values)
    elif options.is_chain:
        configs = chain_configs(configs)
    return sources, names, configs


def load_job_config(
    path: str | Path,
    overrides: Sequence[str],
    *,
    nodes: int | None = None,
    gpus_per_node: int | None = None,
    is_local: bool = False,
) -> CfgNode:
    """Load the config of a job; relative paths become absolute, and DEVICE auto is resolved.

    Args:
        path: the YAML file.
        overrides: as for ``load_config``.
        nodes: NUM_SHARDS; None: the config's.
        gpus_per_node: NUM_GPUS; 0: DEVICE cpu, with the config's NUM_GPUS as ranks per node; None:
            the config's.
        is_local: the job runs on this machine.

    Raises:
        UserError: as for ``load_config``, or an override and a flag set the same key.
    """
    overridden = {setting.key for setting in read_overrides(overrides)}
    if nodes is not None and overridden & {"NUM_SHARDS"}:
        raise UserError("NUM_SHARDS and --nodes set the same number: give only one of them")
    if gpus_per_node and overridden & {"NUM_GPUS"}:
        raise UserError("NUM_GPUS and --gpus-per-node set the same number: give only one of them")
    implied = []
    if nodes is not None:
        implied += ["NUM_SHARDS", str(nodes)]
    if gpus_per_node:
        implied += ["NUM_GPUS", str(gpus_per_node)]
    elif gpus_per_node == 0:
        implied += ["DEVICE", "cpu"]
    cfg = load_config(path, [*overrides, *implied])
    if gpus_per_node and cfg.DEVICE == "cpu":
        raise UserError(
            f"--gpus-per-node is {gpus_per_node}, but DEVICE is cpu, which uses no GPUs: set "
            "--gpus-per-node 0 or DEVICE cuda"
        )
    if cfg.DEVICE == "auto":
        # With auto, a job on a node whose GPU is broken would train on the CPU unnoticed.
        implied += ["DEVICE", resolve_device("auto", cfg.NUM_GPUS) if is_local else "cuda"]
    values = flatten(cfg)
    for key in PATH_KEYS:
        if values[key] not in _NO_PATHS:
            implied += [key, str(Path(str(values[key])).absolute())]
    return load_config(path, [*overrides, *implied])


def parse_array(text: str) -> tuple[str, list[str]]:
    """Split "SOLVER.BASE_LR=1e-3,5e-4" into key and values; commas in brackets do not split.

    Raises:
        UserError: there is no key, or there are fewer than two different values.
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
    """Return the overrides of one job of an array, which has its own OUTPUT_DIR."""
    if key == "OUTPUT_DIR":
        return [key, value]
    return [key, value, "OUTPUT_DIR", f"{output_dir}/{_to_file_name(f'{key}={value}')}"]


def chain_configs(configs: Sequence[CfgNode]) -> list[CfgNode]:
    """Make each config but the first start from the final checkpoint of the previous one.

    Only the weights are loaded, because it is a new run with its own schedule. A config that does
    not train tests them.

    Raises:
        UserError: a config other than the last does not train, or two use the same OUTPUT_DIR.
    """
    chained = [configs[0]]
    for previous, cfg in pairwise(configs):
        if not previous.TRAIN.ENABLE:
            raise UserError(
                "every config of --chain but the last must train (TRAIN.ENABLE True), because the "
                f"next one starts from its checkpoint, but that of {previous.OUTPUT_DIR} does not"
            )
        final_checkpoint = checkpoint_path(previous.OUTPUT_DIR, previous.SOLVER.MAX_EPOCH)
        chained.append(with_weights(cfg, final_checkpoint))
    check_output_dirs(configs)
    return chained


def with_weights(cfg: CfgNode, path: Path) -> CfgNode:
    """Copy a config, with the weights to start training from or, if it does not train, to test."""
    if not cfg.TRAIN.ENABLE:
        return with_settings(cfg, TEST__CHECKPOINT_FILE_PATH=str(path))
    return with_settings(
        cfg, TRAIN__CHECKPOINT_FILE_PATH=str(path), TRAIN__CHECKPOINT_EPOCH_RESET=True
    )


def with_settings(cfg: CfgNode, **settings: object) -> CfgNode:
    """Copy a config with other values; TRAIN__ENABLE stands for TRAIN.ENABLE."""
    copy = cfg.clone()
    copy.defrost()
    for name, value in settings.items():
        *parents, last = name.split("__")
        node = copy
        for parent in parents:
            node = node[parent]
        assert last in node, name
        node[last] = value
    copy.freeze()
    return copy


def _choose_folders(job_dir: Path, names: Sequence[str]) -> list[Path]:
    """Return a new folder for each job."""
    timestamp = time.strftime("%Y%m%d-%H%M%S")
    folders: list[Path] = []
    for name in names:
        first = job_dir.absolute() / f"{timestamp}-{_to_file_name(name)}"
        folder, number = first, 1
        while folder in folders or folder.exists():
            number += 1
            folder = first.with_name(f"{first.name}-{number}")
        folders.append(folder)
    return folders


def _to_file_name(text: str) -> str:
    """Replace characters that are unusual in file names by underscores."""
    return re.sub(r"[^\w.=,+-]+", "_", text)


def _build_request(options: LaunchOptions, cfg: CfgNode, *, minutes: int) -> Request:
    gpus_per_node = 0 if cfg.DEVICE == "cpu" else cfg.NUM_GPUS
    sbatch = read_sbatch_options(options.sbatch)
    check_gres_gpus(sbatch, gpus_per_node)
    return Request(
        nodes=cfg.NUM_SHARDS,
        gpus_per_node=gpus_per_node,
        tasks_per_node=cfg.NUM_GPUS,
        # The loader's workers and the rank itself.
        cpus_per_task=options.cpus_per_task or cfg.DATA_LOADER.NUM_WORKERS + 1,
        minutes=minutes,
        is_time_given=bool(options.time),
        mem=options.mem,
        partition=options.partition,
        account=options.account,
        qos=options.qos,
        constraint=options.constraint,
        exclude=options.exclude,
        mail=options.mail,
        sbatch=sbatch,
        srun_args=read_srun_options(options.srun_args),
    )
