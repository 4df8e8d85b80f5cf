"""Run a job's task: the function that submitit calls.

submitit imports this module before it handles signals, and until then a signal ends the process.
Therefore PyTorch, which takes seconds to import, is imported only after the handlers are installed.
"""

from stvit_video.slurm.task import RankJob, StopSignals


def run_job(job: RankJob) -> None:
    """Train and test a config as one rank of a SLURM job, or on this machine without SLURM.

    On USR1, USR2 or TERM all ranks stop at the same step and write a checkpoint, and rank 0
    requeues the job, which resumes at that step.

    Raises:
        UserError: training or testing raises it, or the ranks cannot meet.
        SystemExit: the run was stopped and resumes when the job is started again. It keeps
            submitit from leaving a result.
    """
    signals = StopSignals()
    signals.install()
    from stvit_video.slurm.rank import run_rank

    try:
        run_rank(job, signals)
    finally:
        signals.ignore()
