"""Configure submitit's executor, and through it the batch script, from a plan and user options."""

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence

from submitit import AutoExecutor

from stvit_video.errors import UserError
from stvit_video.slurm.plan import Plan
from stvit_video.slurm.scontrol import count_gpus
from stvit_video.slurm.task import RankJob

# SLURM signals the ranks this long before the time limit, which must be enough for a long step and
# a checkpoint; with a short limit, at this share of it. SLURM may be up to a minute early.
_WARNING_SECONDS, _WARNING_SHARE = 180, 0.25
_MAIL_TYPES = "BEGIN,END,FAIL,REQUEUE"

# Long names only: sbatch would also accept "N4".
_OPTION = re.compile(r"(?:--)?([a-z][a-z0-9-]+)(?:=(.+))?")
_FOLDER = "the other commands expect the logs in the job's folder, see --job-dir"
_ENVIRONMENT = "the ranks need what the script sets: export your variables before you launch"
_SIZE = "it follows from --gpus-per-node or NUM_GPUS, and --nodes"
# Options that the batch script sets itself, and what to use instead.
_RESERVED = {
    "chdir": "the job's working directory is its copy of the code",
    "cpus-per-task": "use --cpus-per-task",
    "error": _FOLDER,
    "export": _ENVIRONMENT,
    "export-file": _ENVIRONMENT,
    "job-name": "use --name",
    "nodes": "use --nodes",
    "ntasks": _SIZE,
    "ntasks-per-node": _SIZE,
    "output": _FOLDER,
    "signal": "it follows from --time",
    "time": "use --time",
}
_RESERVED_BY_SBATCH = {
    **_RESERVED,
    "account": "use --account",
    "array": "use --array, or launch several jobs",
    "clusters": "launch on a login node of that cluster",
    "constraint": "use --constraint",
    "dependency": "use --after or --chain",
    "exclude": "use --exclude",
    "gpus": "use --gpus-per-node",
    "gpus-per-node": "use --gpus-per-node, with --sbatch gres=gpu:TYPE:N for a type",
    "kill-on-invalid-dep": "a job that can never start must not stay in the queue",
    "mail-type": "use --mail",
    "mail-user": "use --mail",
    "mem": "use --mem",
    "no-requeue": "use --max-requeues 0",
    "open-mode": _FOLDER,
    "parsable": "the job id is parsed from sbatch's usual output",
    "partition": "use --partition",
    "qos": "use --qos",
    "requeue": "use --max-requeues",
    "test-only": "use --dry-run",
    "wait": "use --follow",
    "wrap": "the job has a script",
}
_RESERVED_BY_SRUN = {
    **_RESERVED,
    "jobid": "it is the job's own",
    "kill-on-bad-exit": "use --requeue-on-failure",
    "multi-prog": "all ranks run the same program",
    "pty": "use --follow",
    "unbuffered": "it is set already",
}


def build_executor(plan: Plan, *, after: Sequence[str] = ()) -> AutoExecutor:
    """Build submitit's executor for a job.

    Args:
        plan: the job.
        after: ids of jobs that must complete before this one starts.
    """
    return _local_executor(plan) if plan.is_local else _slurm_executor(plan, after=after)


def batch_script(plan: Plan, *, after: Sequence[str] = ()) -> str:
    """Return the batch script of a job without writing it."""
    # submitit has no public method for this.
    executor = _slurm_executor(plan, after=after)._executor
    return executor._make_submission_file_text(executor._submitit_command_str, "")


def build_rank_job(plan: Plan) -> RankJob:
    """Build the arguments of every rank of a job."""
    return RankJob(
        job_dir=plan.folder,
        config=plan.folder / "config.yaml",
        max_requeues=plan.max_requeues,
        requeue_on_failure=plan.requeue_on_failure,
        timeout_s=plan.timeout_s,
    )


