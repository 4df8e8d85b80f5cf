import pytest

from stvit_video.errors import UserError
from stvit_video.slurm.scontrol import format_minutes, parse_minutes


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90),
        ("30:00", 30),
        ("0:01", 1),
        ("12:00:00", 720),
        ("12:00:30", 721),
        ("2-0", 2880),
        ("1-12:30", 2190),
        ("7-00:00:00", 10080),
        ("UNLIMITED", None),
        ("infinite", None),
    ],
)
def test_slurms_formats(text, minutes):
    assert parse_minutes(text) == minutes


@pytest.mark.parametrize("text", ["", "1h", "1:2:3:4", "1-", "-5", "1.5"])
def test_other_formats_are_rejected(text):
    with pytest.raises(UserError, match="DAYS-HOURS:MINUTES:SECONDS"):
        parse_minutes(text)


@pytest.mark.parametrize("minutes", [5, 90, 1440, 10085])
def test_format_and_parse_round_trip(minutes):
    assert parse_minutes(format_minutes(minutes)) == minutes
