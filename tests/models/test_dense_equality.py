"""Compare our dense Video Swin with torchvision's and with the official code."""

import json
from pathlib import Path

import pytest
import torch
import torchvision
from official import make_input, make_weight, refill
from small import model_of

from stvit_video.models import load_weights

REFERENCE = json.loads(
    (Path(__file__).parent / "reference" / "official_video_swin.json").read_text(encoding="utf-8")
)
# Batch, channels, frames, rows and columns.
SIZES = {
    "windows larger than the grid": (2, 3, 4, 64, 64),
    "no side a multiple of anything": (1, 3, 7, 61, 99),
    "padded and shifted in time too": (1, 3, 18, 34, 62),
}
THEIRS = {
    "swin_t": torchvision.models.video.swin3d_t,
    "swin_s": torchvision.models.video.swin3d_s,
}


@pytest.fixture(scope="module", params=THEIRS)
def pair(request, tmp_path_factory):
    """Return torchvision's model, and ours with its weights."""
    theirs = refill(THEIRS[request.param](weights=None)).eval()
    path = tmp_path_factory.mktemp("weights") / "swin3d.pth"
    torch.save(theirs.state_dict(), path)
    ours = model_of(request.param).eval()
    report = load_weights(ours, path, min_share=1.0)
    assert report.format == "torchvision swin3d"
    assert not report.unexpected
    return theirs, ours


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_logits_are_torchvisions(pair, size):
    theirs, ours = pair
    video = make_input(*size)
    with torch.inference_mode():
        expected, found = theirs(video), ours(video)
    assert expected.std() > 0.3
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """Return Swin-T with the weights of the official file, and the outputs of its stages."""
    state = {
        key: torch.zeros(shape, dtype=torch.int64)
        if key.endswith("relative_position_index")
        else make_weight(key, shape)
        for key, shape in REFERENCE["keys"].items()
    }
    path = tmp_path_factory.mktemp("weights") / "official.pth"
    torch.save({"meta": {"epoch": 30}, "state_dict": state}, path)
    model = model_of("swin_t", "SWIN.DEPTHS", str(REFERENCE["config"]["depths"])).eval()
    report = load_weights(model, path, min_share=1.0)
    assert report.format == "official Video Swin"
    assert not report.unexpected
    outputs = {}
    for index, stage in enumerate(model.stages):
        stage.register_forward_hook(
            lambda module, inputs, output, name=f"layers.{index}": outputs.update({name: output})
        )
    video = make_input(*REFERENCE["input"]["shape"], seed=REFERENCE["input"]["seed"])
    with torch.inference_mode():
        outputs["logits"] = model(video)
    return outputs


def test_logits_are_the_official_codes(official):
    logits, expected = official["logits"], REFERENCE["logits"]
    assert list(logits.shape) == expected["shape"]
    assert logits.argmax(1).tolist() == expected["argmax"]
    torch.testing.assert_close(logits[:, :16], torch.tensor(expected["first16"]), atol=1e-4, rtol=0)
    assert logits.mean().item() == pytest.approx(expected["mean"], abs=1e-4)
    assert logits.std().item() == pytest.approx(expected["std"], abs=1e-4)


@pytest.mark.parametrize("name", REFERENCE["stages"])
def test_stages_are_the_official_codes(official, name):
    grid, expected = official[name].permute(0, 4, 1, 2, 3), REFERENCE["stages"][name]
    assert list(grid.shape) == expected["shape"]
    torch.testing.assert_close(
        grid.flatten()[:8], torch.tensor(expected["first"]), atol=1e-4, rtol=0
    )
    assert grid.mean().item() == pytest.approx(expected["mean"], abs=1e-4)
    assert grid.std().item() == pytest.approx(expected["std"], abs=1e-4)
