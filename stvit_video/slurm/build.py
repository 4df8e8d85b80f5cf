"""From the options of a launch to the plans of its jobs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fvcore.common.config import CfgNode

from stvit_video.errors import UserError
from stvit_video.slurm.config import (
    array_overrides,
    chain_configs,
    file_name,
    load_job_config,
    split_array,
)
from stvit_video.slurm.plan import Plan, Request
from stvit_video.slurm.sbatch import check_typed_gpus, read_sbatch_options, read_srun_options
from stvit_video.slurm.scontrol import parse_minutes

_DEFAULT_TIME = "1-00:00:00"
# Nobody waits for this machine, but submitit wants a limit.
_LOCAL_TIME = "1000-0"


@dataclass(frozen=True)
class LaunchOptions:
    """What the command line says of the jobs; what is None or empty follows from the config.

    Attributes:
        cfg_files: of one job, or of several that start from each other (``is_chain``).
        overrides: of all of them.
        own_overrides: of each of them, before which those of all give way.
        local: the job runs on this machine, without SLURM.
        array: "KEY=VALUE,VALUE": a job for each value; empty: one.
        time: limit of a start, as SLURM writes it; empty: a day, or the partition's limit.
        job_dir: where the folders of all jobs are.
        sbatch, srun_args: more options, as `read_sbatch_options` and `read_srun_options` take them.

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
    """Read the configs, and work out what each job is to do and to ask for.

    Raises:
        UserError: a config or an option is wrong.
    """
    minutes = parse_minutes(options.time or (_LOCAL_TIME if options.local else _DEFAULT_TIME))
    if not minutes:
        raise UserError(f"--time must be above 0 and limited, but it is {options.time}")
    if "%" in str(options.job_dir):
        raise UserError(
            f"--job-dir must hold no %, which SLURM replaces, but it is {options.job_dir}"
        )
    sources, names, configs = _configs(options)
    folders = _folders(options.job_dir, names)
    return [
        Plan(
            name=name,
            source=source,
            cfg=cfg,
            request=_request(options, cfg, minutes=minutes),
            folder=folder,
            max_requeues=options.max_requeues,
            requeue_on_failure=options.requeue_on_failure,
            timeout_s=options.timeout_s,
            is_local=options.local,
        )
        for source, name, cfg, folder in zip(sources, names, configs, folders, strict=True)
    ]


def _configs(options: LaunchOptions) -> tuple[list[str], list[str], list[CfgNode]]:
    """Return the config files, the names of the jobs, and their configs."""
    sources = list(options.cfg_files)

    def load(source: str, more: Sequence[str]) -> CfgNode:
        return load_job_config(
            source,
            [*options.overrides, *more],
            nodes=options.nodes,
            gpus_per_node=options.gpus_per_node,
            is_local=options.local,
        )

    configs = [
        load(source, own) for source, own in zip(sources, options.own_overrides, strict=True)
    ]
    names = [options.name or Path(source).stem for source in sources]
    if options.array:
        key, values = split_array(options.array)
        folder = configs[0].OUTPUT_DIR
        configs = [load(sources[0], array_overrides(key, v, output_dir=folder)) for v in values]
        names = [file_name(f"{names[0]}-{key}={value}") for value in values]
        sources *= len(values)
    elif options.is_chain:
        configs = chain_configs(configs)
    return sources, names, configs


def _folders(job_dir: Path, names: Sequence[str]) -> list[Path]:
    """Return new folders, the same for no two jobs."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folders: list[Path] = []
    for name in names:
        wanted = job_dir.absolute() / f"{stamp}-{file_name(name)}"
        folder, number = wanted, 1
        while folder in folders or folder.exists():
            number += 1
            folder = wanted.with_name(f"{wanted.name}-{number}")
        folders.append(folder)
    return folders


def _request(options: LaunchOptions, cfg: CfgNode, *, minutes: int) -> Request:
    gpus_per_node = 0 if cfg.DEVICE == "cpu" else cfg.NUM_GPUS
    sbatch = read_sbatch_options(options.sbatch)
    check_typed_gpus(sbatch, gpus_per_node)
    return Request(
        nodes=cfg.NUM_SHARDS,
        gpus_per_node=gpus_per_node,
        tasks_per_node=cfg.NUM_GPUS,
        # The workers of the loader, and the rank itself.
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
