"""Run one rank of a job: join the other ranks, train and test, and stop on a signal."""

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
from stvit_video.slurm.requeue import describe_requeue_limit, requeue
from stvit_video.slurm.task import (
    RankJob,
    RankRecord,
    SlurmTask,
    StopSignals,
    keep_record,
    rank_log,
)

# Exit status of a run that was stopped and is not requeued (EX_TEMPFAIL: try again later).
_EXIT_STOPPED = 75
# A rank that waits for this share of the timeout logs its stack traces, so they are written before
# the other ranks give it up.
_WATCHDOG_SHARE = 0.8
_LOG_HANDLER = "stvit_video cluster log"

_log = get_logger(__name__)


def run_rank(job: RankJob, signals: StopSignals) -> None:
    """Run the rank of this SLURM task; without SLURM, start all ranks of the config here.

    Raises:
        UserError: training or testing raises it, or the ranks cannot meet.
        SystemExit: the run was stopped.
    """
    task = SlurmTask.from_env(os.environ)
    rank = task.rank if task else 0
    log_file = _log_to_file(job.job_dir, rank)
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
            _join_and_run(job, signals, task, log_file)
        except UserError as error:
            _log.error("%s", error)
            raise
        except Exception:
            _log.exception("This rank failed")
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()


def _join_and_run(
    job: RankJob, signals: StopSignals, task: SlurmTask | None, log_file: TextIO
) -> None:
    _restart_watchdog(job, log_file)
    if task:
        _log.info("Job %s, restart %d, process %d", task.job_id, task.restarts, os.getpid())
        _remove_old_result()
    else:
        # The id of a local job is the process id of submitit's controller.
        die_with_parent(int(JobEnvironment().job_id))
    cfg = load_config(job.config)
    spawns_ranks = task is None and cfg.NUM_GPUS > 1
    if spawns_ranks:
        # This process waits for them until they end.
        faulthandler.cancel_dump_traceback_later()
    resolve = task_device if task else resolve_device
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
    if spawns_ranks and signals.received:
        sys.exit(_EXIT_STOPPED)


def task_device(device: str, num_gpus: int) -> str:
    """Return "cuda" or "cpu" for the config's DEVICE, in a task on a node that SLURM has chosen.

    Raises:
        TransientError: GPUs of the node are missing; SLURM counts them without testing them.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        # SLURM may bind a single GPU to each task; if a task got several, it must see all GPUs.
        if device == "cuda" and "," in (visible or ""):
            check_gpus(num_gpus)
        return resolve_device(device, num_gpus)
    except UserError as error:
        shown = "" if visible is None else f"; CUDA_VISIBLE_DEVICES is {visible or 'empty'}"
        raise TransientError(
            f"node {node_name()} shows {torch.cuda.device_count()} of {num_gpus} GPUs (NUM_GPUS"
            f"{shown}): check it with nvidia-smi, and exclude it from the job with --exclude "
            f"{node_name()}"
        ) from error


def node_name() -> str:
    """Return SLURM's name of this machine, or its host name without SLURM."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _train_and_test(job: RankJob, *, signals: StopSignals, task: SlurmTask | None) -> None:
    if multiprocessing.parent_process():
        signals.install()
    log_file = _log_to_file(job.job_dir, distributed.get_rank())
    _restart_watchdog(job, log_file)
    if distributed.any_rank(signals.received):
        # The work before the first step may take longer than the time that is left.
        _log.info("Stopped by a signal before the start")
        _stop(job, task)
    cfg = load_config(job.config)
    if distributed.is_main():
        write_config(cfg)

    def should_stop() -> bool:
        _restart_watchdog(job, log_file)
        return signals.received

    for function, is_enabled in ((train, cfg.TRAIN.ENABLE), (evaluate, cfg.TEST.ENABLE)):
        if is_enabled:
            function(cfg, should_stop=should_stop)
            _restart_watchdog(job, log_file)
            if distributed.any_rank(signals.received):
                _stop(job, task)


def _stop(job: RankJob, task: SlurmTask | None) -> NoReturn:
    """Exit this rank; once all ranks are here, rank 0 requeues the job."""
    distributed.barrier()
    if task is None:
        # The parent process of spawned ranks sets the exit status itself.
        sys.exit(0 if multiprocessing.parent_process() else _EXIT_STOPPED)
    if task.restarts >= job.max_requeues:
        if distributed.is_main():
            _log.warning("%s", describe_requeue_limit(task))
        sys.exit(_EXIT_STOPPED)
    if distributed.is_main():
        if requeue(task):
            _log.warning("The job is requeued")
        else:
            _log.warning("SLURM has already requeued or canceled the job")
    sys.exit(0)


def _restart_watchdog(job: RankJob, log_file: TextIO) -> None:
    """Log the stack traces of all threads unless this is called again in time."""
    faulthandler.dump_traceback_later(_WATCHDOG_SHARE * job.timeout_s, file=log_file)


def _log_to_file(job_dir: Path, rank: int) -> TextIO:
    """Also write the log of this process to the log file of ``rank``, and return that file."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if handler.name == _LOG_HANDLER]:
        faulthandler.cancel_dump_traceback_later()  # it would write to the closed file
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
    assert handler.stream is not None, "the handler opens its file at once"
    return handler.stream


def _remove_old_result() -> None:
    """Remove the result that this task left in submitit's folder before it was requeued.

    An old result marks the job as finished, and a partly written one makes submitit fail at the
    end of the job.
    """
    result = JobEnvironment().paths.result_pickle
    for path in (result, result.with_suffix(result.suffix + ".save_tmp")):
        path.unlink(missing_ok=True)
