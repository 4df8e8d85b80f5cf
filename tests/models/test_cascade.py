"""Test Cascade Mask R-CNN against torchvision's Mask R-CNN, and its cascade."""

import math

import pytest
import torch
from official import refill
from small_detector import batch, detector, small_detector
from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign, box_iou

from stvit_video.models.detection.cascade import giou_loss
from stvit_video.models.detection.detector import PyramidRoIAlign
from stvit_video.models.profile import count_flops

ONE_STAGE = (
    *("DETECTION.IOU_THRESHOLDS", "(0.5,)", "DETECTION.STAGE_WEIGHTS", "(1.0,)"),
    *("DETECTION.BOX_LOSS", "smooth_l1", "DETECTION.BOX_CONVS", "1"),
)


def their_mask_rcnn(ours):
    """Return torchvision's Mask R-CNN on the same features, with the weights of our only stage."""

    class Features(nn.Module):
        out_channels = 8

    theirs = MaskRCNN(
        Features(),
        rpn_anchor_generator=AnchorGenerator(
            ((8,), (16,), (32,), (64,), (128,)), ((0.5, 1.0, 2.0),) * 5
        ),
        rpn_pre_nms_top_n_train=50,
        rpn_post_nms_top_n_train=50,
        rpn_pre_nms_top_n_test=50,
        rpn_post_nms_top_n_test=50,
        box_batch_size_per_image=32,
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2),
        box_head=FastRCNNConvFCHead((8, 7, 7), [8], [16], norm_layer=nn.BatchNorm2d),
        box_predictor=FastRCNNPredictor(16, 5),
        mask_head=MaskRCNNHeads(8, [8] * 4, 1),
        mask_predictor=MaskRCNNPredictor(8, 8, 5),
    )
    theirs.rpn.load_state_dict(ours.rpn.state_dict())
    theirs.roi_heads.load_state_dict(ours.roi_heads.stages[0].state_dict())
    return theirs


@pytest.fixture(scope="module")
def both():
    ours = refill(small_detector(*ONE_STAGE))
    return ours, their_mask_rcnn(ours)


def test_one_stage_has_the_losses_of_torchvisions_mask_rcnn(both):
    ours, theirs = (model.train() for model in both)
    images, sizes, targets = batch()
    torch.manual_seed(7)  # for the samplers
    found = ours(images, sizes, targets)
    torch.manual_seed(7)
    features = ours.fpn(ours.backbone(images))
    proposals, expected = theirs.rpn(ImageList(images, sizes), features, targets)
    _, of_heads = theirs.roi_heads(features, proposals, sizes, targets)
    expected = {f"rpn_{name}": loss for name, loss in expected.items()}
    expected |= {f"stage0_{name}": loss for name, loss in of_heads.items()}
    assert found.keys() == expected.keys()
    for name, loss in expected.items():
        assert loss > 1e-3, name
        torch.testing.assert_close(found[name], loss, atol=1e-5, rtol=0)


def test_one_stage_has_the_detections_of_torchvisions_mask_rcnn(both):
    ours, theirs = (model.eval() for model in both)
    images, sizes, _ = batch()
    with torch.inference_mode():
        found = ours(images, sizes)
        features = ours.fpn(ours.backbone(images))
        proposals, _ = theirs.rpn(ImageList(images, sizes), features)
        expected, _ = theirs.roi_heads(features, proposals, sizes)
    assert min(len(each["boxes"]) for each in expected) > 5
    for ours_of_image, theirs_of_image in zip(found, expected, strict=True):
        assert ours_of_image.keys() == theirs_of_image.keys()
        for name, value in theirs_of_image.items():
            torch.testing.assert_close(ours_of_image[name], value, atol=1e-5, rtol=0)


def test_every_parameter_learns_from_objects_and_from_their_absence():
    model = small_detector().train()
    for objects in ((3, 2), (0, 0)):
        images, sizes, targets = batch(objects=objects)
        model.zero_grad()
        losses = model(images, sizes, targets)
        assert len(losses) == 2 + 3 * 3
        sum(losses.values()).backward()
        missing = [name for name, value in model.named_parameters() if value.grad is None]
        assert not missing
        for name, value in model.named_parameters():
            assert value.grad.isfinite().all(), name


def regress_to_the_truth(stage, seen):
    """Make a stage record its input boxes and regress them to the only object of each image."""
    select, offsets = stage.select_training_samples, []

    def recording(proposals, targets):
        seen.append(proposals)
        chosen = select(proposals, targets)
        truths = [
            target["boxes"].expand(len(boxes), 4)
            for target, boxes in zip(targets, chosen[0], strict=True)
        ]
        offsets[:] = stage.box_coder.encode(truths, chosen[0])
        return chosen

    stage.select_training_samples = recording
    stage.box_predictor.forward = lambda x: (
        torch.zeros(len(x), 5),
        torch.cat(offsets).repeat(1, 5),
    )


