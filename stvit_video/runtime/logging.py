"""One set-up of the logger for all ranks, json_stats lines, and the progress bar."""

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
    """Send the log to stdout and, appending, to ``output_dir``/stdout.log.

    Rank 0 writes everything from INFO on and what other packages warn of; the other ranks write
    warnings to stdout alone, each prefixed by its rank. Calling it again replaces the handlers.
    """
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if _is_ours(handler)]:
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
    # One rank alone draws bars. tqdm's own lock is for several processes, and a rank that ends at
    # once after a failure would leak its semaphore, which Python then warns of.
    tqdm.set_lock(threading.RLock())


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module of ours (its ``__name__``) or of a program in tools/."""
    ours = name == _PACKAGE or name.startswith(_PACKAGE + ".")
    return logging.getLogger(name if ours else f"{_PACKAGE}.{name}")


def log_json_stats(stats: Mapping[str, Any], *, output_dir: str | Path) -> None:
    """Write one line ``json_stats: {...}`` to the log and to ``output_dir``/json_stats.log.

    Keys are sorted and numbers are rounded to 5 significant digits. Rank 0 writes; the others
    do nothing.
    """
    if not is_main():
        return
    rounded = {key: _rounded(value) for key, value in stats.items()}
    line = f"json_stats: {json.dumps(rounded, sort_keys=True)}"
    get_logger(__name__).info(line)
    path = Path(output_dir) / "json_stats.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def progress(iterable: Iterable[T], *, total: int | None, description: str) -> "tqdm[T]":
    """Wrap ``iterable`` in a bar, shown on rank 0 when stderr is a terminal.

    The bar goes when the iteration ends; ``set_postfix(loss=..., lr=...)`` shows numbers in it.
    """
    hidden = not (is_main() and sys.stderr.isatty())
    return tqdm(
        iterable, total=total, desc=description, disable=hidden, leave=False, dynamic_ncols=True
    )


class _StreamHandler(logging.StreamHandler):
    """Writes lines above the progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


def _is_ours(handler: logging.Handler) -> bool:
    return (handler.name or "").startswith(_PACKAGE + ".")


def _rounded(value: Any) -> Any:
    """Round a number, of NumPy's too, to 5 significant digits; leave ints, text and the rest."""
    if isinstance(value, numbers.Integral):
        return value if isinstance(value, bool) else int(value)
    if isinstance(value, numbers.Real):
        return float(f"{float(value):.5g}")
    return value
