"""Test parsing of STVIT.LAYOUT."""

import pytest

from stvit_video.errors import UserError
from stvit_video.models.semantic.layout import (
    Unit,
    group_units,
    parse_layout,
    restores_image_tokens,
)

DUMBBELL = (Unit("base", 1), Unit("stgm", 2), Unit("semantic", 2), Unit("recovery", 1))


@pytest.mark.parametrize(
    ("text", "depth", "expected"),
    [
        ("base 2, stgm 2, semantic 2", 6, (Unit("base", 2), Unit("stgm", 2), Unit("semantic", 2))),
        ("stgm 2", 2, (Unit("stgm", 2),)),
        (" base 10,stgm  2 ", 12, (Unit("base", 10), Unit("stgm", 2))),
        ("stgm 3, semantic 15", 18, (Unit("stgm", 3), Unit("semantic", 15))),
        ("base 1, stgm 2, semantic 2, recovery 1", 6, DUMBBELL),
        ("3 x (base 1, stgm 2, semantic 2, recovery 1)", 18, 3 * DUMBBELL),
        (
            "2x( stgm 2,recovery 1 ),base 3",
            9,
            2 * (Unit("stgm", 2), Unit("recovery", 1)) + (Unit("base", 3),),
        ),
        ("stgm 2, recovery 1, stgm 2", 5, (Unit("stgm", 2), Unit("recovery", 1), Unit("stgm", 2))),
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
        ("base 2, recover 2", 4, "'recover 2' of"),
        ("0 x (base 1), stgm 2", 2, "'' of"),
        ("2 x base 1, stgm 2", 4, "'2 x base 1' of"),
        ("2 x (base 1, stgm 2", 6, "'2 x (base 1' of"),
        ("2 x (3 x (stgm 2, recovery 1))", 18, "of '2 x (3 x (stgm 2, recovery 1))'"),
        ("3 x (base 1, stgm 2, semantic 2, recovery 1)", 6, "has 18 layers, but the stage has 6"),
        ("base 2, recovery 2", 4, "starts again only after recovery"),
        ("recovery 1, stgm 2", 3, "starts again only after recovery"),
        ("2 x (base 1, stgm 2)", 6, "starts again only after recovery"),
        ("stgm 2, recovery 1, recovery 1", 4, "starts again only after recovery"),
        ("stgm 2, recovery 1, base 1, semantic 1", 5, "starts again only after recovery"),
        ("stgm 2, recovery 1, semantic 1, recovery 1", 5, "starts again only after recovery"),
        ("base 2, semantic 2", 4, "needs a stgm"),
        ("stgm 2, base 2", 4, "in the order base, stgm, semantic"),
        ("base 1, stgm 2, stgm 2", 5, "one unit of each kind"),
        ("base 5, stgm 1", 6, "at least two layers"),
        ("stgm 2, recovery 1, stgm 1", 4, "at least two layers"),
    ],
)
def test_what_is_no_layout(text, depth, message):
    with pytest.raises(UserError) as error:
        parse_layout(text, depth=depth)
    assert message in str(error.value)
    assert text in str(error.value)


def test_a_dumbbell_unit_is_one_module():
    text = "base 1, stgm 2, semantic 2, recovery 1, base 2, stgm 2, recovery 1, stgm 2, semantic 3"
    units = parse_layout(text, depth=16)
    assert [[unit.kind for unit in module] for module in group_units(units)] == [
        ["base"],
        ["stgm", "semantic", "recovery"],
        ["base"],
        ["stgm", "recovery"],
        ["stgm"],
        ["semantic"],
    ]
    assert sum(group_units(units), ()) == units


@pytest.mark.parametrize(
    ("text", "restores"),
    [
        ("base 1, stgm 2, semantic 3", False),
        ("stgm 2, semantic 3, recovery 1", True),
        ("stgm 2, semantic 2, recovery 1, base 1", True),
        ("stgm 2, recovery 1, base 1, stgm 2", False),
    ],
)
def test_a_stage_ends_in_image_tokens_after_a_recovery(text, restores):
    assert restores_image_tokens(parse_layout(text, depth=6)) == restores
