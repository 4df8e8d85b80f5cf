"""Describe a job's task: its place in the job, its files, its stop signals and its record.

Nothing here imports PyTorch.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from ctypes import c_bool
from dataclasses import asdict, dataclass, replace
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from types import FrameType

from stvit_video.errors import TransientError, UserError
from stvit_video.runtime.atomic_files import write_bytes_atomically

# The time limit (submitit sets its signal to USR2), scancel --signal, preemption, and the end of a
# job step send these.
STOP_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)

# How a rank ended, in its record.
FINISHED = "finished"
STOPPED = "stopped"
# A user error, which would occur again after a requeue.
MISTAKE = "mistake"
FAILED = "failed"
# Other ranks did not respond, so this rank is not the cause.
LOST = "lost"
# The rank was suspended: SLURM resumes a suspended process to end it.
HUNG = "hung"

# A longer gap between two heartbeats means that the rank was suspended.
_MAX_HEARTBEAT_GAP = 3  # periods


@dataclass(frozen=True)
class RankJob:
    """The arguments of every rank of a job.

    Attributes:
        job_dir: the job's folder, on a disk that all nodes share; ranks write logs and records
            there.
        config: the merged config, a YAML file.
        max_requeues: the job does not requeue itself after this many restarts, whatever caused
            them.
        requeue_on_failure: also requeue from the last checkpoint after a rank died or hung. The
            end of the batch script does it, see :mod:`stvit_video.slurm.requeue`.
        timeout_s: how long a rank waits for the others, at the start and in each collective; a
            rank that hangs ends the job within this time.
    """

    job_dir: Path
    config: Path
    max_requeues: int
    requeue_on_failure: bool
    timeout_s: float


@dataclass(frozen=True)
class SlurmTask:
    """A task of a job, or its batch script, which counts as task 0.

    Attributes:
        job_id: SLURM's id of the job; in an array, of this element.
        restarts: how often the job was requeued before.
        rank: index among all tasks.
    """

    job_id: str
    restarts: int
    rank: int

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> "SlurmTask | None":
        """Return the task that ``env`` belongs to, or None outside of submitit's jobs.

        A shell inside another job has SLURM's variables too, and that job must not be requeued.
        """
        if env.get("SUBMITIT_EXECUTOR") != "slurm" or "SLURM_JOB_ID" not in env:
            return None
        return cls(
            job_id=env["SLURM_JOB_ID"],
            restarts=int(env.get("SLURM_RESTART_COUNT") or 0),
            rank=int(env.get("SLURM_PROCID", "0")),
        )


def rank_log(job_dir: Path, rank: int) -> Path:
    """Return the log file of a rank; a requeued job appends to it."""
    return job_dir / "logs" / f"rank_{rank:05d}.log"


def rank_record(job_dir: Path, rank: int) -> Path:
    """Return the file of a rank's `RankRecord`."""
    return job_dir / "ranks" / f"rank_{rank:05d}.json"


def endings_log(job_dir: Path) -> Path:
    """Return the file that lists each failure of the job: a line with the time and a sentence."""
    return job_dir / "endings.log"


