"""Compare our PyTorchVideo models with the originals, and test what we add to them.

The originals are built for clips of 8 x 64 x 64, as PyTorchVideo's heads pool a fixed size.
"""

from functools import partial
from pathlib import Path

import pytest
import torch
from pytorchvideo.models import (
    create_csn,
    create_multiscale_vision_transformers,
    create_resnet,
)
from pytorchvideo.models.hub.vision_transformers import mvit_video_base_config
from pytorchvideo.models.r2plus1d import create_r2plus1d
from pytorchvideo.models.slowfast import create_slowfast
from pytorchvideo.models.x3d import create_x3d
from torch import nn
from weight_files import accounted_for, saved

from stvit_video.config import load_config
from stvit_video.engine.optim import parameter_groups
from stvit_video.errors import UserError
from stvit_video.models import build_model, load_weights
from stvit_video.models.profile import count_flops
from stvit_video.models.ptv import PTV_MODELS, SlowFastPathways

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "k400" / "ptv" / "slowfast_r50.yaml"
CLASSES, FRAMES, SIDE = 5, 8, 64
MVIT = "mvit_base_16x4"
X3D = partial(
    create_x3d,
    input_clip_length=FRAMES,
    input_crop_size=SIDE,
    model_num_class=CLASSES,
    head_activation=None,
)
ORIGINALS = {
    "slow_r50": partial(
        create_resnet,
        stem_conv_kernel_size=(1, 7, 7),
        head_pool_kernel_size=(8, 2, 2),
        model_num_class=CLASSES,
    ),
    "slowfast_r50": partial(
        create_slowfast, head_pool_kernel_sizes=((2, 2, 2), (8, 2, 2)), model_num_class=CLASSES
    ),
    "x3d_s": X3D,
    "x3d_m": X3D,
    "csn_r101": partial(
        create_csn,
        model_depth=101,
        stem_pool=nn.MaxPool3d,
        head_pool_kernel_size=(1, 2, 2),
        model_num_class=CLASSES,
    ),
    "r2plus1d_r50": partial(
        create_r2plus1d,
        head_pool_kernel_size=(2, 2, 2),
        head_activation=None,
        model_num_class=CLASSES,
    ),
    MVIT: partial(
        create_multiscale_vision_transformers,
        **(mvit_video_base_config | {"spatial_size": SIDE, "temporal_size": FRAMES}),
        head_num_classes=CLASSES,
    ),
}
every_model = pytest.mark.parametrize("name", ORIGINALS)


def ptv_model(name, *overrides, frames=FRAMES, side=SIDE):
    sizes = ("DATA.TRAIN_CROP_SIZE", str(side), "DATA.TEST_CROP_SIZE", str(side))
    model = ("MODEL.MODEL_NAME", name, "MODEL.NUM_CLASSES", str(CLASSES))
    frames = ("DATA.NUM_FRAMES", str(frames))
    return build_model(load_config(CONFIG, [*model, *frames, *sizes, *overrides]))