def _slurm_executor(plan: Plan, *, after: Sequence[str]) -> AutoExecutor:
    request = plan.request
    code = shlex.quote(str(plan.folder / "code"))
    executor = AutoExecutor(plan.folder, cluster="slurm")
    executor.update_parameters(
        name=plan.name,
        nodes=request.nodes,
        tasks_per_node=request.tasks_per_node,
        cpus_per_task=request.cpus_per_task,
        # SLURM rejects even 0 GPUs where no node has any, and GPUs both with and without a type.
        gpus_per_node=None if count_gres_gpus(request.sbatch) else request.gpus_per_node or None,
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
        slurm_additional_parameters={
            # SLURM may requeue the job after a node failure or a preemption, whatever the
            # cluster's default is.
            "requeue": True,
            # After a failed dependency the job would stay in the queue forever.
            "kill-on-invalid-dep": "yes",
            **request.sbatch,
        },
        slurm_setup=[
            # Python searches the working directory before PYTHONPATH, so the copy must be both.
            f"cd {code}",
            f"export PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}}",
            # scancel --batch and --full also signal the shell, which would end the job. Unlike an
            # ignored signal, a handler is not inherited by srun.
            "trap : USR1 USR2 TERM",
        ],
        slurm_srun_args=[
            # A failed rank must end the others, which would wait for it.
            "--kill-on-bad-exit=1",
            # srun has not inherited this from sbatch since SLURM 22.05.
            f"--cpus-per-task={request.cpus_per_task}",
            *request.srun_args,
        ],
        slurm_teardown=_teardown_lines(build_rank_job(plan)),
    )
    # Clusters that check wckeys reject submitit's default.
    executor._executor.update_parameters(wckey=None)
    return executor


def _teardown_lines(job: RankJob) -> list[str]:
    """Return the shell lines after srun: report a failure, and requeue the job if requested.

    They run on the first node, whichever rank has failed. The exit status remains srun's.
    """
    arguments = ["--job-dir", str(job.job_dir), "--max-requeues", str(job.max_requeues)]
    if job.requeue_on_failure:
        arguments.append("--requeue-on-failure")
    python = shlex.quote(sys.executable)
    return [
        "status=$?",
        f"{python} -m stvit_video.slurm.requeue {shlex.join(arguments)} $status",
        "exit $status",
    ]


def _local_executor(plan: Plan) -> AutoExecutor:
    executor = AutoExecutor(plan.folder, cluster="local")
    # A single task, which starts the ranks itself.
    executor.update_parameters(timeout_min=plan.request.minutes, stderr_to_stdout=True)
    count = plan.request.gpus_per_node
    # submitit would take the first GPUs regardless of CUDA_VISIBLE_DEVICES.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "") if count else ""
    gpus = [int(gpu) for gpu in visible.split(",")] if visible else list(range(count))
    executor._executor.update_parameters(gpus_per_node=count, visible_gpus=gpus)
    return executor


def read_sbatch_options(texts: Sequence[str]) -> dict[str, str | bool]:
    """Parse --sbatch: "nodelist=n2", "exclusive" become {"nodelist": "n2", "exclusive": True}.

    Raises:
        UserError: an option is malformed, given twice, or set by the batch script itself.
    """
    return _parse_options(texts, flag="--sbatch", reserved=_RESERVED_BY_SBATCH)


def read_srun_options(texts: Sequence[str]) -> tuple[str, ...]:
    """Parse --srun-arg: "mpi=none" becomes "--mpi=none".

    Raises:
        UserError: as for `read_sbatch_options`.
    """
    options = _parse_options(texts, flag="--srun-arg", reserved=_RESERVED_BY_SRUN)
    return tuple(
        f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()
    )


def _parse_options(
    texts: Sequence[str], *, flag: str, reserved: Mapping[str, str]
) -> dict[str, str | bool]:
    options: dict[str, str | bool] = {}
    for text in texts:
        match = _OPTION.fullmatch(text)
        if match is None:
            raise UserError(
                f"{flag} takes NAME=VALUE or NAME, an option by its long name, but it is {text!r}: "
                f"write it like {flag} comment=first"
            )
        name, value = match.groups()
        for reserved_name, fix in reserved.items():
            # SLURM accepts abbreviated names.
            if reserved_name.startswith(name):
                raise UserError(
                    f"{flag} cannot set {name}, because launch.py sets {reserved_name} itself: "
                    f"{fix}"
                )
        if name in options:
            raise UserError(f"{flag} sets {name} twice: give it once")
        options[name] = True if value is None else value
    return options


def check_gres_gpus(sbatch: Mapping[str, str | bool], gpus_per_node: int) -> None:
    """Check that --sbatch gres=gpu:TYPE:N, if given, requests one GPU per rank.

    Raises:
        UserError: it requests another number.
    """
    gpus = count_gres_gpus(sbatch)
    if gpus not in (0, gpus_per_node):
        raise UserError(
            f"--sbatch gres={sbatch['gres']} must request one GPU for each rank of a node, but the "
            f"numbers are {gpus} and {gpus_per_node}: set it to the number of --gpus-per-node"
        )


def count_gres_gpus(sbatch: Mapping[str, str | bool]) -> int:
    """Return how many GPUs per node --sbatch gres=gpu:TYPE:N requests."""
    return count_gpus(str(sbatch.get("gres", "")))
