"""Test loading classifiers and official detectors into a detector."""

import json
import re
from pathlib import Path

import pytest
import timm
import torch
from official import make_input, make_state
from small import imagenet_model
from small_detector import SMALL, batch, detector, small_detector
from weight_files import accounted_for, saved

from stvit_video.errors import UserError
from stvit_video.models import load_weights, save_weights
from stvit_video.models.weights.formats import BODY_PREFIX, STVIT_R, convert_detector_state_dict

REFERENCE = Path(__file__).parent / "reference" / "official_stvit_r_detection.json"
RELEASED = json.loads(REFERENCE.read_text())


AS_IN_DETECTORS = ("MODEL.NUM_CLASSES", "7", "SWIN.CUT_WINDOWS", "False")


def classifier():
    torch.manual_seed(1)
    return imagenet_model("swin_s", *SMALL[:6], *AS_IN_DETECTORS).eval()


def test_a_classifier_fills_the_backbone(tmp_path):
    source, model = classifier(), small_detector().eval()
    save_weights(source, tmp_path / "classifier.safetensors")
    report = load_weights(model, tmp_path / "classifier.safetensors", min_share=0.4)
    assert report.format == "stvit_video"
    assert set(report.unexpected) == {
        BODY_PREFIX + name
        for name in ("norm.weight", "norm.bias", "head.fc.weight", "head.fc.bias")
    }
    assert all(name.startswith(BODY_PREFIX) for name in report.loaded)
    assert not any(name.startswith(BODY_PREFIX) for name in report.missing)
    assert accounted_for(report) == sum(value.numel() for value in model.state_dict().values())
    images, _, _ = batch()
    for grid, map_ in zip(
        source.forward_pyramid(images), model.backbone.body.forward_pyramid(images), strict=True
    ):
        torch.testing.assert_close(grid, map_)


def test_timms_swin_fills_the_backbone(tmp_path):
    theirs = timm.create_model(
        "swin_small_patch4_window7_224", embed_dim=12, depths=(1, 1, 2, 1), num_heads=(1, 2, 3, 3)
    )
    model = small_detector()
    report = load_weights(model, saved(theirs.state_dict(), tmp_path), min_share=0.4)
    assert report.format == "timm Swin"
    assert not any(name.startswith(BODY_PREFIX) for name in report.missing)
    torch.testing.assert_close(
        model.backbone.body.stages[2].blocks[1].attn.qkv.weight,
        theirs.layers[2].blocks[1].attn.qkv.weight,
    )


def official_names(state):
    """Rename backbone, norms and feature pyramid as in the official detector."""
    renames = (
        (r"backbone\.body\.stages\.", "backbone.layers."),
        (r"backbone\.body\.", "backbone."),
        (r"backbone\.norms\.(\d)", r"backbone.norm\1"),
        (r"fpn\.inner_blocks\.(\d)\.0", r"neck.lateral_convs.\1.conv"),
        (r"fpn\.layer_blocks\.(\d)\.0", r"neck.fpn_convs.\1.conv"),
    )
    for pattern, name in renames:
        state = {re.sub(pattern, name, key): value for key, value in state.items()}
    return state


def test_an_official_detector_fills_backbone_and_pyramid(tmp_path):
    source, model = small_detector(seed=1), small_detector(seed=2)
    state = {
        name: value
        for name, value in source.state_dict().items()
        if name.startswith(("backbone.", "fpn."))
    }
    patch_embed = state.pop(BODY_PREFIX + "patch_embed.proj.weight")
    state["backbone.patch_embed.proj.weight"] = patch_embed[:, :, 0]
    file = {"state_dict": official_names(state) | {"rpn_head.rpn_conv.bias": torch.zeros(8)}}
    report = load_weights(model, saved(file, tmp_path))
    assert report.format == "official Swin"
    assert list(report.unexpected) == ["rpn_head.rpn_conv.bias"]
    assert all(name.startswith(("rpn.", "roi_heads.")) for name in report.missing)
    images, _, _ = batch()
    with torch.inference_mode():
        expected, found = (each.eval().fpn(each.backbone(images)) for each in (source, model))
    for name, map_ in expected.items():
        torch.testing.assert_close(found[name], map_)


def test_a_detector_of_ours_loads_whole(tmp_path):
    source, model = small_detector(seed=1), small_detector(seed=2)
    report = load_weights(model, saved(source.state_dict(), tmp_path), min_share=1.0)
    assert report.share == 1.0
    for name, value in source.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)


def test_a_detector_is_no_classifier(tmp_path):
    file = saved(small_detector().state_dict(), tmp_path)
    with pytest.raises(UserError, match=r"fills 0\.0% of the model's parameters"):
        load_weights(classifier(), file)


def test_weights_that_belong_together_are_joined_wherever_they_stand_in_the_file():
    state = make_state(RELEASED[0]["keys"])
    file = dict(sorted(state.items(), key=lambda entry: entry[0][::-1]))
    names = list(file)
    parted = [name for name in names if name.endswith(".attn.q.weight")]
    assert names.index(parted[0].replace(".q.", ".kv.")) - names.index(parted[0]) > 5
    found = convert_detector_state_dict(file, STVIT_R)
    assert len(parted) > 10
    for name in parted:
        ours = name.replace("backbone.layers.", f"{BODY_PREFIX}stages.").replace(".q.", ".qkv.")
        whole = torch.cat([state[name], state[name.replace(".q.", ".kv.")]])
        torch.testing.assert_close(found[ours], whole)


@pytest.mark.parametrize(
    ("case", "border"), zip(RELEASED, ["released", "released_unmasked"], strict=True)
)
def test_the_released_stvit_r_detectors_backbone_gives_its_maps(case, border, tmp_path):
    model = detector("stvit_r_swin_s", "STVIT.BORDER", border).eval()
    report = load_weights(model, saved({"state_dict": make_state(case["keys"])}, tmp_path))
    assert report.format == "released STViT-R"
    assert not report.unexpected
    assert not any(name.startswith("backbone.") for name in report.missing)
    with torch.inference_mode():
        maps = model.backbone(make_input(*case["input"]["shape"], seed=case["input"]["seed"]))
    for found, expected in zip(maps.values(), case["outputs"], strict=True):
        assert list(found.shape) == expected["shape"]
        values = found.flatten()
        ends = torch.stack([values[:16], values[-16:]])
        torch.testing.assert_close(
            ends, torch.tensor([expected["first"], expected["last"]]), atol=1e-4, rtol=0
        )
        assert found.mean().item() == pytest.approx(expected["mean"], abs=1e-4)
