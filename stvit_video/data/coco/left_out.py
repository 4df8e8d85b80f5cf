"""The list of annotations that are left out."""

import csv
from collections.abc import Sequence
from pathlib import Path

from stvit_video.data.coco.annotations import BadAnnotation
from stvit_video.errors import UserError

# Bad annotations that are named when there are too many of them.
_NAMED = 3


def write_left_out(file: Path, bad: Sequence[BadAnnotation]) -> None:
    """Write annotations as a CSV file that pandas reads; lines of other splits stay in it."""
    files = {each.file for each in bad}
    others = [each for each in _read(file) if each.file not in files]
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(BadAnnotation._fields)
        writer.writerows([*others, *bad])


def check_budget(bad: Sequence[BadAnnotation], *, max_bad: int) -> None:
    """Check that not too many annotations are left out.

    Raises:
        UserError: they are more than ``max_bad``.
    """
    if len(bad) > max_bad:
        named = "; ".join(f"{each.id} of {each.image}: {each.error}" for each in bad[:_NAMED])
        more = ", ..." if len(bad) > _NAMED else ""
        raise UserError(
            f"{len(bad)} annotations of {bad[0].file} describe no object ({named}{more}), and "
            f"DETECTION.MAX_BAD_ANNOTATIONS is {max_bad}: mend them, or raise it"
        )


def _read(file: Path) -> list[BadAnnotation]:
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as opened:
        rows = list(csv.reader(opened))[1:]
    return [BadAnnotation(source, int(number), *rest) for source, number, *rest in rows]
