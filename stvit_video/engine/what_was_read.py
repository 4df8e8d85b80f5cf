"""What an evaluation is over, where files could not be read."""

from stvit_video.errors import UserError
from stvit_video.runtime.logging import get_logger

_log = get_logger(__name__)


def say_what_was_read(what: str, unit: str, *, read: int, expected: int) -> None:
    """Log in a sentence how many videos or images an evaluation is not about.

    Raises:
        UserError: none could be read, so there is nothing to measure.
    """
    if not read:
        raise UserError(
            f"{what} is over no {unit}: none of its {expected} could be read; quarantine.csv in "
            "OUTPUT_DIR says why."
        )
    if read < expected:
        _log.warning(
            "%s is over %d of %d %ss: %d could not be read (quarantine.csv says why)",
            *(what, read, expected, unit, expected - read),
        )
