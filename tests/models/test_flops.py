"""Test FLOPs and parameters against the paper's, at batch 1 and 32 x 224 x 224 pixels.

Models are measured on the meta device, where nothing is computed. Convolutions cannot be traced
there, so intra and inter-window pooling is measured separately on the CPU, and the model with
average pooling.
"""

from functools import cache

import pytest
import torch
from small import imagenet_model, model_of, number_of_values

from stvit_video.models.layers.patch import ConvStem, PatchEmbed
from stvit_video.models.profile import count_flops
from stvit_video.models.semantic.pooling import IntraInterPooling, PoolingRegions
from stvit_video.paper.rows import paper_rows
from stvit_video.paper.tables import MeasuredRow

FRAMES = 16  # in stage 3, with 14 x 14 tokens of 384 channels


@cache
def gflops(name, *overrides):
    with torch.device("meta"):
        model = model_of(name, *overrides)
    return count_flops(model, torch.empty(1, 3, 32, 224, 224, device="meta")) / 1e9


@cache
def pooling_gflops():
    pooling = IntraInterPooling(PoolingRegions(window=7, tokens=3), dim=384, grid=(14, 14))
    return count_flops(pooling, torch.zeros(FRAMES, 14, 14, 384)) / 1e9


def semantic_gflops(name, *overrides):
    return gflops(name, "STVIT.POOLING", "average", *overrides) + pooling_gflops()


@pytest.mark.parametrize(("name", "paper"), [("swin_t", 88), ("swin_s", 166)])
def test_dense_models_cost_what_the_paper_says(name, paper):
    assert gflops(name) == pytest.approx(paper, rel=0.005)


@pytest.mark.parametrize(("name", "paper"), [("stvit_swin_t", 64.4), ("stvit_swin_s", 120.5)])
def test_semantic_models_cost_what_the_paper_says_or_a_little_less(name, paper):
    # Less, because keys and values are projected once per token instead of once for each of the
    # overlapping windows.
    assert 0.98 * paper <= semantic_gflops(name) <= 1.005 * paper


@pytest.mark.parametrize("name", ["stvit_swin_t", "stvit_swin_s"])
def test_attention_over_frames_costs_at_most_a_hundredth_more(name):
    inside = semantic_gflops(name)
    over = semantic_gflops(name, "STVIT.TEMPORAL_WINDOW", "8")
    assert inside < over <= 1.015 * inside


def test_the_pooling_is_all_that_the_choice_of_pooling_adds():
    # A small model, with 2 frames of 5 x 4 tokens of 48 channels in stage 3.
    small = ("SWIN.EMBED_DIM", "12", "SWIN.DEPTHS", "(1, 1, 2, 1)", "STVIT.LAYOUT", "stgm 2")
    costs = [
        count_flops(
            model_of("stvit_swin_t", *small, "STVIT.POOLING", pooling), torch.zeros(1, 3, 4, 80, 64)
        )
        for pooling in ("intra_inter", "average")
    ]
    pooling = IntraInterPooling(PoolingRegions(window=7, tokens=3), dim=48, grid=(14, 14))
    assert costs[0] - costs[1] == count_flops(pooling, torch.zeros(2, 5, 4, 48)) > 0


@pytest.mark.parametrize("name", ["stvit_swin_t", "stvit_swin_b"])
def test_the_pooling_has_as_few_parameters_as_the_paper_says(name):
    with torch.device("meta"):
        learned, average = (
            number_of_values(model_of(name, "STVIT.POOLING", pooling))
            for pooling in ("intra_inter", "average")
        )
    assert 0 < learned - average < 0.0005 * average


def stem_gflops(dim):
    """Return the extra cost of a convolutional stem over a linear one, at 800 x 1344 pixels."""
    linear = PatchEmbed((1, 4, 4), dim=dim, norm=torch.nn.LayerNorm(dim))
    pixels = torch.zeros(1, 3, 1, 800, 1344)
    return (count_flops(ConvStem(dim=dim), pixels) - count_flops(linear, pixels)) / 1e9


def backbone_gflops(row):
    """Return the cost of the detector backbone of a row."""
    name = row.config.removeprefix("imagenet/").removesuffix(".yaml")
    with torch.device("meta"):
        model = imagenet_model(name, *row.overrides, "SWIN.STEM", "patch")
    count = count_flops(model, torch.empty(1, 3, 800, 1344, device="meta")) / 1e9
    return count if row.is_base else count + stem_gflops(model.patch_embed.proj.out_channels)


# Larger models take long to trace; tools/paper_tables.py measures them.
BACKBONES = {row.name: row for row in paper_rows() if row.table == 5}


@pytest.mark.parametrize(
    "name", ["Swin-S, backbone", "Swin-B, backbone", "STViT-R-Swin-S, released padding"]
)
def test_backbones_of_detectors_cost_what_the_paper_says(name):
    assert MeasuredRow(BACKBONES[name], 0, backbone_gflops(BACKBONES[name])).is_within_tolerance


@pytest.mark.parametrize(
    ("name", "gflops"),
    [("without dumbbell units", 133.92), ("reusing semantic tokens", 133.25)],
)
def test_the_ablations_of_table_9_cost_as_much_as_the_full_model(name, gflops):
    (row,) = (row for row in paper_rows() if (row.table, row.name) == (9, name))
    assert backbone_gflops(row) == pytest.approx(gflops, abs=0.03)


@pytest.mark.parametrize(("size", "dim", "paper"), [("s", 96, 5.83), ("b", 128, 10.26)])
def test_keys_projected_once_are_all_that_the_paper_counts_more(size, dim, paper):
    """The paper's first layers project 9 + 100 tokens in each of 4 windows, ours 36 + 196."""
    model = imagenet_model(f"stvit_r_swin_{size}")
    here = count_flops(model, torch.zeros(1, 3, 224, 224)) / 1e9
    again = 3 * (4 * (9 + 100) - (36 + 196)) * 2 * (4 * dim) ** 2 / 1e9
    assert here < paper
    assert here + again == pytest.approx(paper, rel=0.005)
