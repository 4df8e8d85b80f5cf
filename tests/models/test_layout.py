import pytest

from stvit_video.errors import UserError
from stvit_video.models.semantic.layout import Unit, parse_layout


@pytest.mark.parametrize(
    ("text", "depth", "expected"),
    [
        ("base 2, stgm 2, semantic 2", 6, (Unit("base", 2), Unit("stgm", 2), Unit("semantic", 2))),
        ("stgm 2", 2, (Unit("stgm", 2),)),
        (" base 10,stgm  2 ", 12, (Unit("base", 10), Unit("stgm", 2))),
        ("stgm 3, semantic 15", 18, (Unit("stgm", 3), Unit("semantic", 15))),
    ],
)
def test_layouts(text, depth, expected):
    assert parse_layout(text, depth=depth) == expected


@pytest.mark.parametrize(
    ("text", "depth", "message"),
    [
        ("base 2, stgm 2, semantic 2", 18, "has 6 layers, but the stage has 18"),
        ("", 6, "'' of '' is none"),
        ("base 2, stgm 2,", 4, "'' of 'base 2, stgm 2,' is none"),
        ("base 2; stgm 2", 4, "'base 2; stgm 2' of"),
        ("base two, stgm 2", 4, "'base two' of"),
        ("base 0, stgm 2", 2, "'base 0' of"),
        ("base -1, stgm 2", 2, "'base -1' of"),
        ("base 2, recovery 2", 4, "'recovery 2' of"),
        ("base 2, semantic 2", 4, "never without stgm"),
        ("stgm 2, base 2", 4, "in the order base, stgm, semantic"),
        ("base 1, stgm 2, stgm 2", 5, "one unit of each kind"),
    ],
)
def test_what_is_no_layout(text, depth, message):
    with pytest.raises(UserError) as error:
        parse_layout(text, depth=depth)
    assert message in str(error.value)
    assert text in str(error.value)
