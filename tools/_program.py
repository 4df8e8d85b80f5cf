"""What every tool begins with: finding the package, and what becomes of a user's mistake."""

import sys
from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import ParamSpec

Arguments = ParamSpec("Arguments")

if find_spec("stvit_video") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

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
