"""Check jobs on the login node, so that none waits for hours in the queue only to fail."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from fvcore.common.config import CfgNode

from stvit_video.engine.checkpoint import changed_keys
from stvit_video.engine.preflight import preflight, preflight_data, write_placeholder
from stvit_video.engine.resume import WEIGHTS_NOT_READ, ResumePoint
from stvit_video.errors import UserError
from stvit_video.runtime.launch import resolve_device
from stvit_video.slurm.build import with_settings, with_weights
from stvit_video.slurm.plan import Plan, Request
from stvit_video.slurm.scontrol import (
    Partition,
    check_slurm,
    format_minutes,
    read_job,
    read_partitions,
)
from stvit_video.slurm.status import JobRecord, job_info, read_job_records

# A note lists at most this many keys that differ between a config and a checkpoint.
_MAX_LISTED_KEYS = 8
_SHARED_OUTPUT_NOTE = (
    "a job of --after trains in this OUTPUT_DIR: this one resumes from the last checkpoint that it "
    "will have written"
)


def check_plans(plans: Sequence[Plan], *, after: Sequence[str], is_chain: bool) -> list[Plan]:
    """Check everything that can be checked before jobs are queued, the quickest checks first.

    Args:
        plans: jobs that are submitted together.
        after: ids of jobs that must complete before they start.
        is_chain: each plan but the first starts from a checkpoint that the previous one will
            write; a placeholder replaces it here.

    Returns:
        The plans to submit, with notes on what was found.

    Raises:
        UserError: the first problem.
    """
    if plans[0].is_local:
        _check_local(plans[0])
    else:
        check_slurm()
        _check_pytorch(plans)
        partitions = read_partitions()
        plans = [replace(plan, request=check_request(plan.request, partitions)) for plan in plans]
        for job_id in after:
            _check_dependency(job_id)
    for plan in plans:
        _check_writable(plan.folder, name="--job-dir")
        _check_writable(Path(plan.cfg.OUTPUT_DIR), name="OUTPUT_DIR")
        _check_output_is_free(plan, after=after)
    return _check_runs(plans, after=after, is_chain=is_chain)


def _check_local(plan: Plan) -> None:
    if plan.request.nodes > 1:
        raise UserError(
            f"--local runs on this machine only, but --nodes is {plan.request.nodes}: set "
            "--nodes 1, or remove --local"
        )
    resolve_device(plan.cfg.DEVICE, plan.cfg.NUM_GPUS)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if plan.request.gpus_per_node and not visible.replace(",", "0").isdecimal() and visible:
        raise UserError(
            "CUDA_VISIBLE_DEVICES must list GPUs by their numbers for --local, but it is "
            f"{visible}: set it to numbers, such as 0,1"
        )


def _check_pytorch(plans: Sequence[Plan]) -> None:
    """Check that PyTorch, which the nodes share with this process, supports their GPUs."""
    if any(plan.cfg.DEVICE == "cuda" for plan in plans) and not torch.backends.cuda.is_built():
        raise UserError(
            f"DEVICE cuda needs a PyTorch that is built with CUDA, but this one "
            f"({torch.__version__}), which the nodes use too, is not: install another one, or set "
            "DEVICE cpu"
        )


def check_request(request: Request, partitions: Sequence[Partition]) -> Request:
    """Check a request against its partitions, and apply their time limit if none was given.

    If there are several partitions, one that fits is enough; the lowest time limit of those that
    fit applies. Unless EnforcePartLimits is set, SLURM itself queues a job that exceeds the limits
    of its partition, and the job waits forever.

    Raises:
        UserError: a partition does not exist, or none can ever start the job.
    """
    fitted, problems = [], []
    for partition in _select_partitions(request.partition, partitions):
        try:
            fitted.append(_fit_request(request, partition))
        except UserError as error:
            problems.append(str(error))
    if not fitted:
        raise UserError("; ".join(problems))
    return min(fitted, key=lambda request: request.minutes)


def _select_partitions(listed: str, partitions: Sequence[Partition]) -> list[Partition]:
    by_name = {partition.name: partition for partition in partitions}
    shown = ", ".join(name for name, partition in by_name.items() if not partition.is_hidden)
    names = [name for name in listed.split(",") if name]
    missing = [name for name in names if name not in by_name]
    if missing:
        raise UserError(f"there is no partition {', '.join(missing)}; this cluster has {shown}")
    selected = [by_name[name] for name in names] or [one for one in partitions if one.is_default]
    if not selected:
        raise UserError(
            f"this cluster has no default partition: name one of {shown} with --partition"
        )
    return selected


def _fit_request(request: Request, partition: Partition) -> Request:
    if not partition.is_up:
        raise UserError(
            f"partition {partition.name} is not up (sinfo shows its state), so no job can start "
            "there: name another one with --partition"
        )
    limit = partition.max_minutes
    if limit is not None and not request.is_time_given:
        request = replace(request, minutes=min(limit, request.minutes))
    if limit is not None and request.minutes > limit:
        raise UserError(
            f"--time must be at most {format_minutes(limit)}, the limit of partition "
            f"{partition.name}, but it is {format_minutes(request.minutes)}: lower it (the job "
            "resumes after each limit, see --max-requeues), or name another --partition"
        )
    if request.nodes > partition.max_nodes:
        raise UserError(
            f"--nodes must be at most {partition.max_nodes}, the limit of a job in partition "
            f"{partition.name}, but it is {request.nodes}"
        )
    if request.gpus_per_node > partition.node_gpus:
        raise UserError(
            f"--gpus-per-node must be at most {partition.node_gpus}, the GPUs of a node in "
            f"partition {partition.name}, but it is {request.gpus_per_node}"
        )
    cpus = request.tasks_per_node * request.cpus_per_task
    if partition.node_cpus is not None and cpus > partition.node_cpus:
        raise UserError(
            f"a node of partition {partition.name} has {partition.node_cpus} cores, but "
            f"{request.tasks_per_node} ranks of {request.cpus_per_task} need {cpus}: lower "
            "--cpus-per-task, or DATA_LOADER.NUM_WORKERS, which determines it"
        )
    return request


def _check_dependency(job_id: str) -> None:
    info = read_job(job_id)
    if info is None:
        raise UserError(f"--after must name a job that SLURM knows (squeue), but it is {job_id}")
    if info.is_over and info.state != "COMPLETED":
        raise UserError(
            f"--after must name a job that can still complete, but job {job_id} is {info.state}"
        )


def _check_writable(folder: Path, *, name: str) -> None:
    """Check that ``folder`` or its nearest existing parent is writable, without leaving a file."""
    existing = folder
    try:
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(
            f"{name} must be a writable folder, but {folder} is not ({existing}: "
            f"{error.strerror}): choose another one, on a disk that all nodes share"
        ) from error


def _check_output_is_free(plan: Plan, *, after: Sequence[str]) -> None:
    """Check that no other job of this --job-dir, except those of --after, uses the OUTPUT_DIR."""
    for record in _find_unfinished_jobs(plan):
        if record.job_id not in after:
            raise UserError(
                f"{record.title} writes to OUTPUT_DIR {record.output_dir} and is not over: set "
                f"another OUTPUT_DIR, stop it ({record.stop_command}), or start after it (--after)"
            )


def _find_unfinished_jobs(plan: Plan) -> Iterator[JobRecord]:
    """Find the jobs of the same --job-dir and OUTPUT_DIR that are not over."""
    output_dir = os.path.realpath(plan.cfg.OUTPUT_DIR)
    for record in read_job_records(plan.folder.parent):
        if record.real_output_dir == output_dir and not job_info(record).is_over:
            yield record


def _check_runs(plans: Sequence[Plan], *, after: Sequence[str], is_chain: bool) -> list[Plan]:
    """Check the data, weights and checkpoints of each job; return the plans to submit."""
    notes_by_data: dict[str, tuple[str, ...]] = {}
    checked = []
    with tempfile.TemporaryDirectory() as folder:
        for index, plan in enumerate(plans):
            cfg = plan.cfg
            if is_chain and index:
                placeholder = Path(folder) / "last checkpoint of the previous job.pyth"
                write_placeholder(plans[index - 1].cfg, placeholder)
                cfg = with_weights(cfg, placeholder)
            is_in_use = any(record.job_id in after for record in _find_unfinished_jobs(plan))
            resume_point = preflight(cfg, is_in_use=is_in_use)
            # The jobs of an array over learning rates share their data.
            data = with_settings(cfg, SOLVER=CfgNode(), OUTPUT_DIR="").dump()
            if data not in notes_by_data:
                notes_by_data[data] = tuple(preflight_data(cfg))
            notes = [
                *notes_by_data[data],
                *_resume_notes(plan.cfg, resume_point),
                *_timeout_notes(plan),
            ]
            if is_in_use:
                notes.append(_SHARED_OUTPUT_NOTE)
            plan = replace(plan, resume_point=resume_point, notes=tuple(notes))
            checked.append(_enable_auto_resume(plan))
    return checked


def _resume_notes(cfg: CfgNode, resume_point: ResumePoint | None) -> list[str]:
    """Return what a run that resumes ignores or changes."""
    if resume_point is None:
        return []
    notes = []
    if resume_point.is_own and cfg.TRAIN.CHECKPOINT_FILE_PATH:
        notes.append(WEIGHTS_NOT_READ)
    changes = changed_keys(resume_point.config, cfg.dump())
    if changes:
        rest = len(changes) - _MAX_LISTED_KEYS
        more = f"; and {rest} more" if rest > 0 else ""
        listed = "; ".join(changes[:_MAX_LISTED_KEYS])
        notes.append(f"the config differs from the checkpoint's: {listed}{more}")
    return notes


def _timeout_notes(plan: Plan) -> list[str]:
    """Return a note if a decoder that hangs ends the whole job instead of its video."""
    cfg = plan.cfg
    is_single_rank = cfg.NUM_GPUS * cfg.NUM_SHARDS == 1
    # A video is given up at its second timeout.
    seconds = 2 * cfg.DATA.DECODE_TIMEOUT
    if is_single_rank or not cfg.DATA_LOADER.NUM_WORKERS or 0 < seconds < plan.timeout_s:
        return []
    return [
        "a video whose decoder hangs will end the job, because the other ranks wait only "
        f"--timeout-s {plan.timeout_s:g}, and the video is given up after twice "
        f"DATA.DECODE_TIMEOUT {cfg.DATA.DECODE_TIMEOUT:g}{'' if seconds else ' (never)'}: make "
        "the latter shorter"
    ]


def _enable_auto_resume(plan: Plan) -> Plan:
    """Let a SLURM job resume from its own checkpoints when it is requeued.

    TRAIN.AUTO_RESUME False is about checkpoints that exist at launch, and has taken effect.
    """
    if plan.is_local or not plan.cfg.TRAIN.ENABLE or plan.cfg.TRAIN.AUTO_RESUME:
        return plan
    note = "TRAIN.AUTO_RESUME is True in the job, so that it resumes when it is requeued"
    cfg = with_settings(plan.cfg, TRAIN__AUTO_RESUME=True)
    return replace(plan, cfg=cfg, notes=(*plan.notes, note))
