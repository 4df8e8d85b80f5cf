"""Test loading: fitting weights load, others are reported, rejected files change nothing."""

import re

import pytest
import timm
import torch
from small import imagenet_model, model_of, number_of_values, small_deit, small_model
from torch import nn
from weight_files import accounted_for, saved

from stvit_video.errors import UserError
from stvit_video.models import load_weights, save_weights


def copy_of_state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def states_are_equal(model, state):
    own = model.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in own)


def as_safetensors(model, folder):
    save_weights(model, folder / "weights.safetensors")
    return folder / "weights.safetensors"


def under_ddp(state):
    return {f"module.{key}": value for key, value in state.items()}


WRITERS = {
    "state dict": lambda model, folder: saved(model.state_dict(), folder),
    "checkpoint": lambda model, folder: saved(
        {"epoch": 3, "model_state": model.state_dict(), "cfg": "MODEL: {}"}, folder
    ),
    "under DDP": lambda model, folder: saved(under_ddp(model.state_dict()), folder),
    "old pickle": lambda model, folder: saved(
        model.state_dict(), folder, _use_new_zipfile_serialization=False
    ),
    "safetensors": as_safetensors,
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("name", ["swin_t", "stvit_swin_t"])
def test_our_own_weights_come_back(name, write, tmp_path):
    source, model = small_model(name), small_model(name)
    report = load_weights(model, write(source, tmp_path), min_share=1.0)
    assert states_are_equal(model, source.state_dict())
    assert report.format == "stvit_video"
    assert report.share == 1
    assert sum(report.loaded.values()) == accounted_for(report) == number_of_values(model)
    assert not report.unexpected


def test_results_come_back_too(tmp_path):
    source, model = (small_model("stvit_swin_t").eval() for _ in range(2))
    video = torch.randn(1, 3, 4, 64, 64)
    with torch.inference_mode():
        before = model(video)
        load_weights(model, saved(source.state_dict(), tmp_path))
        assert torch.equal(model(video), source(video))
    assert not torch.allclose(before, model(video))


def test_parts_of_names_can_be_cleared(tmp_path):
    source, model = small_model("swin_t"), small_model("swin_t")
    state = {f"teacher.backbone_{key}": value for key, value in source.state_dict().items()}
    path = saved(state, tmp_path)
    load_weights(model, path, min_share=1.0, clear_name_patterns=("teacher.", "backbone_"))
    assert states_are_equal(model, source.state_dict())


def test_a_dense_file_loads_into_a_semantic_model(tmp_path):
    dense, model = small_model("swin_t"), small_model("stvit_swin_t")
    before = copy_of_state(model)
    report = load_weights(model, saved(dense.state_dict(), tmp_path))
    assert accounted_for(report) == number_of_values(model)
    assert report.share == pytest.approx(sum(report.loaded.values()) / number_of_values(model))
    blocks = "stages.2.blocks"
    # Layers 3 and 4 of the dense stage are the layers of the generation module.
    generation = f"{blocks}.2.module"
    theirs, ours = dense.state_dict(), model.state_dict()
    for index, layer in enumerate(("first", "second")):
        for name in dense.stages[2].blocks[2 + index].state_dict():
            if name.endswith("bias_table"):
                assert f"{blocks}.{2 + index}.{name}" in report.unexpected
                continue
            place = f"{generation}.{layer}.{name}"
            assert place in report.loaded
            assert torch.equal(ours[place], theirs[f"{blocks}.{2 + index}.{name}"])
    for name in ("stages.3.blocks.1.mlp.fc1.weight", f"{blocks}.5.attn.qkv.weight"):
        assert torch.equal(ours[name], theirs[name])
    assert set(report.missing) == {
        *(f"stages.2.downsample.{name}" for name in ("weight", "bias")),
        f"{generation}.global_centers",
        *(name for name in ours if name.startswith(f"{generation}.pooling.")),
    }
    assert not report.mismatched
    tables = {name for name in theirs if name.endswith("bias_table") and name not in ours}
    merging = ("reduction.weight", "norm.weight", "norm.bias")
    assert set(report.unexpected) == {*(f"stages.2.downsample.{x}" for x in merging), *tables}
    for name in report.missing:
        assert torch.equal(ours[name], before[name])


def test_a_dense_file_loads_into_a_model_with_recovery(tmp_path):
    dense, model = small_model("swin_s"), small_model("stvit_r_swin_s")
    report = load_weights(model, saved(dense.state_dict(), tmp_path))
    assert accounted_for(report) == number_of_values(model)
    # Five layers in each of three units have two layer scales each.
    assert len(report.missing) == 30
    assert all(name.endswith(".scale.gamma") for name in report.missing)
    tables = {f"stages.2.blocks.{i}.attn.relative_position_bias_table" for i in range(18) if i % 6}
    assert set(report.unexpected) == tables
    assert not report.mismatched
    theirs, ours = dense.state_dict(), model.state_dict()
    for place, layer in (
        ("6", 6),
        ("7.generation.module.first", 7),
        ("7.generation.module.second", 8),
        ("7.semantic.9", 9),
        ("7.semantic.10", 10),
        ("7.recovery.11.module", 11),
    ):
        for name in ("attn.qkv.weight", "attn.proj.bias", "mlp.fc2.weight", "norm1.weight"):
            wanted = theirs[f"stages.2.blocks.{layer}.{name}"]
            assert torch.equal(ours[f"stages.2.blocks.{place}.{name}"], wanted)


def test_a_report_can_be_read(tmp_path):
    model = small_model("stvit_swin_t", "MODEL.NUM_CLASSES", "7")
    report = load_weights(model, saved(small_model("swin_t").state_dict(), tmp_path))
    first, *lines = str(report).splitlines()
    assert first.endswith(f"(stvit_video): {report.share:.1%} of the model's parameters filled")
    counts = {line.split()[0]: line.split()[1:5] for line in lines}
    assert list(counts) == ["loaded", "mismatched", "missing", "unexpected"]
    for name, (tensors, _, values, _) in counts.items():
        part = getattr(report, name)
        assert int(tensors) == len(part)
        assert int(values.replace(",", "")) == sum(part.values())
    assert "head.fc.weight" in lines[1]


def test_another_number_of_classes_leaves_the_classifier_as_it_was(tmp_path):
    model = small_model("swin_t", "MODEL.NUM_CLASSES", "7")
    before = copy_of_state(model)
    report = load_weights(model, saved(small_model("swin_t").state_dict(), tmp_path))
    assert report.mismatched == {"head.fc.weight": 7 * 96, "head.fc.bias": 7}
    assert torch.equal(model.head.fc.weight, before["head.fc.weight"])
    assert accounted_for(report) == number_of_values(model)


def test_a_file_that_fills_too_little_changes_nothing(tmp_path):
    model = small_model("stvit_swin_t")
    before = copy_of_state(model)
    path = saved(small_model("swin_t").state_dict(), tmp_path)
    share = load_weights(small_model("stvit_swin_t"), path).share
    assert 0.8 < share < 1
    with pytest.raises(
        UserError, match=rf"fills {share:.1%} of .* at least 100% are required"
    ) as error:
        load_weights(model, path, min_share=1.0)
    assert str(path) in str(error.value)
    assert states_are_equal(model, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value, tmp_path):
    model = small_model("swin_t")
    before = copy_of_state(model)
    state = copy_of_state(small_model("swin_t"))
    state["stages.1.blocks.0.mlp.fc2.bias"][3] = value
    with pytest.raises(UserError, match=r"not finite, in stages\.1\.blocks\.0\.mlp\.fc2\.bias"):
        load_weights(model, saved(state, tmp_path))
    assert states_are_equal(model, before)


def test_half_precision_is_converted(tmp_path):
    source, model = small_model("swin_t").half(), small_model("swin_t")
    load_weights(model, saved(source.state_dict(), tmp_path), min_share=1.0)
    assert states_are_equal(model, source.float().state_dict())


def test_a_semantic_file_fills_what_it_shares_with_a_dense_model(tmp_path):
    path = saved(small_model("stvit_swin_t").state_dict(), tmp_path)
    model = small_model("swin_t")
    report = load_weights(model, path)
    assert accounted_for(report) == number_of_values(model)
    assert 0.3 < report.share < 1


def test_names_follow_the_paper_for_the_full_size(tmp_path):
    with torch.device("meta"):
        names = list(model_of("stvit_swin_t").state_dict())
    assert "stages.2.blocks.2.module.second.attn.qkv.weight" in names
    assert [name for name in names if "head" in name] == ["head.fc.weight", "head.fc.bias"]


@pytest.mark.parametrize(
    ("key", "averaged"),
    [("model_state", "ema_state"), ("model", "model_ema"), ("state_dict", "state_dict_ema")],
)
def test_averaged_weights_are_taken_where_they_are_asked_for(tmp_path, key, averaged):
    weights, average, model = (small_model("swin_t") for _ in range(3))
    path = saved({key: weights.state_dict(), averaged: average.state_dict()}, tmp_path)
    report = load_weights(model, path, averaged=True)
    assert states_are_equal(model, average.state_dict())
    assert "averaged weights" in str(report)
    report = load_weights(model, path)
    assert states_are_equal(model, weights.state_dict())
    assert "averaged weights" not in str(report)


def test_a_file_without_an_average_is_refused_where_one_is_asked_for(tmp_path):
    model = small_model("swin_t")
    path = saved({"model_state": model.state_dict()}, tmp_path)
    with pytest.raises(UserError, match=r"holds no averaged weights .* EMA\.EVAL"):
        load_weights(model, path, averaged=True)


def test_an_address_is_no_file():
    with pytest.raises(UserError, match=r"deit\.pth does not exist: download it first"):
        load_weights(small_model("swin_t"), "https://example.org/deit.pth")


@pytest.mark.parametrize(
    ("name", "config", "sentence"),
    [
        ("deit3_small_patch16_224", "deit_s", r"LayerScale.* \(blocks\.0\.ls1\.gamma\)"),
        ("deit_tiny_distilled_patch16_224", "deit_t", r"a distillation token \(dist_token\)"),
        ("swinv2_tiny_window8_256", "swin_t", r"Swin V2's attention \(stages\..*logit_scale\)"),
    ],
)
def test_models_of_other_families_are_warned_of_and_not_tested(name, config, sentence, tmp_path):
    path = saved(timm.create_model(name).state_dict(), tmp_path)
    model = imagenet_model(config)
    report = load_weights(model, path)
    assert report.share > 0.99
    assert re.search(sentence, "\n".join(report.warnings))
    with pytest.raises(UserError, match="it belongs to another model"):
        load_weights(imagenet_model(config), path, min_share=1.0)


def test_a_share_is_rounded_up_to_no_whole(tmp_path):
    model = imagenet_model("deit_t")
    state = model.state_dict()
    del state["blocks.3.norm1.bias"]
    report = load_weights(model, saved(state, tmp_path))
    assert 0.9995 < report.share < 1
    assert ": 99.9% of the model's" in str(report)
    with pytest.raises(
        UserError, match=r"fills 99\.9% .*: .*blocks\.3\.norm1\.bias is missing in the file"
    ):
        load_weights(model, saved(state, tmp_path), min_share=1.0)


def test_centers_and_offsets_fit_another_training_size(tmp_path):
    """Offsets of DeiT's pooling are resized with its regions."""
    size = ("DATA.TRAIN_CROP_SIZE", "64"), ("DATA.TRAIN_CROP_SIZE", "128")
    options = ("STVIT.ENABLE", "True", "DEIT.CLASS_TOKEN", "False", "STVIT.NUM_TOKENS", "4")
    small, large = (small_deit(*options, *pair) for pair in size)
    nn.init.normal_(small.blocks[4].module.pooling.inter.pointwise.weight)
    save_weights(small, tmp_path / "deit.safetensors")
    report = load_weights(large, tmp_path / "deit.safetensors")
    assert report.share == 1.0
    pointwise = [model.blocks[4].module.pooling.inter.pointwise for model in (small, large)]
    assert [len(layer.weight) for layer in pointwise] == [2 * 2, 4 * 4]
    grids = [
        layer.weight.detach().view(side, side, -1)
        for layer, side in zip(pointwise, (2, 4), strict=True)
    ]
    expected = nn.functional.interpolate(grids[0].permute(2, 0, 1)[None], (4, 4), mode="bilinear")
    torch.testing.assert_close(grids[1].permute(2, 0, 1)[None], expected)
