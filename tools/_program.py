"""Common parts of all programs: the import path, exit statuses, and argument types."""

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    import torch

Arguments = ParamSpec("Arguments")

_ROOT = Path(__file__).resolve().parents[1]
if (_ROOT / "stvit_video").is_dir():
    # Prefer the package of this checkout over an installed one, so it matches these programs.
    sys.path.insert(0, str(_ROOT))

from stvit_video.errors import UserError  # noqa: E402


def program(name: str) -> Callable[[Callable[Arguments, int | None]], Callable[Arguments, int]]:
    """Decorate a main function so that it returns an exit status.

    The status is the function's own, or 0 if it returns None, or 2 after a UserError, which is
    printed as one line.
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
    """Return whether an argument is a config file instead of an override."""
    return argument.endswith((".yaml", ".yml"))


def positive_int(text: str) -> int:
    """Parse an integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, but it is {text}")
    return int(text)


def device(text: str) -> "torch.device":
    """Parse an available device; "auto" is a GPU if there is one, else the CPU."""
    import torch  # imported here to keep --help fast

    if text == "auto":
        text = "cuda" if torch.cuda.is_available() else "cpu"
    unknown = argparse.ArgumentTypeError(f"unknown device {text}: use cpu, cuda or cuda:N")
    try:
        found = torch.device(text)
    except RuntimeError:
        raise unknown from None
    if found.type not in ("cpu", "cuda"):
        raise unknown
    count = torch.cuda.device_count()
    if found.type == "cuda" and (found.index or 0) >= count:
        raise argparse.ArgumentTypeError(f"{text} is not available: PyTorch finds {count} GPUs")
    return found


def generate_data_set(
    recipe_type: type[Any], make: Callable[..., bool], *, description: str, layout: str, unit: str
) -> None:
    """Parse the command line of a program that generates a data set, and run it.

    Args:
        recipe_type: dataclass with a seed and the number of items in each split.
        make: function from folder, recipe and ``num_workers`` to whether the data set is new.
        description: description of the program for --help.
        layout: contents of the folder for --help.
        unit: plural name of the generated items.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", help=f"output folder, gets {layout}")
    for field in fields(recipe_type):
        meaning = "random seed" if field.name == "seed" else f"number of {field.name} {unit}"
        parser.add_argument(
            f"--{field.name}", type=int, default=field.default, help=f"{meaning} (%(default)s)"
        )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="number of processes (%(default)s)"
    )
    options = parser.parse_args()
    values = {field.name: getattr(options, field.name) for field in fields(recipe_type)}
    start = time.perf_counter()
    if make(options.folder, recipe_type(**values), num_workers=options.workers):
        count = sum(value for name, value in values.items() if name != "seed")
        print(f"{options.folder}: {count} {unit} in {time.perf_counter() - start:.1f} s")
    else:
        print(f"{options.folder} holds this data set already; nothing was done")