def test_each_stage_gets_the_boxes_of_the_one_before_as_it_regressed_them():
    model = small_detector().train()
    images, sizes, targets = batch(objects=(1, 1))
    seen = []
    for stage in model.roi_heads.stages:
        regress_to_the_truth(stage, seen)
    model(images, sizes, targets)
    assert len(seen) == 3
    for image, target in enumerate(targets):
        first, second, third = (box_iou(boxes[image], target["boxes"]) for boxes in seen)
        assert first.min() < 0.3
        assert len(second) > 20 and second.min() > 0.999
        # A box equal to a true box is treated as the one that the stage added.
        assert len(third) < len(second) and (third > 0.999).all()


def test_later_stages_match_more_strictly_and_regress_more_finely():
    stages = small_detector().roi_heads.stages
    assert [stage.proposal_matcher.high_threshold for stage in stages] == [0.5, 0.6, 0.7]
    stds = [[1 / weight for weight in stage.box_coder.weights] for stage in stages]
    for std, divisor in zip(stds, (1, 2, 3), strict=True):
        assert std == pytest.approx([0.1 / divisor] * 2 + [0.2 / divisor] * 2)


def test_the_giou_loss_is_that_of_the_decoded_boxes():
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 10.0]])
    # One box is shifted by 5 pixels; the other has twice the width of its true box.
    offsets = torch.tensor([[5.0, 0, 0, 0], [0, 0, 5 * math.log(2), 0]])
    found = giou_loss(coder, offsets=offsets, boxes=boxes, true_boxes=boxes)
    # IoU 1/3 and 1/2; in both cases the union fills the enclosing box.
    assert found.item() == pytest.approx(10 * (2 / 3 + 1 / 2), rel=1e-5)


def test_pooling_does_not_depend_on_what_came_first():
    """torchvision infers the strides from its first batch, here 2 instead of 4."""
    generator = torch.Generator().manual_seed(0)
    maps = {str(i): torch.randn(1, 3, 64 >> i, 64 >> i, generator=generator) for i in range(4)}
    small = {name: map_[:, :, : 16 >> int(name), : 16 >> int(name)] for name, map_ in maps.items()}
    boxes = [torch.tensor([[20.0, 30.0, 80.0, 70.0], [0.0, 0.0, 200.0, 250.0]])]
    expected = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)(maps, boxes, [(256, 256)])
    pooling = PyramidRoIAlign((4, 8, 16, 32), side=7)
    pooling(small, [torch.tensor([[0.0, 0, 9, 9]])], [(40, 40)])  # padded to 64
    torch.testing.assert_close(pooling(maps, boxes, [(256, 256)]), expected)


def test_detections_lie_in_their_images():
    model = refill(small_detector("DETECTION.MAX_DETECTIONS", "20")).eval()
    images, sizes, _ = batch()
    with torch.inference_mode():
        for found, (height, width) in zip(model(images, sizes), sizes, strict=True):
            assert 5 < len(found["boxes"]) <= 20
            left, top, right, bottom = found["boxes"].unbind(1)
            assert (left >= 0).all() and (left < right).all() and (right <= width).all()
            assert (top >= 0).all() and (top < bottom).all() and (bottom <= height).all()
            assert ((found["labels"] >= 1) & (found["labels"] <= 4)).all()
            assert (found["scores"].diff() <= 0).all()
            assert found["masks"].shape == (len(found["boxes"]), 1, 28, 28)


def test_boxes_stay_float32_in_mixed_precision():
    model = refill(small_detector()).eval()
    images, sizes, _ = batch()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        maps = model.fpn(model.backbone(images))
        assert maps["0"].dtype == torch.bfloat16
        (found, *_) = model(images, sizes)
    assert {value.dtype for value in found.values()} == {torch.float32, torch.int64}
    # With 8 significant bits, values from 64 on would be multiples of 1/2.
    large = found["boxes"][found["boxes"] > 64]
    assert (large * 4 % 1 != 0).any()


@pytest.mark.parametrize(("name", "paper"), [("swin_s", 194), ("swin_b", 343)])
def test_backbones_cost_what_the_paper_says(name, paper):
    with torch.device("meta"):
        backbone = detector(name).backbone
    # 800 x 1333, padded to a multiple of 32.
    flops = count_flops(backbone, torch.empty(1, 3, 800, 1344, device="meta"))
    assert flops / 1e9 == pytest.approx(paper, rel=0.01)
