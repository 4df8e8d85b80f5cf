"""Follow a job: show its state, the log of rank 0 as it grows, and a progress bar."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from stvit_video.slurm.scontrol import JobInfo, SlurmUnavailableError
from stvit_video.slurm.status import JobRecord, job_info, parse_stats

# SLURM's controller is shared by all users, so it is polled less often than the log.
_LOG_POLL_SECONDS, _SLURM_POLL_SECONDS = 0.5, 5.0


def follow(
    record: JobRecord,
    *,
    get_info: Callable[[JobRecord], JobInfo] = job_info,
    poll_seconds: float = _SLURM_POLL_SECONDS,
) -> bool:
    """Show a job until it ends, across requeues; Ctrl-C does not affect the job.

    Lines of the log are printed as they are. On a terminal, a bar at the bottom shows epoch, loss
    and remaining time instead of the json_stats lines of training steps.

    Args:
        record: the job.
        get_info: returns its state.
        poll_seconds: time between two calls of ``get_info``.

    Returns:
        Whether the job completed.

    Raises:
        UserError: SLURM's commands are missing. (If SLURM does not respond, it is polled again.)
    """
    log = _LogTail(record.log())
    screen = _Screen(sys.stdout)
    state = _JobState(record, get_info, screen)
    while True:
        info = state.poll()
        if info is not None and info.is_over:
            # Whatever the job wrote, it wrote before SLURM reported its end.
            screen.print_log(log.read_lines())
            screen.close_bar()
            state.show(info)
            return info.state == "COMPLETED"
        if info is not None:
            state.show(info)
        deadline = time.monotonic() + poll_seconds
        while time.monotonic() < deadline:
            screen.print_log(log.read_lines())
            time.sleep(min(_LOG_POLL_SECONDS, poll_seconds))


class _LogTail:
    """Read the new lines of a file that another process appends to, and that may not exist yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._partial_line = b""

    def read_lines(self) -> Iterator[str]:
        """Yield the lines that were completed since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                new = file.read()
        except FileNotFoundError:
            return
        self._position += len(new)
        *lines, self._partial_line = (self._partial_line + new).split(b"\n")
        yield from (line.decode("utf-8", errors="replace") for line in lines)


class _JobState:
    """Poll the state of a job, and print it when it changes."""

    def __init__(
        self, record: JobRecord, get_info: Callable[[JobRecord], JobInfo], screen: "_Screen"
    ) -> None:
        self._record = record
        self._get_info = get_info
        self._screen = screen
        self._shown = ""
        self._is_unavailable = False

    def poll(self) -> JobInfo | None:
        """Return the job's state, or None while SLURM does not respond."""
        try:
            info = self._get_info(self._record)
        except SlurmUnavailableError as error:
            if not self._is_unavailable:
                self._screen.print_line(f"{error}; retrying")
            self._is_unavailable = True
            return None
        if self._is_unavailable:
            self._screen.print_line("SLURM responds again")
        self._is_unavailable = False
        return info

    def show(self, info: JobInfo) -> None:
        """Print the state if it has changed."""
        text = info.describe()
        if text != self._shown:
            self._shown = text
            self._screen.print_line(f"job {self._record.job_id}: {text}")


class _Screen:
    """Print lines, and on a terminal a progress bar below them."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._bar: tqdm | None = None

    def print_line(self, text: str) -> None:
        with tqdm.external_write_mode(file=self._out):
            print(text, file=self._out, flush=True)

    def print_log(self, lines: Iterable[str]) -> None:
        """Print log lines, or show them in the bar if they are statistics of a training step."""
        for line in lines:
            stats = parse_stats(line) if self._out.isatty() else None
            if stats and stats.get("_type") == "train_iter":
                self._update_bar(stats)
            else:
                self.print_line(line)

    def close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _update_bar(self, stats: dict) -> None:
        step, total = (int(number) for number in stats["iter"].split("/"))
        title = f"epoch {stats['epoch']}"
        if self._bar is not None and self._bar.desc != title:
            self.close_bar()
        if self._bar is None:
            # After a requeue the first step may be in the middle of an epoch.
            self._bar = tqdm(
                initial=step, total=total, file=self._out, leave=False, dynamic_ncols=True
            )
            self._bar.desc = title
        self._bar.n = step
        self._bar.set_postfix(
            loss=f"{stats['loss']:.3f}", lr=f"{stats['lr']:.2e}", eta=stats["eta"]
        )
