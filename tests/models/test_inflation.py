"""Test inflating weights of image models, and resizing weights of other windows."""

import math

import pytest
import timm
import torch
from small import number_of_values, small_model
from weight_files import accounted_for, saved

from stvit_video.models import load_weights
from stvit_video.models.weights.resize import inflate_bias_table, resize_bias_table


@pytest.fixture(scope="module")
def image_model():
    """Return timm's Swin-T with 12 channels and 5 classes, with biases as large as its logits."""
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", pretrained=False, embed_dim=12, num_classes=5
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def official_names(state):
    """Rename timm's weights as in the official Swin files.

    Official models merge patches at the end of a stage, timm's at the start of the next.
    """
    renamed = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] == "layers" and parts[2] == "downsample":
            parts[1] = str(int(parts[1]) - 1)
        renamed[".".join(parts).replace("head.fc.", "head.")] = value
    renamed["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    renamed["layers.0.blocks.1.attn.relative_position_index"] = torch.zeros(49, 49).long()
    return renamed


FILES = {
    "timm Swin": lambda model: model.state_dict(),
    "official Swin": lambda model: {"model": official_names(model.state_dict())},
}


@pytest.fixture(params=FILES)
def inflated(request, image_model, tmp_path):
    model = small_model("swin_t").eval()
    report = load_weights(model, saved(FILES[request.param](image_model), tmp_path), min_share=1.0)
    assert report.format == request.param
    return model, report


def still_video(image, *, frames):
    return image.unsqueeze(2).expand(-1, -1, frames, -1, -1)


def test_patches_of_a_still_video_are_those_of_the_image(inflated, image_model):
    image = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        expected = image_model.patch_embed(image)
        found = inflated[0].patch_embed(still_video(image, frames=6))
    assert found.shape == (2, 3, 56, 56, 12)
    for grid in found.unbind(1):
        torch.testing.assert_close(grid, expected, atol=1e-5, rtol=0)


def test_a_still_video_gives_the_images_logits(inflated, image_model):
    # Attention over equal frames equals attention over one of them.
    image = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        expected = image_model(image)
        found = inflated[0](still_video(image, frames=6))
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_the_report_of_an_image_model(inflated):
    model, report = inflated
    tables = {name for name in model.state_dict() if name.endswith("bias_table")}
    assert set(report.inflated) == {"patch_embed.proj.weight", *tables}
    assert report.share == 1
    assert not report.unexpected
    assert accounted_for(report) == number_of_values(model)


def test_merging_stands_at_the_end_of_a_stage(inflated, image_model):
    for stage in range(3):
        ours = inflated[0].stages[stage].downsample.reduction.weight
        assert torch.equal(ours, image_model.layers[stage + 1].downsample.reduction.weight)


def test_an_image_model_loads_as_an_image_model(image_model, tmp_path):
    model = small_model("swin_t", "SWIN.WINDOW_SIZE", "(1, 7, 7)", "SWIN.PATCH_SIZE", "(1, 4, 4)")
    report = load_weights(model.eval(), saved(image_model.state_dict(), tmp_path), min_share=1.0)
    assert not report.inflated
    image = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(model(image), image_model(image), atol=1e-4, rtol=0)


def test_an_image_model_fills_a_semantic_video_model(image_model, tmp_path):
    model = small_model("stvit_swin_t")
    report = load_weights(model, saved(image_model.state_dict(), tmp_path))
    assert accounted_for(report) == number_of_values(model)
    qkv = model.stages[2].blocks[2].module.second.attn.qkv
    assert torch.equal(qkv.weight, image_model.layers[2].blocks[3].attn.qkv.weight)


def test_an_image_model_of_ours_fills_a_video_model(tmp_path):
    one_frame = ("SWIN.WINDOW_SIZE", "(1, 7, 7)", "SWIN.PATCH_SIZE", "(1, 4, 4)")
    images, videos = small_model("swin_t", *one_frame).eval(), small_model("swin_t").eval()
    with torch.no_grad():
        for parameter in images.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    report = load_weights(videos, saved(images.state_dict(), tmp_path), min_share=1.0)
    assert "patch_embed.proj.weight" in report.inflated
    assert not report.warnings
    image = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        found = videos(still_video(image, frames=6))
        torch.testing.assert_close(found, images(image), atol=1e-4, rtol=0)


def test_a_patch_embedding_that_stays_random_is_told(tmp_path):
    one_frame = ("SWIN.WINDOW_SIZE", "(1, 7, 7)", "SWIN.PATCH_SIZE", "(1, 4, 4)")
    model = small_model("swin_t", *one_frame, "SWIN.STEM", "conv")
    report = load_weights(
        model, saved(small_model("swin_t", *one_frame).state_dict(), tmp_path), min_share=0.5
    )
    (sentence,) = report.warnings
    assert sentence.startswith("patch_embed.convs.0.weight keeps its previous value")
    assert f"  warning: {sentence}" in str(report).splitlines()


@pytest.mark.parametrize(
    "window", [(4, 7, 7), (16, 7, 7), (8, 5, 5), (8, 8, 8), (8, 12, 12)], ids=str
)
def test_tables_of_another_window_are_interpolated(window, tmp_path):
    source, model = small_model("swin_t"), small_model("swin_t", "SWIN.WINDOW_SIZE", str(window))
    with torch.no_grad():
        for name, parameter in source.named_parameters():
            if name.endswith("bias_table"):
                # A constant for each head, whatever the distance in time and space.
                parameter.copy_(torch.arange(1.0, parameter.shape[1] + 1).expand_as(parameter))
    report = load_weights(model, saved(source.state_dict(), tmp_path), min_share=1.0)
    tables = {name: value for name, value in model.state_dict().items() if "bias_table" in name}
    assert set(report.interpolated) == set(tables)
    assert accounted_for(report) == number_of_values(model)
    for table in tables.values():
        expected = torch.arange(1.0, table.shape[1] + 1).expand_as(table)
        torch.testing.assert_close(table, expected)


def table_over(window, value):
    """Return the table of one head whose bias is a function of the distances."""
    ranges = [range(1 - side, side) for side in window]
    return torch.tensor(
        [[value(t, h, w)] for t in ranges[0] for h in ranges[1] for w in ranges[2]],
        dtype=torch.float32,
    )


def test_resizing_in_space_keeps_distances_in_time_and_directions():
    window = (3, 7, 7)
    resized = resize_bias_table(table_over(window, lambda t, h, w: t), window=(3, 5, 5))
    torch.testing.assert_close(resized, table_over((3, 5, 5), lambda t, h, w: t))
    rows = resize_bias_table(table_over(window, lambda t, h, w: h), window=(3, 5, 5))
    grid = rows.view(5, 9, 9)
    assert (grid.diff(dim=1) > 0).all()
    torch.testing.assert_close(grid.diff(dim=2), torch.zeros(5, 9, 8), atol=1e-5, rtol=0)
    torch.testing.assert_close(grid, -grid.flip(1), atol=1e-5, rtol=0)


def test_resizing_in_time_keeps_distances_in_space():
    old, new = (4, 3, 3), (8, 3, 3)
    plane = table_over(old, lambda t, h, w: 10 * h + w)
    torch.testing.assert_close(
        resize_bias_table(plane, window=new), table_over(new, lambda t, h, w: 10 * h + w)
    )
    time = resize_bias_table(table_over(old, lambda t, h, w: t), window=new).view(15, 5, 5)
    assert (time.diff(dim=0) >= 0).all()
    torch.testing.assert_close(time, -time.flip(0), atol=1e-5, rtol=0)


def test_a_window_of_images_is_repeated_for_each_distance_in_time():
    plane = table_over((1, 3, 3), lambda t, h, w: 10 * h + w)
    inflated = inflate_bias_table(plane, window=(4, 3, 3))
    assert torch.equal(inflated, table_over((4, 3, 3), lambda t, h, w: 10 * h + w))
    smooth = table_over((1, 7, 7), lambda t, h, w: math.cos(h / 4) * math.cos(w / 4))
    resized = inflate_bias_table(smooth, window=(2, 12, 12)).view(3, 23, 23)
    assert torch.equal(resized[0], resized[2])
    assert resized[0].argmax() == 11 * 23 + 11  # the largest bias stays at distance zero
    torch.testing.assert_close(resized, resized.flip(1, 2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("fit", [inflate_bias_table, resize_bias_table])
def test_a_table_of_no_window_cannot_be_fitted(fit):
    assert fit(torch.zeros(14, 3), window=(8, 7, 7)) is None
