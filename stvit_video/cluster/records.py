"""What is known about each rank, for whoever is left when one of them dies."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from stvit_video.cluster.rank_files import rank_record
from stvit_video.engine.durable import replace_content
from stvit_video.errors import UserError

FINISHED = "finished"
STOPPED = "stopped"
# A mistake of the user's, which would be made again after a requeue.
MISTAKE = "mistake"
FAILED = "failed"
# The others did not answer: the rank itself is not to blame.
LOST = "lost"


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
def recorded(
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
    ended = threading.Event()
    thread = threading.Thread(target=_sign, args=(path, ended, period_s), daemon=True)
    thread.start()
    ending, reason = FINISHED, ""
    try:
        yield
    except SystemExit:
        ending = STOPPED
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
        ended.set()
        thread.join()
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
    replace_content(path, json.dumps(asdict(record)).encode())


def _sign(path: Path, ended: threading.Event, period_s: float) -> None:
    while not ended.wait(period_s):
        os.utime(path)
