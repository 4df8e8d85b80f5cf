"""Following a job: its state while it waits, rank 0's log as it is written, and a progress bar."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from stvit_video.slurm.scontrol import JobFacts, NoAnswerError
from stvit_video.slurm.status import JobRecord, job_facts, read_stats

# Seconds between two looks into the log, and between two questions to SLURM, which has more to do.
_LOOK_SECONDS, _ASK_SECONDS = 0.5, 5.0


def follow(
    record: JobRecord,
    *,
    ask: Callable[[JobRecord], JobFacts] = job_facts,
    ask_seconds: float = _ASK_SECONDS,
) -> bool:
    """Show a job until it ends, over requeues too; leaving (Ctrl-C) does nothing to the job.

    Lines of the log are printed as they are; where stdout is a terminal, a bar at the bottom shows
    the epoch, the loss and the time left instead of the json_stats lines of training steps.

    Args:
        record: the job.
        ask: tells what SLURM says of it.
        ask_seconds: between two questions.

    Returns:
        Whether it ended well.

    Raises:
        UserError: SLURM's programs are not there. (One that does not answer is asked again.)
    """
    log = _GrowingFile(record.log())
    screen = _Screen(sys.stdout)
    state = _State(record, ask, screen)
    while True:
        facts = state.ask()
        if facts is not None and facts.is_over:
            # What was written before the job ended was there before SLURM said so.
            screen.log_lines(log.new_lines())
            screen.close()
            state.show(facts)
            return facts.state == "COMPLETED"
        if facts is not None:
            state.show(facts)
        deadline = time.monotonic() + ask_seconds
        while time.monotonic() < deadline:
            screen.log_lines(log.new_lines())
            time.sleep(min(_LOOK_SECONDS, ask_seconds))


class _GrowingFile:
    """The lines of a file that somebody else is writing, and that need not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._part = b""

    def new_lines(self) -> Iterator[str]:
        """Give the lines that were finished since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                new = file.read()
        except FileNotFoundError:
            return
        self._position += len(new)
        *lines, self._part = (self._part + new).split(b"\n")
        yield from (line.decode("utf-8", errors="replace") for line in lines)


class _State:
    """The state of a job, asked for again and again, of which what is new is shown."""

    def __init__(
        self, record: JobRecord, ask: Callable[[JobRecord], JobFacts], screen: "_Screen"
    ) -> None:
        self._record = record
        self._ask = ask
        self._screen = screen
        self._shown = ""
        self._is_silent = False

    def ask(self) -> JobFacts | None:
        """Return what SLURM says, or None while it says nothing."""
        try:
            facts = self._ask(self._record)
        except NoAnswerError as error:
            if not self._is_silent:
                self._screen.line(f"{error}; it is asked again until it does")
            self._is_silent = True
            return None
        if self._is_silent:
            self._screen.line("SLURM answers again")
        self._is_silent = False
        return facts

    def show(self, facts: JobFacts) -> None:
        """Show the state if it is another one than before."""
        reason = f" ({facts.reason})" if facts.reason != "None" else ""
        if facts.state + reason != self._shown:
            self._shown = facts.state + reason
            self._screen.line(f"job {self._record.job_id}: {self._shown}")


class _Screen:
    """Lines, and on a terminal a bar below them."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._bar: tqdm | None = None

    def line(self, text: str) -> None:
        with tqdm.external_write_mode(file=self._out):
            print(text, file=self._out, flush=True)

    def log_lines(self, texts: Iterable[str]) -> None:
        for text in texts:
            stats = read_stats(text) if self._out.isatty() else None
            if stats and stats.get("_type") == "train_iter":
                self._show(stats)
            else:
                self.line(text)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _show(self, stats: dict) -> None:
        done, total = (int(number) for number in stats["iter"].split("/"))
        title = f"epoch {stats['epoch']}"
        if self._bar is not None and self._bar.desc != title:
            self.close()
        if self._bar is None:
            # The first line may be of a step in the middle, after a requeue.
            self._bar = tqdm(
                initial=done, total=total, file=self._out, leave=False, dynamic_ncols=True
            )
            self._bar.desc = title
        self._bar.n = done
        self._bar.set_postfix(
            loss=f"{stats['loss']:.3f}", lr=f"{stats['lr']:.2e}", eta=stats["eta"]
        )
