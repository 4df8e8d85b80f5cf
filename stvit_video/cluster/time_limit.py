"""Time limits as SLURM writes them."""

import math
import re

from stvit_video.errors import UserError

_UNLIMITED = ("UNLIMITED", "INFINITE")
# [DAYS-]HOURS:MINUTES[:SECONDS] and DAYS-HOURS, or MINUTES[:SECONDS] and HOURS:MINUTES:SECONDS.
_WITH_DAYS = re.compile(r"(\d+)-(\d+)(?::(\d+)(?::(\d+))?)?")
_WITHOUT_DAYS = re.compile(r"(?:(?:(\d+):)?(\d+):(\d+))|(\d+)")


def parse_minutes(text: str) -> int | None:
    """Return whole minutes, rounded up, of a SLURM time such as "90", "12:00:00" or "2-12".

    Returns:
        The minutes, or None where there is no limit ("UNLIMITED").

    Raises:
        UserError: ``text`` is none of SLURM's forms.
    """
    if text.upper() in _UNLIMITED:
        return None
    if match := _WITH_DAYS.fullmatch(text):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    elif match := _WITHOUT_DAYS.fullmatch(text):
        days = 0
        hours, minutes, seconds = (int(part or 0) for part in match.groups()[:3])
        minutes += int(match[4] or 0)
    else:
        raise UserError(
            f'a time limit is written as SLURM does, but it is "{text}": write MINUTES, '
            "HOURS:MINUTES:SECONDS or DAYS-HOURS:MINUTES:SECONDS"
        )
    return (days * 24 + hours) * 60 + minutes + math.ceil(seconds / 60)


def format_minutes(minutes: int) -> str:
    """Write minutes as D-HH:MM:00, without the days where there are none."""
    days, rest = divmod(minutes, 24 * 60)
    return f"{days}-" * (days > 0) + f"{rest // 60:02}:{rest % 60:02}:00"
