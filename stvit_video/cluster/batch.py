"""What the batch script of a job needs besides submitit's own lines."""

import shlex
from collections.abc import Mapping

from stvit_video.cluster.job import RankJob

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
        f"{python} -m stvit_video.cluster.aftermath {shlex.join(arguments)} $status",
        "exit $status",
    ]
