"""Test that contradictory model configs are refused."""

import pytest
from small import small_model

from stvit_video.errors import UserError


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("MODEL.ARCH", "swim"), "swin"),
        (("SWIN.WINDOW_SIZE", "(8, 7, 9)"), "SWIN.WINDOW_SIZE is (8, 7, 9)"),
        (
            ("STVIT.KEY_WINDOWS", "(10,)"),
            "one side for each layer of a stgm unit of STVIT.LAYOUT (2)",
        ),
        (("STVIT.LAYOUT", "base 2, stgm 2"), "has 4 layers, but the stage has 6"),
        (
            ("STVIT.LAYOUT", "base 5, stgm 1", "STVIT.KEY_WINDOWS", "(10,)"),
            "at least two layers",
        ),
        (
            ("STVIT.LAYOUT", "stgm 2, recovery 1, stgm 3"),
            "the same number",
        ),
        (
            (
                "STVIT.LAYOUT",
                "stgm 2, recovery 1, stgm 2, semantic 1",
                "STVIT.REUSE_TOKENS",
                "True",
            ),
            "is not several of them",
        ),
    ],
)
def test_impossible_models_are_refused(overrides, message):
    with pytest.raises(UserError) as error:
        small_model("stvit_swin_t", *overrides)
    assert message in str(error.value)


def test_a_dense_model_does_not_read_the_semantic_keys():
    small_model("swin_t", "STVIT.LAYOUT", "nonsense", "SWIN.WINDOW_SIZE", "(8, 7, 9)")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "",
            'model of PyTorchVideo (MODEL.MODEL_NAME) "": choose one of "csn_r101", "mvit_base_16',
        ),
        ("slowfast_r5", 'MODEL.MODEL_NAME) "slowfast_r5": choose one of "slowfast_r50", '),
    ],
)
def test_a_wrong_name_of_a_model_of_pytorchvideo_lists_the_right_ones(name, message):
    with pytest.raises(UserError) as error:
        small_model("swin_t", "MODEL.ARCH", "ptv", "MODEL.MODEL_NAME", name)
    assert message in str(error.value)
