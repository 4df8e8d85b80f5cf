"""Test DeiT against timm's, and DeiT with semantic tokens."""

import pytest
import timm
import torch
from official import refill
from small import imagenet_model, number_of_values, small_deit
from weight_files import accounted_for, saved

from stvit_video.models import load_weights

THEIRS = {"deit_t": "deit_tiny_patch16_224", "deit_s": "deit_small_patch16_224"}
SEMANTIC = ("STVIT.ENABLE", "True", "DEIT.CLASS_TOKEN", "False", "STVIT.NUM_TOKENS", "16")


@pytest.fixture(scope="module", params=THEIRS)
def pair(request, tmp_path_factory):
    """Return timm's model, and ours with its weights."""
    theirs = timm.create_model(THEIRS[request.param], pretrained=False, dynamic_img_size=True)
    theirs = refill(theirs).eval()
    ours = imagenet_model(request.param).eval()
    folder = tmp_path_factory.mktemp("weights")
    report = load_weights(ours, saved(theirs.state_dict(), folder), min_share=1.0)
    assert report.format == "official or timm DeiT"
    assert not (report.unexpected or report.inflated or report.interpolated)
    return theirs, ours


@pytest.mark.parametrize("size", [(224, 224), (160, 288)])
def test_logits_are_timms(pair, size):
    theirs, ours = pair
    images = torch.randn(2, 3, *size)
    with torch.inference_mode():
        expected, found = theirs(images), ours(images)
    assert expected.std() > 0.3
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_video_is_its_frames_one_by_one():
    model = small_deit().eval()
    video = torch.randn(2, 3, 4, 64, 64)
    with torch.inference_mode():
        frames = torch.stack([model.forward_features(frame)[:, 0] for frame in video.unbind(2)], 1)
        torch.testing.assert_close(model.forward_features(video), frames)


def test_a_dense_file_loads_into_the_semantic_model(tmp_path):
    dense, model = small_deit(), small_deit(*SEMANTIC)
    file = {
        key.replace("position.table", "pos_embed")
        .replace("position.class_token", "cls_token")
        .replace("head.fc", "head"): value
        for key, value in dense.state_dict().items()
    }
    file["patch_embed.proj.weight"] = file["patch_embed.proj.weight"].squeeze(2)
    report = load_weights(model, saved(file, tmp_path), min_share=0.9)
    assert accounted_for(report) == number_of_values(model)
    assert set(report.unexpected) == {"position.class_token"}
    assert all("pooling" in name or "global_centers" in name for name in report.missing)
    layer = model.blocks[4].module.second
    assert torch.equal(layer.attn.qkv.weight, dense.blocks[5].attn.qkv.weight)
    assert torch.equal(model.position.table, dense.position.table[:, 1:])


@pytest.mark.parametrize("size", [(64, 64), (70, 129), (33, 250)])
def test_tokens_are_as_many_at_any_size(size):
    model = small_deit(*SEMANTIC).train()
    grid = model.forward_features(torch.randn(2, 3, *size))
    assert grid.shape == (2, 1, 4, 4, 24)
    grid.square().mean().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if not n.startswith("head"))


@pytest.mark.parametrize(
    ("initialization", "names"),
    [
        ("spatial", set()),
        ("global", {"pooling.centers"}),
        ("spatial+global", {"global_centers"}),
        ("spatial+position", {"global_centers"}),
    ],
)
def test_each_initialization_has_its_parameters(initialization, names):
    options = (*SEMANTIC, "STVIT.POOLING", "average", "STVIT.INITIALIZATION", initialization)
    generation = small_deit(*options).blocks[4].module
    parameters = dict(generation.named_parameters())
    own = {name for name in parameters if not name.startswith(("first.", "second."))}
    assert own == names
    assert all(parameters[name].shape == (4, 4, 24) for name in own)  # N_s = 16


def test_the_first_layer_of_deit_attends_to_image_tokens_alone():
    generation = small_deit(*SEMANTIC, "STVIT.SEMANTIC_KEYS", "later").blocks[4].module
    tokens, image = torch.randn(1, 4, 4, 24), torch.randn(1, 5, 6, 24)
    others = tokens.index_fill(1, torch.tensor([0]), 3.0)  # changes the first row
    first, second = (
        [layer(each, image)[:, 1:] for each in (tokens, others)]
        for layer in (generation.first, generation.second)
    )
    torch.testing.assert_close(*first)
    assert not torch.allclose(*second)


def position_file(model, table, folder):
    """Save the model's weights with another position table."""
    return saved({**model.state_dict(), "position.table": table}, folder)


@pytest.mark.parametrize("before", [0, 2])
def test_positions_of_models_with_other_tokens_before_the_grid_find_their_places(before, tmp_path):
    """Test DeiT III (no position before the grid) and a distilled DeiT (two)."""
    model = small_deit()
    table = torch.randn(1, before + 16, 24)
    report = load_weights(model, position_file(small_deit(), table, tmp_path), min_share=1.0)
    assert "position.table" in report.loaded
    expected = torch.cat([table[:, :1] if before else torch.zeros(1, 1, 24), table[:, -16:]], dim=1)
    assert torch.equal(model.position.table, expected)


def test_positions_of_a_grid_that_is_not_square_are_resized_as_such(tmp_path):
    flat = (*SEMANTIC, "DEIT.PATCH_SIZE", "(16, 8)", "STVIT.NUM_TOKENS", "4")
    model = small_deit(*flat)
    assert model.position.size == (4, 8)
    ramp = torch.linspace(-1, 1, 16).expand(8, 16)[None, :, :, None].expand(1, 8, 16, 24)
    file = position_file(small_deit(*flat), ramp.flatten(1, 2), tmp_path)
    report = load_weights(model, file, min_share=1.0)
    assert "position.table" in report.interpolated
    found = model.position.table.view(4, 8, 24)
    torch.testing.assert_close(found, found[:1].expand_as(found))  # all rows are equal
    assert (found.diff(dim=1) > 0).all()


def test_positions_that_stay_random_are_told(tmp_path):
    file = position_file(small_deit(), torch.randn(1, 15, 24), tmp_path)
    (sentence,) = load_weights(small_deit(), file).warnings
    assert sentence.startswith("position.table keeps its previous value")
    assert sentence.endswith("another patch size or width")
