"""submitit's executors of a job: what is written into the batch script."""

import os
import shlex
import sys
from collections.abc import Sequence

from submitit import AutoExecutor

from stvit_video.cluster.batch import (
    SBATCH_PARAMETERS,
    setup_lines,
    srun_arguments,
    teardown_lines,
)
from stvit_video.cluster.extra_options import typed_gpus
from stvit_video.cluster.job import RankJob
from stvit_video.cluster.plan import Plan

# Before the time limit the ranks are told to stop, so early that a long step and the writing of a
# checkpoint fit in; of a short limit they get a share. SLURM may be up to a minute early.
_WARNING_SECONDS, _WARNING_SHARE = 180, 0.25
_MAIL_TYPES = "BEGIN,END,FAIL,REQUEUE"


def build_rank_job(plan: Plan) -> RankJob:
    """Build what every rank of a job runs."""
    return RankJob(
        job_dir=plan.folder,
        config=plan.folder / "config.yaml",
        max_requeues=plan.max_requeues,
        requeue_on_failure=plan.requeue_on_failure,
        timeout_s=plan.timeout_s,
    )


def build_executor(plan: Plan, *, after: Sequence[str] = ()) -> AutoExecutor:
    """Build submitit's executor of a job.

    Args:
        plan: the job.
        after: jobs that must end well before this one starts.
    """
    return _local_executor(plan) if plan.is_local else _slurm_executor(plan, after=after)


def batch_script(plan: Plan, *, after: Sequence[str] = ()) -> str:
    """Return the text that sbatch would get for a job; nothing is written."""
    # submitit shows it to nobody before it has handed it to sbatch.
    executor = _slurm_executor(plan, after=after)._executor
    return executor._make_submission_file_text(executor._submitit_command_str, "")


def _slurm_executor(plan: Plan, *, after: Sequence[str]) -> AutoExecutor:
    request = plan.request
    code = shlex.quote(str(plan.folder / "code"))
    executor = AutoExecutor(plan.folder, cluster="slurm")
    executor.update_parameters(
        name=plan.name,
        nodes=request.nodes,
        tasks_per_node=request.tasks_per_node,
        cpus_per_task=request.cpus_per_task,
        # SLURM refuses even 0 of them where no node has any, and GPUs with and without a type.
        gpus_per_node=None if typed_gpus(request.sbatch) else request.gpus_per_node or None,
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
        slurm_additional_parameters={
            **SBATCH_PARAMETERS,
            "kill-on-invalid-dep": "yes",
            **request.sbatch,
        },
        # The folder in which a program stands comes before PYTHONPATH, so the copy must be both.
        slurm_setup=[
            f"cd {code}",
            f"export PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}}",
            *setup_lines(),
        ],
        slurm_srun_args=[
            *srun_arguments(cpus_per_task=request.cpus_per_task),
            *request.srun_args,
        ],
        slurm_teardown=teardown_lines(build_rank_job(plan), python=shlex.quote(sys.executable)),
    )
    # submitit's own is one that clusters which check wckeys do not know.
    executor._executor.update_parameters(wckey=None)
    return executor


def _local_executor(plan: Plan) -> AutoExecutor:
    executor = AutoExecutor(plan.folder, cluster="local")
    # One task, which starts the ranks of this machine itself.
    executor.update_parameters(timeout_min=plan.request.minutes, stderr_to_stdout=True)
    count = plan.request.gpus_per_node
    # submitit would take the first ones, whatever the user lets be seen.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "") if count else ""
    gpus = [int(gpu) for gpu in visible.split(",")] if visible else list(range(count))
    executor._executor.update_parameters(gpus_per_node=count, visible_gpus=gpus)
    return executor
