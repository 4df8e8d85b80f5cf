"""Options of sbatch and srun, and the batch script that submitit writes of them."""

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

# Long names alone: sbatch would take "N4", too.
_OPTION = re.compile(r"(?:--)?([a-z][a-z0-9-]+)(?:=(.+))?")

_FOLDER = "the logs are where the other commands look for them, see --job-dir"
_ENVIRONMENT = "the ranks need what the script sets: export your variables before you launch"
_SIZE = "--gpus-per-node or NUM_GPUS, and --nodes"
# What the program says itself in the script, and how a user does.
_OURS = {
    "chdir": "the job stands in its copy of the code",
    "cpus-per-task": "use --cpus-per-task",
    "error": _FOLDER,
    "export": _ENVIRONMENT,
    "export-file": _ENVIRONMENT,
    "job-name": "use --name",
    "nodes": "use --nodes",
    "ntasks": f"it follows from {_SIZE}",
    "ntasks-per-node": f"it follows from {_SIZE}",
    "output": _FOLDER,
    "signal": "it follows from --time",
    "time": "use --time",
}
_OURS_OF_SBATCH = {
    **_OURS,
    "account": "use --account",
    "array": "use --array, or launch several jobs",
    "clusters": "launch on a login node of that cluster",
    "constraint": "use --constraint",
    "dependency": "use --after or --chain",
    "exclude": "use --exclude",
    "gpus": "use --gpus-per-node",
    "gpus-per-node": "use --gpus-per-node, with --sbatch gres=gpu:TYPE:N for a type",
    "kill-on-invalid-dep": "a job that can never start must not wait for ever",
    "mail-type": "use --mail",
    "mail-user": "use --mail",
    "mem": "use --mem",
    "no-requeue": "use --max-requeues 0",
    "open-mode": _FOLDER,
    "parsable": "the number of the job must be told as usual",
    "partition": "use --partition",
    "qos": "use --qos",
    "requeue": "use --max-requeues",
    "test-only": "use --dry-run",
    "wait": "use --follow",
    "wrap": "the job has a script",
}
_OURS_OF_SRUN = {
    **_OURS,
    "jobid": "it is the job's own",
    "kill-on-bad-exit": "use --requeue-on-failure",
    "multi-prog": "all ranks run the same program",
    "pty": "use --follow",
    "unbuffered": "it is set already",
}


def read_sbatch_options(texts: Sequence[str]) -> dict[str, str | bool]:
    """Read --sbatch: "nodelist=n2", "exclusive" become {"nodelist": "n2", "exclusive": True}.

    Raises:
        UserError: one is not well-formed, given twice, or what the program sets itself.
    """
    return _read(texts, flag="--sbatch", ours=_OURS_OF_SBATCH)


def read_srun_options(texts: Sequence[str]) -> tuple[str, ...]:
    """Read --srun-arg: "mpi=none" becomes "--mpi=none".

    Raises:
        UserError: as `read_sbatch_options`.
    """
    options = _read(texts, flag="--srun-arg", ours=_OURS_OF_SRUN)
    return tuple(
        f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()
    )


def check_typed_gpus(sbatch: Mapping[str, str | bool], gpus_per_node: int) -> None:
    """Check that --sbatch gres=gpu:TYPE:N, if it is there, has a GPU for each rank.

    Raises:
        UserError: it asks for another number.
    """
    typed = typed_gpus(sbatch)
    if typed not in (0, gpus_per_node):
        raise UserError(
            f"--sbatch gres={sbatch['gres']} must ask for as many GPUs as a node has ranks, but "
            f"they are {typed} and {gpus_per_node}: make it the number of --gpus-per-node"
        )


def typed_gpus(sbatch: Mapping[str, str | bool]) -> int:
    """Return how many GPUs of a node --sbatch gres=gpu:TYPE:N asks for."""
    return count_gpus(str(sbatch.get("gres", "")))


def _read(texts: Sequence[str], *, flag: str, ours: Mapping[str, str]) -> dict[str, str | bool]:
    options: dict[str, str | bool] = {}
    for text in texts:
        match = _OPTION.fullmatch(text)
        if match is None:
            raise UserError(
                f"{flag} takes NAME=VALUE or NAME, an option by its long name, but it is {text!r}: "
                f"write it like {flag} comment=first"
            )
        name, value = match.groups()
        for own, fix in ours.items():
            # SLURM takes the beginning of a name for the whole.
            if own.startswith(name):
                raise UserError(
                    f"{flag} cannot say {name}, as the program says {own} itself: {fix}"
                )
        if name in options:
            raise UserError(f"{flag} says {name} twice: say it once")
        options[name] = True if value is None else value
    return options


# More lines of "#SBATCH --key=value" (submitit's additional_parameters): SLURM may requeue the job
# when a node fails or a job of higher priority preempts it, whatever the cluster's default is.
SBATCH_PARAMETERS: Mapping[str, object] = {"requeue": True}


def srun_arguments(*, cpus_per_task: int) -> list[str]:
    """Return the arguments for submitit's ``slurm_srun_args``.

    One rank that fails must end the others, which would wait for it. The CPUs of a task must be
    said again, as srun has not taken them from sbatch since SLURM 22.05.
    """
    return ["--kill-on-bad-exit=1", f"--cpus-per-task={cpus_per_task}"]


def setup_lines() -> list[str]:
    """Return the shell lines before srun, for submitit's ``slurm_setup``.

    ``scancel --batch`` and ``--full`` signal the shell too, which would die and the job with it.
    A handler, unlike an ignored signal, is not handed down to srun.
    """
    return ["trap : USR1 USR2 TERM"]


def teardown_lines(job: RankJob, *, python: str) -> list[str]:
    """Return the shell lines after srun, for submitit's ``slurm_teardown``: the job's last words.

    They run on the first node, whichever rank has died, say in a sentence which rank failed, and
    requeue the job if it is to be. The exit status stays srun's.

    Args:
        job: of this script.
        python: the interpreter of the ranks, as it stands in the script.
    """
    arguments = [
        *("--job-dir", str(job.job_dir), "--max-requeues", str(job.max_requeues)),
        *(["--requeue-on-failure"] if job.requeue_on_failure else []),
    ]
    return [
        "status=$?",
        f"{python} -m stvit_video.slurm.requeue {shlex.join(arguments)} $status",
        "exit $status",
    ]


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
