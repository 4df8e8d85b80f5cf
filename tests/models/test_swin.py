"""Test the feature pyramid of Swin."""

import pytest
import torch
from small import imagenet_model, small_model

SMALL = ("SWIN.EMBED_DIM", "12", "MODEL.NUM_CLASSES", "5", "MODEL.DROPCONNECT_RATE", "0.0")


@pytest.mark.parametrize(("height", "width"), [(64, 96), (61, 99)])
def test_the_pyramid_has_strides_4_to_32(height, width):
    model = imagenet_model("swin_t", *SMALL).eval()
    with torch.no_grad():
        grids = model.forward_pyramid(torch.randn(2, 3, height, width))
    sides = [(-(-height // stride), -(-width // stride)) for stride in (4, 8, 16, 32)]
    assert [grid.shape for grid in grids] == [
        (2, 1, h, w, 12 << i) for i, (h, w) in enumerate(sides)
    ]


def test_the_last_grid_of_the_pyramid_is_the_final_grid_before_its_norm():
    model = small_model("swin_t").eval()
    video = torch.randn(1, 3, 4, 64, 64)
    with torch.no_grad():
        assert torch.equal(
            model.norm(model.forward_pyramid(video)[-1]), model.forward_features(video)
        )
