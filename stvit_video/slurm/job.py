"""What submitit runs in every task of a job."""

from dataclasses import dataclass
from pathlib import Path

from stvit_video.slurm.task import StopSignals


@dataclass(frozen=True)
class RankJob:
    """Train and test a config as one rank of a job, or here and now where there is no SLURM.

    On USR1, USR2 or TERM all ranks stop at the same step, write a checkpoint, and rank 0 requeues
    the job, which goes on at that step. Nothing here imports PyTorch: submitit unpickles the job
    before it handles signals, and one that came within those seconds would end the process.

    Attributes:
        job_dir: the job's folder, where all nodes see it; logs and records of the ranks go there.
        config: the merged config, a YAML file.
        max_requeues: restarts of the job, by whatever cause, after which it requeues itself no
            more.
        requeue_on_failure: requeue from the last checkpoint after a rank died or hung too; what
            does it is the end of the batch script, see :mod:`stvit_video.slurm.sbatch`.
        timeout_s: how long a rank waits for the others, at the start and in each collective; a
            rank that hangs ends the job within this time.
    """

    job_dir: Path
    config: Path
    max_requeues: int
    requeue_on_failure: bool
    timeout_s: float

    def __call__(self) -> None:
        """Run the rank of this process, until the end of the run or until it is asked to stop.

        Raises:
            UserError: as training and testing raise it, or the ranks cannot meet.
            SystemExit: the run was stopped, and goes on when the job is started again; so submitit
                leaves no result behind.
        """
        signals = StopSignals()
        signals.install()
        from stvit_video.slurm.rank import run_rank

        try:
            run_rank(self, signals)
        finally:
            signals.ignore()
