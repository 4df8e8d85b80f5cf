"""What is checked on the login node, so that nothing waits for hours in the queue to fail."""

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
from stvit_video.slurm.config import starting_from, with_settings
from stvit_video.slurm.plan import Plan, check_request
from stvit_video.slurm.scontrol import check_slurm, read_job, read_partitions
from stvit_video.slurm.status import JobRecord, job_facts, read_records

# Keys that are named when a config differs from that of a checkpoint.
_NAMED = 8
# Of a job that waits for another in the same folder.
_GOES_ON_BEHIND = (
    "a job of --after trains in this OUTPUT_DIR: this one goes on from the last checkpoint that it "
    "will have written"
)


def check_plans(plans: Sequence[Plan], *, after: Sequence[str], is_chain: bool) -> list[Plan]:
    """Check all that can be checked before jobs are queued, what is quickest first.

    Args:
        plans: jobs that are submitted together.
        after: jobs that must have ended well before they start.
        is_chain: each plan but the first starts from a checkpoint that the one before it will
            write; a stand-in takes its place here.

    Returns:
        The plans as they are to be submitted, with notes of what was found.

    Raises:
        UserError: the first mistake.
    """
    if plans[0].is_local:
        _check_local(plans[0])
    else:
        check_slurm()
        _check_build(plans)
        partitions = read_partitions()
        plans = [replace(plan, request=check_request(plan.request, partitions)) for plan in plans]
        for job_id in after:
            _check_waits_for(job_id)
    for plan in plans:
        check_writable(plan.folder, what="--job-dir")
        check_writable(Path(plan.cfg.OUTPUT_DIR), what="OUTPUT_DIR")
        _check_is_free(plan, after=after)
    return _check_runs(plans, after=after, is_chain=is_chain)


def check_writable(folder: Path, *, what: str) -> None:
    """Try to write where ``folder`` is or will be made, and leave nothing there.

    Raises:
        UserError: it cannot be written.
    """
    there = folder
    try:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(
            f"{what} must be a folder that can be written, but {folder} cannot "
            f"({there}: {error.strerror}); choose another one, on a disk that all nodes see"
        ) from error


def _check_runs(plans: Sequence[Plan], *, after: Sequence[str], is_chain: bool) -> list[Plan]:
    """Read what the runs will read; returns the plans as they are to be submitted."""
    tried: dict[str, tuple[str, ...]] = {}
    checked = []
    with tempfile.TemporaryDirectory() as folder:
        for number, plan in enumerate(plans):
            cfg = plan.cfg
            if is_chain and number:
                stand_in = Path(folder) / "last checkpoint of the job before.pyth"
                write_placeholder(plans[number - 1].cfg, stand_in)
                cfg = starting_from(cfg, stand_in)
            is_in_use = _is_in_use(plan, after=after)
            resumes = preflight(cfg, is_in_use=is_in_use)
            data = _without_solver(cfg)
            if data not in tried:
                tried[data] = tuple(preflight_data(cfg))
            notes = (*tried[data], *_resumption_notes(plan.cfg, resumes), *_timeout_notes(plan))
            if is_in_use:
                notes += (_GOES_ON_BEHIND,)
            checked.append(_resumable(replace(plan, resumes=resumes, notes=notes)))
    return checked


def _resumption_notes(cfg: CfgNode, resumes: ResumePoint | None) -> list[str]:
    """What is not as the config says, or not as it was, in a run that goes on."""
    if resumes is None:
        return []
    notes = []
    if resumes.is_own and cfg.TRAIN.CHECKPOINT_FILE_PATH:
        notes.append(WEIGHTS_NOT_READ)
    changes = changed_keys(resumes.config, cfg.dump())
    if changes:
        more = f"; and {len(changes) - _NAMED} more" if len(changes) > _NAMED else ""
        named = "; ".join(changes[:_NAMED])
        notes.append(f"the config differs from the checkpoint's: {named}{more}")
    return notes