@torch.no_grad()
def with_all_branches(model):
    """Replace the initial weights that disable residual branches, and the batch statistics."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.2, 1.0)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.eval()


def pathways(video, alpha=4):
    """Return the pathways as ``PackPathway`` of PyTorchVideo's tutorials does, for a batch."""
    frames = video.shape[2]
    slow = torch.linspace(0, frames - 1, frames // alpha).long()
    return [torch.index_select(video, 2, slow), video]


def test_every_model_is_compared_with_its_original():
    assert PTV_MODELS.names() == tuple(sorted(ORIGINALS))


@every_model
@torch.no_grad()
def test_a_file_of_pytorchvideo_gives_its_own_logits(name, tmp_path):
    original, model = with_all_branches(ORIGINALS[name]()), ptv_model(name).eval()
    path = saved({"model_state": original.state_dict()}, tmp_path, "PUBLISHED.pyth")
    report = load_weights(model, path, min_share=1.0)
    assert report.format == ("PyTorchVideo MViT" if name == MVIT else "PyTorchVideo")
    assert not report.unexpected
    # On a larger clip, as in testing, the head is applied at several positions.
    for side in (SIDE,) if name == MVIT else (SIDE, SIDE + 16):
        video = torch.randn(1, 3, FRAMES, side, side)
        expected = original(pathways(video) if name == "slowfast_r50" else video.clone())
        assert expected.std() > 1e-3
        torch.testing.assert_close(model(video), expected, atol=1e-6, rtol=1e-6)


@every_model
def test_it_trains_at_any_size(name, caplog):
    model = ptv_model(name, "MODEL.DROPOUT_RATE", "0.3", frames=4, side=32).train()
    size = (4, 32, 32) if name == MVIT else (8, 40, 24)
    logits = model(torch.randn(2, 3, *size))
    assert logits.shape == (2, CLASSES)
    nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert gradients[0].any()
    assert model.head.dropout.p == 0.3
    assert model.head.proj.weight.std().item() == pytest.approx(0.01, rel=0.1)
    # On a smaller clip than in training, the pooling window of the head is reduced.
    assert name == MVIT or model(torch.randn(2, 3, 4, 16, 16)).shape == (2, CLASSES)
    assert count_flops(model, torch.zeros(1, 3, *size)) > 1e7
    assert caplog.records == []


def test_the_classifier_has_the_learning_rate_of_a_head():
    groups = parameter_groups(ptv_model("x3d_s"), weight_decay=0.0, backbone_lr_factor=0.1)
    shapes = {group["lr_factor"]: [tuple(p.shape) for p in group["params"]] for group in groups}
    assert shapes[1.0][-2:] == [(CLASSES, 2048), (CLASSES,)]
    assert len(shapes[0.1]) > 100


def test_stochastic_depth_rises_to_its_rate():
    model = ptv_model(MVIT, "MODEL.DROPCONNECT_RATE", "0.3", side=32)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in model.backbone.blocks]
    assert rates == pytest.approx([0.3 * layer / 15 for layer in range(16)])


@pytest.mark.parametrize("frames", [4, 16, 32, 64])
def test_slowfast_sees_the_frames_that_pytorchvideo_gives_it(frames):
    video = torch.arange(frames).view(1, 1, -1, 1, 1).expand(2, 3, -1, 2, 2).float()
    for own, expected in zip(SlowFastPathways(4)(video), pathways(video), strict=True):
        assert torch.equal(own, expected)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("slowfast_r50", (6, 32, 32), "a multiple of 4 frames, not 6"),
        (MVIT, (4, 32, 40), "for clips of 4 x 32 x 32 .* not of 4 x 32 x 40"),
        ("x3d_s", (32, 32), r"take videos \[B, 3, T, H, W\], not .* \[1, 3, 32, 32\]"),
        (MVIT, (8, 32, 32), "for clips of 4 x 32 x 32 .* not of 8 x 32 x 32"),
    ],
)
def test_a_clip_that_a_model_cannot_take_is_refused(name, size, message):
    model = ptv_model(name, frames=4, side=32).eval()
    with pytest.raises(UserError, match=message):
        model(torch.zeros(1, 3, *size))


@pytest.mark.parametrize("name", ["x3d_s", MVIT])
def test_our_own_file_comes_back(name, tmp_path):
    source, model = (ptv_model(name, frames=4, side=32) for _ in range(2))
    report = load_weights(model, saved(source.state_dict(), tmp_path), min_share=1.0)
    assert report.format == "stvit_video"
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in source.state_dict().items())


def test_a_file_of_other_classes_leaves_the_classifier_as_it_was(tmp_path):
    source = create_x3d(input_clip_length=4, input_crop_size=32, model_num_class=7)
    model = ptv_model("x3d_s")
    before = model.head.proj.weight.clone()
    report = load_weights(model, saved({"model_state": source.state_dict()}, tmp_path))
    assert report.mismatched == {"head.proj.weight": CLASSES * 2048, "head.proj.bias": CLASSES}
    assert torch.equal(model.head.proj.weight, before)
    assert accounted_for(report) == sum(value.numel() for value in model.state_dict().values())


def test_a_file_of_another_model_is_refused(tmp_path):
    path = saved({"model_state": create_x3d().state_dict()}, tmp_path)
    with pytest.raises(UserError, match=r"\(PyTorchVideo\) fills .* another model"):
        load_weights(ptv_model("slow_r50"), path, min_share=0.5)