class StopSignals:
    """Record whether this process was signaled to stop.

    A signal handler may run anywhere in the main thread, even inside a library, so it only sets a
    flag. Child processes share the flag: ranks among them learn of the stop without a signal of
    their own, which would end those that are still starting.
    """

    def __init__(self) -> None:
        self._flag = RawValue(c_bool, False)

    @property
    def received(self) -> bool:
        """Whether this process, or one that shares its flag, has received a stop signal."""
        return self._flag.value

    def install(self) -> None:
        """Install the handlers in place of existing ones, including submitit's."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._set_flag)
        # SLURM sends CONT before TERM. submitit's handler would log it, possibly in the middle of
        # another log line.
        signal.signal(signal.SIGCONT, signal.SIG_DFL)

    def ignore(self) -> None:
        """Ignore the signals from now on, so that this process can finish its shutdown.

        Python restores the default handlers long before it has finished.
        """
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _set_flag(self, number: int, frame: FrameType | None) -> None:
        self._flag.value = True


@dataclass(frozen=True)
class RankRecord:
    """The state of a rank since the last start of its job.

    Attributes:
        rank: index among all ranks.
        node: name of its machine.
        process: its process id there.
        restarts: how often the job was requeued before this start.
        log: its log file.
        ending: FINISHED, STOPPED, MISTAKE, FAILED, LOST or HUNG; empty while it runs, and for good
            if it was killed.
        reason: a sentence about a failure.
    """

    rank: int
    node: str
    process: int
    restarts: int
    log: str
    ending: str = ""
    reason: str = ""


@contextmanager
def keep_record(
    record: RankRecord,
    job_dir: Path,
    *,
    period_s: float,
    is_lost: Callable[[Exception], bool],
) -> Iterator[None]:
    """Keep a rank's record up to date while the block runs, and write how it ended.

    Args:
        record: the initial record.
        job_dir: the job's folder.
        period_s: time between two heartbeats. A heartbeat updates the modification time of the
            record's file, so all ranks use the clock of the file server.
        is_lost: whether an error means that other ranks did not respond.
    """
    path = rank_record(job_dir, record.rank)
    _write_record(path, record)
    heartbeat = _Heartbeat(path, record, period_s=period_s)
    heartbeat.start()
    ending, reason = FINISHED, ""
    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        ending = STOPPED
        raise
    except TransientError as error:
        ending, reason = FAILED, str(error).removesuffix(".")
        raise
    except UserError as error:
        ending, reason = LOST if is_lost(error) else MISTAKE, str(error)
        raise
    except Exception as error:
        ending = LOST if is_lost(error) else FAILED
        first_line = str(error).strip().partition("\n")[0]
        reason = f"{type(error).__name__}: {first_line}"
        raise
    finally:
        heartbeat.stop()
        if ending == LOST and heartbeat.was_suspended:
            _write_record(path, heartbeat.record)
        else:
            _write_record(path, replace(record, ending=ending, reason=reason))


def read_rank_records(job_dir: Path, *, restarts: int) -> list[RankRecord]:
    """Return the rank records of one start of a job, the oldest heartbeat first."""
    found = []
    for path in rank_record(job_dir, 0).parent.glob("rank_*.json"):
        record = RankRecord(**json.loads(path.read_text(encoding="utf-8")))
        if record.restarts == restarts:
            found.append((path.stat().st_mtime, record.rank, record))
    return [record for *_, record in sorted(found)]


def _write_record(path: Path, record: RankRecord) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(path, json.dumps(asdict(record)).encode())


class _Heartbeat(threading.Thread):
    """Touch the file of a record periodically, and record when this was not possible."""

    def __init__(self, path: Path, record: RankRecord, *, period_s: float) -> None:
        super().__init__(daemon=True)
        self.record = record
        self._path = path
        self._period_s = period_s
        self._stopped = threading.Event()

    @property
    def was_suspended(self) -> bool:
        """Whether there was a long time without a heartbeat."""
        return self.record.ending == HUNG

    def run(self) -> None:
        """Touch the file until `stop` is called."""
        last_beat = time.monotonic()
        is_stopped = False
        while not is_stopped:
            is_stopped = self._stopped.wait(self._period_s)
            gap = time.monotonic() - last_beat
            if gap > _MAX_HEARTBEAT_GAP * self._period_s:
                # Written immediately, because the process may be about to end.
                reason = f"no heartbeat for {gap:.0f} s"
                self.record = replace(self.record, ending=HUNG, reason=reason)
                _write_record(self._path, self.record)
            os.utime(self._path)
            last_beat += gap

    def stop(self) -> None:
        """Stop the thread, and wait for its end."""
        self._stopped.set()
        self.join()
