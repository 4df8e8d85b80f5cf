"""Compare outputs of the released STViT-R with the official code, for generated weights."""

import json
import re
from pathlib import Path

import pytest
import torch
from official import make_input, make_state
from small import imagenet_model

from stvit_video.errors import UserError
from stvit_video.models import load_weights

REFERENCE = Path(__file__).parent / "reference"
VARIANTS = {
    tuple(case["config"].values()): case
    for case in json.loads((REFERENCE / "official_stvit_r.json").read_text(encoding="utf-8"))
}
# (SHORTCUT, USE_GLOBAL) of the released code -> our config keys.
OVERRIDES = {
    (False, False): (),
    (True, True): (
        *("STVIT.SHORTCUT", "True", "STVIT.INITIALIZATION", "spatial+global"),
        *("STVIT.RELEASED_GLOBAL", "True"),
    ),
}
# The detection backbone, as released and with pad_mask off.
DETECTION = json.loads((REFERENCE / "official_stvit_r_detection.json").read_text(encoding="utf-8"))
DETECTION_FORM = (
    *("STVIT.SHORTCUT", "True", "STVIT.SEMANTIC_KEYS", "none"),
    *("STVIT.KEY_WINDOWS", "(14, 21)", "STVIT.RECOVERY_WINDOW", "27"),
    *("SWIN.CUT_WINDOWS", "False"),
)


@pytest.fixture(scope="module", params=OVERRIDES, ids=["as released", "with both switches"])
def official(request, tmp_path_factory):
    """Return the outputs of the official code, and of our model with the file's weights."""
    case = VARIANTS[request.param]
    path = tmp_path_factory.mktemp("weights") / "stvit_r_swin_s.pth"
    torch.save({"model": make_state(case["keys"])}, path)
    model = imagenet_model("stvit_r_swin_s", *OVERRIDES[request.param]).eval()
    report = load_weights(model, path, min_share=1.0)
    assert report.format == "released STViT-R"
    assert not report.unexpected
    outputs = {}
    parts = {"patch_embed": model.patch_embed}
    parts |= {f"layers.{index}": stage for index, stage in enumerate(model.stages)}
    for name, part in parts.items():
        part.register_forward_hook(
            lambda module, inputs, output, name=name: outputs.update({name: output})
        )
    with torch.inference_mode():
        logits = model(make_input(*case["input"]["shape"], seed=case["input"]["seed"]))
    return case, logits, outputs


def test_logits_are_the_official_codes(official):
    case, logits, _ = official
    expected = case["logits"]
    assert list(logits.shape) == expected["shape"]
    assert logits.argmax(1).tolist() == expected["argmax"]
    torch.testing.assert_close(logits[:, :16], torch.tensor(expected["first16"]), atol=1e-4, rtol=0)
    assert logits.mean().item() == pytest.approx(expected["mean"], abs=1e-4)
    assert logits.std().item() == pytest.approx(expected["std"], abs=1e-4)


def test_stages_are_the_official_codes(official):
    case, _, outputs = official
    assert outputs.keys() == case["stages"].keys()
    for name, expected in case["stages"].items():
        tokens = outputs[name].flatten(1, 3)
        assert list(tokens.shape) == expected["shape"], name
        first = torch.tensor(expected["first"])
        torch.testing.assert_close(tokens.flatten()[:8], first, atol=1e-4, rtol=0)
        assert tokens.mean().item() == pytest.approx(expected["mean"], abs=1e-4), name
        assert tokens.std().item() == pytest.approx(expected["std"], abs=1e-4), name


