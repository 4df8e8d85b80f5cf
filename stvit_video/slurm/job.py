"""The function that submitit calls in every task of a job.

submitit imports it before it handles signals, and one that came meanwhile would end the process:
nothing imports PyTorch before the signals are taken over.
"""

from stvit_video.slurm.task import RankJob, StopSignals


def run_job(job: RankJob) -> None:
    """Train and test a config as one rank of a job, or here and now where there is no SLURM.

    On USR1, USR2 or TERM all ranks stop at the same step, write a checkpoint, and rank 0 requeues
    the job, which goes on at that step.

    Raises:
        UserError: as training and testing raise it, or the ranks cannot meet.
        SystemExit: the run was stopped, and goes on when the job is started again; so submitit
            leaves no result behind.
    """
    signals = StopSignals()
    signals.install()
    from stvit_video.slurm.rank import run_rank

    try:
        run_rank(job, signals)
    finally:
        signals.ignore()
