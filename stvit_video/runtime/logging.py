"""Set up logging for all ranks, write json_stats lines, and show progress bars."""

import json
import logging
import numbers
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from stvit_video.runtime.distributed import get_rank, is_main

T = TypeVar("T")

_PACKAGE = "stvit_video"


def setup_logging(output_dir: str | Path) -> None:
    """Log to stdout and append to ``output_dir``/stdout.log.

    Rank 0 logs INFO and above of this package, and warnings of other packages. The other ranks log
    only warnings, only to stdout, with their rank as a prefix. A second call replaces the handlers.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):
        if (handler.name or "").startswith(_PACKAGE + "."):
            root.removeHandler(handler)
            handler.close()
    handlers: list[logging.Handler] = [_StreamHandler(sys.stdout)]
    rank = "" if is_main() else f"[rank {get_rank()}] "
    if is_main():
        path = Path(output_dir) / "stdout.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(path, encoding="utf-8"))
    for handler in handlers:
        handler.name = f"{_PACKAGE}.{type(handler).__name__}"
        handler.setLevel(logging.INFO if is_main() else logging.WARNING)
        handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {rank}%(message)s"))
        root.addHandler(handler)
    logging.getLogger(_PACKAGE).setLevel(logging.INFO)
    # Only one rank shows bars, so a thread lock is enough. A rank that exits right after a failure
    # would leak the semaphore of tqdm's default multiprocessing lock, and Python would warn.
    tqdm.set_lock(threading.RLock())


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module of the package (its ``__name__``) or a program in tools/."""
    in_package = name == _PACKAGE or name.startswith(_PACKAGE + ".")
    return logging.getLogger(name if in_package else f"{_PACKAGE}.{name}")


def log_json_stats(stats: Mapping[str, Any], *, output_dir: str | Path) -> None:
    """Write a line ``json_stats: {...}`` to the log and to ``output_dir``/json_stats.log.

    Keys are sorted and numbers are rounded to 5 significant digits. Only rank 0 writes.
    """
    if not is_main():
        return
    rounded = {key: _round(value) for key, value in stats.items()}
    line = f"json_stats: {json.dumps(rounded, sort_keys=True)}"
    get_logger(__name__).info(line)
    path = Path(output_dir) / "json_stats.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def progress(iterable: Iterable[T], *, total: int | None, description: str) -> "tqdm[T]":
    """Wrap ``iterable`` in a progress bar, shown by rank 0 if stderr is a terminal.

    The bar is removed at the end. ``set_postfix(loss=..., lr=...)`` shows numbers in it.
    """
    hidden = not (is_main() and sys.stderr.isatty())
    return tqdm(
        iterable, total=total, desc=description, disable=hidden, leave=False, dynamic_ncols=True
    )


class _StreamHandler(logging.StreamHandler):
    """A stream handler that prints above the progress bar instead of across it."""

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


def _round(value: Any) -> Any:
    """Round a float, also of NumPy, to 5 significant digits. Other values stay as they are."""
    if isinstance(value, numbers.Integral):
        return value if isinstance(value, bool) else int(value)
    if isinstance(value, numbers.Real):
        return float(f"{float(value):.5g}")
    return value