@pytest.mark.parametrize(
    ("case", "border"), zip(DETECTION, ["released", "released_unmasked"], strict=True)
)
def test_pyramids_are_the_official_detection_codes(case, border, tmp_path):
    state = make_state(case["keys"])
    torch.save({"state_dict": state}, tmp_path / "detector.pth")
    model = imagenet_model("stvit_r_swin_s", *DETECTION_FORM, "STVIT.BORDER", border).eval()
    report = load_weights(model, tmp_path / "detector.pth", min_share=0.98)
    assert report.format == "released STViT-R"
    assert report.missing.keys() == {"norm.weight", "norm.bias", "head.fc.weight", "head.fc.bias"}
    # The norms belong to the detector, not to the classifier.
    assert all(name.startswith("norm") for name in report.unexpected)
    with torch.inference_mode():
        grids = model.forward_pyramid(
            make_input(*case["input"]["shape"], seed=case["input"]["seed"])
        )
    for stage, (grid, expected) in enumerate(zip(grids, case["outputs"], strict=True)):
        weight, bias = (state[f"backbone.norm{stage}.{part}"] for part in ("weight", "bias"))
        normed = torch.nn.functional.layer_norm(grid[:, 0], grid.shape[-1:], weight, bias)
        found = normed.permute(0, 3, 1, 2)
        assert list(found.shape) == expected["shape"]
        values = found.flatten()
        ends = torch.stack([values[:16], values[-16:]])
        torch.testing.assert_close(
            ends, torch.tensor([expected["first"], expected["last"]]), atol=1e-4, rtol=0
        )
        assert found.mean().item() == pytest.approx(expected["mean"], abs=1e-4)
        assert found.std().item() == pytest.approx(expected["std"], abs=1e-4)


SMALL = ("SWIN.EMBED_DIM", "12", "MODEL.NUM_CLASSES", "5")
CENTERS = "layers.2.semantic_token2"
DETECTOR_NORM = "norm0.weight"


def released_names(model, *more):
    """Convert a state dict of ours to the names and projections of the released code."""
    state = {name: torch.zeros(3) for name in more}
    for name, value in model.state_dict().items():
        found = re.fullmatch(r"stages(.*blocks)\.1\.generation\.module\.first\.(.*)", name)
        if found and ".qkv." in name:
            released = f"layers{found[1]}.1.{found[2]}"
            state[released.replace("qkv", "q")] = value[: len(value) // 3]
            state[released.replace("qkv", "kv")] = value[len(value) // 3 :]
    assert len(state) == 4 + len(more)
    if CENTERS in state:
        state[CENTERS] = torch.zeros(1, 36, 48)
    return state


def about_switches(report):
    """Return the warnings without that of the stem, which these files lack."""
    return [sentence for sentence in report.warnings if not sentence.startswith("patch_embed.")]


@pytest.mark.parametrize(
    ("overrides", "more", "sentence"),
    [
        ((), (), None),
        (("STVIT.SHORTCUT", "True"), (DETECTOR_NORM,), None),
        (("STVIT.SHORTCUT", "True"), (), "classification were trained with SHORTCUT false"),
        ((), (DETECTOR_NORM,), "The file is a detector's, which has SHORTCUT"),
        (
            (),
            (CENTERS,),
            r"USE_GLOBAL true, .* spatial\+global and STVIT\.RELEASED_GLOBAL True\.$",
        ),
        (
            ("STVIT.INITIALIZATION", "spatial+global"),
            (CENTERS,),
            r"USE_GLOBAL true, .* spatial\+global and STVIT\.RELEASED_GLOBAL True\.$",
        ),
        (
            ("STVIT.INITIALIZATION", "spatial+global"),
            (),
            "USE_GLOBAL false, .* STVIT.INITIALIZATION spatial.$",
        ),
    ],
)
def test_other_switches_are_told(overrides, more, sentence, tmp_path):
    model = imagenet_model("stvit_r_swin_s", *SMALL, *overrides)
    torch.save(released_names(model, *more), tmp_path / "weights.pth")
    report = load_weights(model, tmp_path / "weights.pth")
    assert report.format == "released STViT-R"
    if sentence is None:
        assert not about_switches(report)
        return
    assert re.search(sentence, report.warnings[0])
    assert f"  warning: {report.warnings[0]}" in str(report).splitlines()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match=r"weights.pth does not fit the config: .*" + sentence):
        load_weights(model, tmp_path / "weights.pth", min_share=1.0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_dense_model_has_no_switches(tmp_path):
    torch.save(released_names(imagenet_model("stvit_r_swin_s", *SMALL)), tmp_path / "weights.pth")
    report = load_weights(imagenet_model("swin_s", *SMALL), tmp_path / "weights.pth")
    assert not about_switches(report)
    assert "stages.2.blocks.1.attn.qkv.weight" in report.loaded
