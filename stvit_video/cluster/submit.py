"""Submission: a job's folder, its batch script, and handing it to SLURM or to this machine."""

import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from submitit import AutoExecutor
from submitit.core.utils import FailedJobError

from stvit_video.cluster.batch import (
    SBATCH_PARAMETERS,
    setup_lines,
    srun_arguments,
    teardown_lines,
)
from stvit_video.cluster.job import RankJob
from stvit_video.cluster.job_record import JobRecord, new_record
from stvit_video.cluster.plan import Plan
from stvit_video.cluster.slurm import cancel
from stvit_video.cluster.snapshot import copy_code, write_versions
from stvit_video.config import dump_config
from stvit_video.errors import UserError

# Before the time limit the ranks are told to stop, so early that a long step and the writing of a
# checkpoint fit in; of a short limit they get a share. SLURM may be up to a minute early.
_WARNING_SECONDS, _WARNING_SHARE = 180, 0.25
_MAIL_TYPES = "BEGIN,END,FAIL,REQUEUE"
# Kept of the surroundings although it is SLURM's: where its own config is.
_KEPT = ("SLURM_CONF",)


def submit_plan(plan: Plan, *, after: Sequence[str] = (), is_local: bool = False) -> JobRecord:
    """Make the job's folder, and queue the job, or start it here with ``is_local``.

    Args:
        plan: the job.
        after: jobs that must end well before this one starts.
        is_local: run it on this machine without SLURM.

    Raises:
        UserError: SLURM refuses it.
    """
    _make_folder(plan)
    executor = build_executor(plan, after=after, is_local=is_local)
    job = _rank_job(plan)
    try:
        with _here(plan.folder / "code") if is_local else _outside_of_jobs():
            submitted = executor.submit(job)
    except FailedJobError as error:
        raise UserError(f"SLURM refuses the job {plan.name}: {_refusal(error)}") from None
    record = new_record(
        job_id=submitted.job_id,
        name=plan.name,
        folder=plan.folder,
        output_dir=plan.cfg.OUTPUT_DIR,
        is_local=is_local,
    )
    record.write()
    return record


def submit_plans(
    plans: Sequence[Plan], *, after: Sequence[str] = (), is_chain: bool, is_local: bool = False
) -> list[JobRecord]:
    """Submit several jobs, all or none; those of a chain wait for each other.

    Raises:
        UserError: SLURM refuses one of them.
    """
    records: list[JobRecord] = []
    try:
        for plan in plans:
            records.append(submit_plan(plan, after=after, is_local=is_local))
            if is_chain:
                after = [records[-1].job_id]
    except UserError:
        for record in records:
            cancel(record.job_id)
        raise
    return records


def batch_script(plan: Plan, *, after: Sequence[str] = ()) -> str:
    """Return the text that sbatch would get for a job."""
    # submitit shows it to nobody before it has handed it to sbatch.
    executor = build_executor(plan, after=after)._executor
    return executor._make_submission_file_text(executor._submitit_command_str, "")


def build_executor(
    plan: Plan, *, after: Sequence[str] = (), is_local: bool = False
) -> AutoExecutor:
    """Build submitit's executor of a job; nothing is written."""
    request = plan.request
    executor = AutoExecutor(plan.folder, cluster="local" if is_local else "slurm")
    if is_local:
        # One task, which starts the ranks of this machine itself.
        executor.update_parameters(timeout_min=request.minutes, stderr_to_stdout=True)
        executor._executor.update_parameters(
            gpus_per_node=request.gpus_per_node, visible_gpus=_visible_gpus(request.gpus_per_node)
        )
        return executor
    code = shlex.quote(str(plan.folder / "code"))
    executor.update_parameters(
        name=plan.name,
        nodes=request.nodes,
        tasks_per_node=request.tasks_per_node,
        cpus_per_task=request.cpus_per_task,
        # SLURM refuses even 0 of them where no node has any.
        gpus_per_node=request.gpus_per_node or None,
        timeout_min=request.minutes,
        stderr_to_stdout=True,
        slurm_mem=request.mem or None,
        slurm_partition=request.partition or None,
        slurm_account=request.account or None,
        slurm_qos=request.qos or None,
        slurm_constraint=request.constraint or None,
        slurm_exclude=request.exclude or None,
        slurm_mail_user=request.mail or None,
        slurm_mail_type=_MAIL_TYPES if request.mail else None,
        slurm_dependency=f"afterok:{':'.join(after)}" if after else None,
        slurm_signal_delay_s=min(_WARNING_SECONDS, int(60 * request.minutes * _WARNING_SHARE)),
        # A job that can never start, because the one before it failed, would wait for ever.
        slurm_additional_parameters={**SBATCH_PARAMETERS, "kill-on-invalid-dep": "yes"},
        # The folder in which a program stands comes before PYTHONPATH, so the copy must be both.
        slurm_setup=[
            f"cd {code}",
            f"export PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}}",
            *setup_lines(),
        ],
        slurm_srun_args=srun_arguments(cpus_per_task=request.cpus_per_task),
        slurm_teardown=teardown_lines(_rank_job(plan), python=shlex.quote(sys.executable)),
    )
    return executor


def _rank_job(plan: Plan) -> RankJob:
    return RankJob(
        job_dir=plan.folder,
        config=plan.folder / "config.yaml",
        max_requeues=plan.max_requeues,
        requeue_on_failure=plan.requeue_on_failure,
        timeout_s=plan.timeout_s,
    )


def _make_folder(plan: Plan) -> None:
    # Of its user alone: what the ranks unpickle lies there.
    plan.folder.parent.mkdir(parents=True, exist_ok=True)
    plan.folder.mkdir(mode=0o700)
    copy_code(plan.folder / "code")
    write_versions(plan.folder)
    dump_config(plan.cfg, plan.folder / "config.yaml")
    command = shlex.join([sys.executable, *sys.argv])
    (plan.folder / "command.txt").write_text(f"cd {Path.cwd()}\n{command}\n", encoding="utf-8")


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide what a job around this program says of itself, and defaults that would beat flags."""
    hidden = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name.startswith(("SLURM_", "SRUN_", "SBATCH_", "SUBMITIT_")) and name not in _KEPT
    }
    try:
        yield
    finally:
        os.environ.update(hidden)


@contextmanager
def _here(code: Path) -> Iterator[None]:
    """Start processes in ``code``, that import from there and live on after Ctrl-C."""
    folder, path = Path.cwd(), os.environ.get("PYTHONPATH")
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.chdir(code)
    os.environ["PYTHONPATH"] = f"{code}{os.pathsep}{path}" if path else str(code)
    try:
        yield
    finally:
        os.chdir(folder)
        signal.signal(signal.SIGINT, handler)
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path


def _visible_gpus(count: int) -> list[int]:
    """Return the GPUs of a job on this machine, of those that the user lets be seen."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [int(gpu) for gpu in visible.split(",")] if visible and count else list(range(count))


def _refusal(error: Exception) -> str:
    """Return the line in which sbatch says why."""
    lines = [line for line in str(error).splitlines() if line.startswith("sbatch: error:")]
    return (lines or str(error).splitlines() or ["sbatch failed"])[-1].removeprefix("sbatch: ")
