"""One rank of a job: from its place among the others to the end of the run, or to a stop."""

import faulthandler
import logging
import multiprocessing
import os
import socket
import sys
from datetime import timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NoReturn, TextIO

import torch
from submitit.core.job_environment import JobEnvironment

from stvit_video.config import load_config
from stvit_video.engine.evaluate import evaluate
from stvit_video.engine.run import write_config
from stvit_video.engine.train import train
from stvit_video.errors import TransientError, UserError
from stvit_video.runtime import distributed
from stvit_video.runtime.distributed import is_connection_error, run_ranks
from stvit_video.runtime.launch import check_gpus, resolve_device
from stvit_video.runtime.logging import get_logger
from stvit_video.runtime.process import die_with_parent
from stvit_video.slurm.requeue import requeue
from stvit_video.slurm.task import (
    RankJob,
    RankRecord,
    SlurmTask,
    StopSignals,
    keep_record,
    rank_log,
)


def node_name() -> str:
    """Return SLURM's name of this machine, or its own."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def device_of_task(device: str, num_gpus: int) -> str:
    """Return "cuda" or "cpu" for the config's DEVICE, in a task on a node that SLURM has chosen.

    Raises:
        TransientError: the node lacks GPUs; SLURM counts them without trying them.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        # A task may be given one GPU of its own; one that was given several must see them all.
        if device == "cuda" and "," in (visible or ""):
            check_gpus(num_gpus)
        return resolve_device(device, num_gpus)
    except UserError as error:
        shown = "" if visible is None else f"; CUDA_VISIBLE_DEVICES is {visible or 'empty'}"
        raise TransientError(
            f"node {node_name()} shows {torch.cuda.device_count()} of {num_gpus} GPUs (NUM_GPUS"
            f"{shown}): look there with nvidia-smi, and keep the job away from it with --exclude "
            f"{node_name()}"
        ) from error


# Exit status of a run that was stopped and does not go on by itself (sysexits: try again later).
_STOPPED_FOR_GOOD = 75
# Share of the time-out after which a rank that waits for something writes down where it is: so it
# has, when the others give it up.
_STUCK = 0.8
_LOG_HANDLER = "stvit_video cluster log"

_log = get_logger(__name__)


def run_rank(job: RankJob, signals: StopSignals) -> None:
    """Be the rank of this process' task; without SLURM, start the ranks of the config here.

    Raises:
        UserError: as training and testing raise it, or the ranks cannot meet.
        SystemExit: the run was stopped.
    """
    task = SlurmTask.of(os.environ)
    rank = task.rank if task else 0
    stacks = _log_to(job.job_dir, rank)
    record = RankRecord(
        rank=rank,
        node=node_name(),
        process=os.getpid(),
        restarts=task.restarts if task else 0,
        log=str(rank_log(job.job_dir, rank)),
    )
    with keep_record(
        record, job.job_dir, period_s=max(1.0, job.timeout_s / 10), is_lost=is_connection_error
    ):
        try:
            _join_and_run(job, signals, task, stacks)
        except UserError as error:
            _log.error("%s", error)
            raise
        except Exception:
            _log.exception("This rank failed")
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()


def _join_and_run(
    job: RankJob, signals: StopSignals, task: SlurmTask | None, stacks: TextIO
) -> None:
    _sign_of_life(job, stacks)
    if task:
        _log.info("Job %s, restart %d, process %d", task.job_id, task.restarts, os.getpid())
        _remove_old_result()
    else:
        # submitit's controller, after which the job is called.
        die_with_parent(int(JobEnvironment().job_id))
    cfg = load_config(job.config)
    starts_ranks = task is None and cfg.NUM_GPUS > 1
    if starts_ranks:
        # It waits for them until they end.
        faulthandler.cancel_dump_traceback_later()
    resolve = device_of_task if task else resolve_device
    run_ranks(
        partial(_train_and_test, signals=signals, task=task),
        job,
        num_local_ranks=cfg.NUM_GPUS,
        num_shards=cfg.NUM_SHARDS,
        device=resolve(cfg.DEVICE, cfg.NUM_GPUS),
        backend=cfg.DIST_BACKEND,
        timeout=timedelta(seconds=job.timeout_s),
        identity=f"config {sha256(job.config.read_bytes()).hexdigest()[:16]}",
    )
    if starts_ranks and signals.asked:
        sys.exit(_STOPPED_FOR_GOOD)


def _train_and_test(job: RankJob, *, signals: StopSignals, task: SlurmTask | None) -> None:
    if multiprocessing.parent_process():
        signals.install()
    stacks = _log_to(job.job_dir, distributed.get_rank())
    _sign_of_life(job, stacks)
    if distributed.any_rank(signals.asked):
        # What comes before the first step may take longer than the time that is left.
        _log.info("Stopped before the start, as asked")
        _leave(job, task)
    cfg = load_config(job.config)
    if distributed.is_main():
        write_config(cfg)

    def should_stop() -> bool:
        _sign_of_life(job, stacks)
        return signals.asked

    for function, is_enabled in ((train, cfg.TRAIN.ENABLE), (evaluate, cfg.TEST.ENABLE)):
        if is_enabled:
            function(cfg, should_stop=should_stop)
            _sign_of_life(job, stacks)
            if distributed.any_rank(signals.asked):
                _leave(job, task)


def _sign_of_life(job: RankJob, stacks: TextIO) -> None:
    """Let the stacks of all threads be written if this is not called again in time."""
    faulthandler.dump_traceback_later(_STUCK * job.timeout_s, file=stacks)


def _leave(job: RankJob, task: SlurmTask | None) -> NoReturn:
    """End this rank; rank 0 requeues the job first, when all have come to their end."""
    distributed.barrier()
    if task is None:
        # The process that has spawned ranks says itself how it ends.
        sys.exit(0 if multiprocessing.parent_process() else _STOPPED_FOR_GOOD)
    if task.restarts >= job.max_requeues:
        if distributed.is_main():
            _log.warning(
                "The job is not requeued, as it has been %d times already (--max-requeues); submit "
                "it again to go on",
                task.restarts,
            )
        sys.exit(_STOPPED_FOR_GOOD)
    if distributed.is_main():
        _log.warning(
            "The job is requeued" if requeue(task) else "SLURM has requeued or cancelled the job"
        )
    sys.exit(0)


def _log_to(job_dir: Path, rank: int) -> TextIO:
    """Send the log of this process to the log of ``rank``, too; returns that file."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if handler.name == _LOG_HANDLER]:
        faulthandler.cancel_dump_traceback_later()  # as it would write to the file
        root.removeHandler(handler)
        handler.close()
    path = rank_log(job_dir, rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.name = _LOG_HANDLER
    handler.setFormatter(
        logging.Formatter(f"%(asctime)s %(levelname)s [rank {rank} on {node_name()}] %(message)s")
    )
    root.addHandler(handler)
    logging.getLogger("stvit_video").setLevel(logging.INFO)
    assert handler.stream is not None, "it is opened with the handler"
    return handler.stream


def _remove_old_result() -> None:
    """Remove what this task left in submitit's folder before it was requeued.

    An old result tells that the job is over, and of one that was half written submitit makes an
    error at the end of the job.
    """
    result = JobEnvironment().paths.result_pickle
    for path in (result, result.with_suffix(result.suffix + ".save_tmp")):
        path.unlink(missing_ok=True)
