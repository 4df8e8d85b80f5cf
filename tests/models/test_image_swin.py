"""Test dense Swin for images against timm's.

Sizes are multiples of the window: otherwise timm rolls before it pads, while the released Swin (in
its detection code), torchvision and this package pad before they roll.
"""

import pytest
import timm
import torch
from official import refill
from small import imagenet_model
from weight_files import saved

from stvit_video.models import load_weights

THEIRS = {"swin_t": "swin_tiny_patch4_window7_224", "swin_s": "swin_small_patch4_window7_224"}


@pytest.mark.parametrize("size", [(224, 224), (448, 224)])
@pytest.mark.parametrize("name", THEIRS)
def test_logits_are_timms(name, size, tmp_path):
    theirs = refill(timm.create_model(THEIRS[name], pretrained=False, img_size=size)).eval()
    ours = imagenet_model(name).eval()
    report = load_weights(ours, saved(theirs.state_dict(), tmp_path), min_share=1.0)
    assert report.format == "timm Swin"
    images = torch.randn(1, 3, *size)
    with torch.inference_mode():
        expected, found = theirs(images), ours(images)
    assert expected.std() > 0.3
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
