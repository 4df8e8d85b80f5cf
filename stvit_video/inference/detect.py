"""Detect objects in one image file, and draw them."""

from pathlib import Path

import numpy as np
import torch
from fvcore.common.config import CfgNode
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from stvit_video.data.coco.annotations import read_annotations
from stvit_video.data.coco.build import annotation_file, build_eval_transform
from stvit_video.data.coco.dataset import collate_images
from stvit_video.data.decode import VideoError
from stvit_video.data.decode.reader import read_image
from stvit_video.engine.build import is_detection
from stvit_video.engine.detection import paste_masks, to_original
from stvit_video.engine.precision import build_normalize, build_precision
from stvit_video.engine.resume import checkpoint_to_test, load_test_weights
from stvit_video.engine.step import normalized_images
from stvit_video.errors import UserError
from stvit_video.models import build_model
from stvit_video.runtime.launch import resolve_device

_MASK_OPACITY = 0.45
# Golden ratio: consecutive labels get very different colors.
_HUE_STEP = 0.618


def draw_detections(
    cfg: CfgNode, image_file: str | Path, *, output: Path, min_score: float
) -> list[str]:
    """Detect objects in an image, and draw their boxes, masks, names and scores.

    Args:
        cfg: config of a detector. The weights are those of TEST.CHECKPOINT_FILE_PATH, or of the
            newest checkpoint in OUTPUT_DIR.
        image_file: an image that Pillow can read; its EXIF orientation is applied.
        output: the drawn image, a PNG file.
        min_score: lowest score of an object to draw.

    Returns:
        a line for each object, best first.

    Raises:
        UserError: the model is not a detector, or its weights or the image cannot be read.
    """
    if not is_detection(cfg):
        raise UserError(
            "Detection needs a detector, but MODEL.ARCH is "
            f'"{cfg.MODEL.ARCH}": use a config of configs/coco/.'
        )
    image = _read(image_file)
    device = torch.device(resolve_device(cfg.DEVICE, 1))
    model = build_model(cfg).to(device).eval()
    load_test_weights(cfg, model, checkpoint_to_test(cfg))
    batch = collate_images([{"image": build_eval_transform(cfg)(tv_tensors.Image(image))}])
    with torch.inference_mode(), build_precision(cfg, device).autocast():
        (detected,) = model(normalized_images(batch, build_normalize(cfg, device)), batch["size"])
    original = (image.shape[1], image.shape[2])
    found = to_original(detected, size=batch["size"][0], original_size=original)
    found = {name: value[found["scores"] >= min_score] for name, value in found.items()}
    class_names = _class_names(cfg)
    captions = [
        f"{class_names[label - 1]} {score:.2f}"
        for label, score in zip(found["labels"].tolist(), found["scores"].tolist(), strict=True)
    ]
    picture = draw_objects(image, found, captions=captions)
    output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(picture.permute(1, 2, 0))).save(output)
    return [
        f"{caption} at {', '.join(f'{side:.0f}' for side in box)}"
        for caption, box in zip(captions, found["boxes"].tolist(), strict=True)
    ]


def _read(image_file: str | Path) -> Tensor:
    try:
        return read_image(image_file, upright=True).permute(2, 0, 1)
    except VideoError as error:
        raise UserError(f"The image {image_file} cannot be read: {error.reason}.") from error


def _class_names(cfg: CfgNode) -> tuple[str, ...]:
    """Return the class names of the test annotations, or label numbers without such a file."""
    file = annotation_file(cfg, "test")
    if not file.is_file():
        return tuple(str(label) for label in range(1, cfg.MODEL.NUM_CLASSES + 1))
    return read_annotations(file, num_classes=cfg.MODEL.NUM_CLASSES).class_names


def draw_objects(image: Tensor, found: dict[str, Tensor], *, captions: list[str]) -> Tensor:
    """Draw detections on an image, uint8 ``[3, H, W]``, with one color per class."""
    if not captions:
        return image
    colors = [_color(label) for label in found["labels"].tolist()]
    masks = paste_masks(found["masks"], found["boxes"], size=(image.shape[1], image.shape[2]))
    drawn = draw_segmentation_masks(image, masks, alpha=_MASK_OPACITY, colors=colors)
    return draw_bounding_boxes(drawn, found["boxes"], labels=captions, colors=colors, width=2)


def _color(label: int) -> tuple[int, int, int]:
    hue = label * _HUE_STEP % 1.0
    red, green, blue = (
        int(255 * min(1.0, max(0.0, abs((hue * 6 + shift) % 6 - 3) - 1))) for shift in (0, 4, 2)
    )
    return red, green, blue
