"""The frame of every program: the package beside it, its exit status, and types of arguments."""

import argparse
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

if TYPE_CHECKING:
    import torch

Arguments = ParamSpec("Arguments")

_ROOT = Path(__file__).resolve().parents[1]
if (_ROOT / "stvit_video").is_dir():
    # Before another checkout that may be installed: programs and configs go with their package.
    sys.path.insert(0, str(_ROOT))

from stvit_video.errors import UserError  # noqa: E402


def program(name: str) -> Callable[[Callable[Arguments, int | None]], Callable[Arguments, int]]:
    """Make the main function of a tool return its exit status.

    It is what the function returns, else 0; or 2 after a user's mistake, which is printed as one
    line.
    """

    def decorate(main: Callable[Arguments, int | None]) -> Callable[Arguments, int]:
        @wraps(main)
        def run(*arguments: Arguments.args, **options: Arguments.kwargs) -> int:
            try:
                return main(*arguments, **options) or 0
            except UserError as error:
                print(f"{name}: {error}", file=sys.stderr)
                return 2

        return run

    return decorate


def is_yaml(argument: str) -> bool:
    """Tell a config file from an override."""
    return argument.endswith((".yaml", ".yml"))


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"it must be a whole number of at least 1, not {text}")
    return int(text)


def device(text: str) -> "torch.device":
    """Read the name of a device that this machine has, or "auto": a GPU, or else the CPU."""
    import torch  # here, so that --help need not wait for it

    if text == "auto":
        text = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(text)
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"{text} is no device: take cpu, cuda or cuda:N") from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise argparse.ArgumentTypeError(f"{text} is not there: torch finds {count} GPUs here")
    if found.type not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"{text} is no device: take cpu, cuda or cuda:N")
    return found