def _timeout_notes(plan: Plan) -> list[str]:
    """What ends the whole job though it need not."""
    cfg = plan.cfg
    is_alone = cfg.NUM_GPUS * cfg.NUM_SHARDS == 1
    # It is given up at the second time-out.
    hangs = 2 * cfg.DATA.DECODE_TIMEOUT
    if is_alone or not cfg.DATA_LOADER.NUM_WORKERS or 0 < hangs < plan.timeout_s:
        return []
    return [
        "a video whose decoder hangs will end the job, as the other ranks wait for --timeout-s "
        f"{plan.timeout_s:g} and it is given up after twice DATA.DECODE_TIMEOUT "
        f"{cfg.DATA.DECODE_TIMEOUT:g}{'' if hangs else ' (never)'}: let twice that be less"
    ]


def _resumable(plan: Plan) -> Plan:
    """Let a job go on from its own checkpoints when it is requeued.

    TRAIN.AUTO_RESUME False is about those that are there now, and has been heeded.
    """
    if plan.is_local or not plan.cfg.TRAIN.ENABLE or plan.cfg.TRAIN.AUTO_RESUME:
        return plan
    note = "TRAIN.AUTO_RESUME is True in the job, which goes on from its checkpoints when requeued"
    cfg = with_settings(plan.cfg, TRAIN__AUTO_RESUME=True)
    return replace(plan, cfg=cfg, notes=(*plan.notes, note))


def _check_waits_for(job_id: str) -> None:
    facts = read_job(job_id)
    if facts is None:
        raise UserError(f"--after must name a job that SLURM knows (squeue), but it is {job_id}")
    if facts.is_over and facts.state != "COMPLETED":
        raise UserError(
            f"--after {job_id} waits for a job that ends well, but that one is {facts.state}"
        )


def _check_is_free(plan: Plan, *, after: Sequence[str]) -> None:
    """Refuse to train in a folder in which another job of this --job-dir trains."""
    for record in _users(plan):
        if record.job_id not in after:
            raise UserError(
                f"{record.title} writes to OUTPUT_DIR {record.output_dir} and is not over: set "
                f"another OUTPUT_DIR, end it ({record.how_to_stop}), or go on behind it (--after)"
            )


def _is_in_use(plan: Plan, *, after: Sequence[str]) -> bool:
    """Whether a job that ends before this one starts trains in its folder."""
    return any(record.job_id in after for record in _users(plan))


def _users(plan: Plan) -> Iterator[JobRecord]:
    """Jobs of the same --job-dir that write to the same OUTPUT_DIR and are not over."""
    place = os.path.realpath(plan.cfg.OUTPUT_DIR)
    for record in read_records(plan.folder.parent):
        if record.place_of_run == place and not job_facts(record).is_over:
            yield record


def _without_solver(cfg: CfgNode) -> str:
    """Return what is the same in the jobs of an array over learning rates: their data, too."""
    return with_settings(cfg, SOLVER=CfgNode(), OUTPUT_DIR="").dump()


def _check_build(plans: Sequence[Plan]) -> None:
    """Jobs run with the PyTorch of this process, on nodes that may have what this one has not."""
    if any(plan.cfg.DEVICE == "cuda" for plan in plans) and not torch.backends.cuda.is_built():
        raise UserError(
            f"DEVICE cuda needs a PyTorch that is built for GPUs, but this one "
            f"({torch.__version__}) is for the CPU alone, on the nodes too: install another one, "
            "or add DEVICE cpu"
        )


def _check_local(plan: Plan) -> None:
    if plan.request.nodes > 1:
        raise UserError(
            f"--local is this machine alone, but --nodes is {plan.request.nodes}: write --nodes 1, "
            "or leave out --local"
        )
    resolve_device(plan.cfg.DEVICE, plan.cfg.NUM_GPUS)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if plan.request.gpus_per_node and not visible.replace(",", "0").isdecimal() and visible:
        raise UserError(
            f"CUDA_VISIBLE_DEVICES must hold numbers of GPUs for --local, but it is {visible}"
        )
