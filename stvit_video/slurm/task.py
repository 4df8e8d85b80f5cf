"""A process of a job: its place, its files, its record, and the signals that ask it to stop.

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


@dataclass(frozen=True)
class RankJob:
    """What every rank of a job runs: a config, and how long and how often.

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


@dataclass(frozen=True)
class SlurmTask:
    """A task of a job, or its batch script, which stands at the place of task 0.

    Attributes:
        job_id: SLURM's number of the job; in an array, of this one of its jobs.
        restarts: how often the job was requeued before.
        rank: index among all tasks.
        node: SLURM's name of the machine.
    """

    job_id: str
    restarts: int
    rank: int
    node: str

    @classmethod
    def of(cls, env: Mapping[str, str]) -> "SlurmTask | None":
        """Return the task that ``env`` belongs to, or None outside the jobs of submitit.

        A shell that was opened inside somebody's job has SLURM's variables too, and that job is
        not ours to requeue.
        """
        if env.get("SUBMITIT_EXECUTOR") != "slurm" or "SLURM_JOB_ID" not in env:
            return None
        return cls(
            job_id=env["SLURM_JOB_ID"],
            restarts=int(env.get("SLURM_RESTART_COUNT") or 0),
            rank=int(env.get("SLURM_PROCID", "0")),
            node=env.get("SLURMD_NODENAME", ""),
        )


# SLURM's warning before the time limit (submitit asks for USR2), scancel --signal, preemption, and
# the end of a step.
STOP_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)


class StopSignals:
    """Note whether this process was asked to stop.

    A handler runs wherever the main thread is, be it within a library: all that it does here is to
    set a flag. The processes that this one starts share the flag. So ranks among them know that
    they are to stop without a signal of their own, which would end those that have only begun.
    """

    def __init__(self) -> None:
        self._flag = RawValue(c_bool, False)

    @property
    def asked(self) -> bool:
        """Whether this process, or one that shares its flag, was asked."""
        return self._flag.value

    def install(self) -> None:
        """Take the signals over from whoever has them, submitit among them."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)
        # It comes before TERM. submitit's handler would log it, which must not happen in the midst
        # of another line of the log.
        signal.signal(signal.SIGCONT, signal.SIG_DFL)

    def ignore(self) -> None:
        """Be deaf to the signals from now on: this process is ending, and must come to its end.

        Python takes its handlers back while it still has much to tidy up.
        """
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._flag.value = True


def rank_log(job_dir: Path, rank: int) -> Path:
    """Return the log of one rank; a job that is requeued appends to it."""
    return job_dir / "logs" / f"rank_{rank:05d}.log"


def rank_record(job_dir: Path, rank: int) -> Path:
    """Return the file of what is known about one rank: see :mod:`stvit_video.slurm.task`."""
    return job_dir / "ranks" / f"rank_{rank:05d}.json"


def endings_log(job_dir: Path) -> Path:
    """Return the list of how the job ended each time, a line with the time and a sentence each."""
    return job_dir / "endings.log"


FINISHED = "finished"
STOPPED = "stopped"
# A mistake of the user's, which would be made again after a requeue.
MISTAKE = "mistake"
FAILED = "failed"
# The others did not answer: the rank itself is not to blame.
LOST = "lost"
# The rank was asleep, as SLURM wakes up a stopped process to end it.
HUNG = "hung"

# Signs of life that a rank must have left out to be called asleep.
_ASLEEP_PERIODS = 3


@dataclass(frozen=True)
class RankRecord:
    """One rank since the last start of its job.

    Attributes:
        rank: index among all ranks.
        node: name of its machine.
        process: its process id there.
        restarts: how often the job was requeued before this start.
        log: its log.
        ending: one of the words above; empty while it runs, and for ever if it was killed.
        reason: a sentence about a bad ending.
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
    """Keep the record of this rank while the block runs, and at last how it ended.

    Args:
        record: as it begins.
        job_dir: the job's folder.
        period_s: time between two signs of life, which the file's time of change is: so all
            are told by one clock, that of the file server.
        is_lost: whether an error says that other ranks did not answer.
    """
    path = rank_record(job_dir, record.rank)
    _write(path, record)
    signs = _SignsOfLife(path, record, period_s=period_s)
    signs.start()
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
        signs.end()
        if ending == LOST and signs.was_asleep:
            _write(path, signs.record)
        else:
            _write(path, replace(record, ending=ending, reason=reason))


def read_records(job_dir: Path, *, restarts: int) -> list[RankRecord]:
    """Return the records of a start of the job, those with the oldest sign of life first."""
    found = []
    for path in rank_record(job_dir, 0).parent.glob("rank_*.json"):
        record = RankRecord(**json.loads(path.read_text(encoding="utf-8")))
        if record.restarts == restarts:
            found.append((path.stat().st_mtime, record.rank, record))
    return [record for *_, record in sorted(found)]


def _write(path: Path, record: RankRecord) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(path, json.dumps(asdict(record)).encode())


class _SignsOfLife(threading.Thread):
    """Touches the file of a record from time to time, and notes in it if it could not."""

    def __init__(self, path: Path, record: RankRecord, *, period_s: float) -> None:
        super().__init__(daemon=True)
        self.record = record
        self._path = path
        self._period_s = period_s
        self._ended = threading.Event()

    @property
    def was_asleep(self) -> bool:
        """Whether there was a long time without a sign."""
        return self.record.ending == HUNG

    def run(self) -> None:
        """Sign until the end."""
        signed = time.monotonic()
        is_over = False
        while not is_over:
            is_over = self._ended.wait(self._period_s)
            silence = time.monotonic() - signed
            if silence > _ASLEEP_PERIODS * self._period_s:
                # At once, as the process may have few moments left.
                reason = f"it gave no sign of life for {silence:.0f} s"
                self.record = replace(self.record, ending=HUNG, reason=reason)
                _write(self._path, self.record)
            os.utime(self._path)
            signed += silence

    def end(self) -> None:
        """Stop signing."""
        self._ended.set()
        self.join()
