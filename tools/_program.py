"""What every tool begins with: finding the package, and what becomes of a user's mistake."""

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec

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
