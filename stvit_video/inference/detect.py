"""Detection in one image file, and a picture of it."""

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
# Golden section: classes that follow one another get colors far apart.
_HUE_STEP = 0.618


def draw_detections(
    cfg: CfgNode, image_file: str | Path, *, output: Path, min_score: float
) -> list[str]:
    """Detect in an image, and write a picture of it with boxes, masks, names and scores.

    Args:
        cfg: of a detector; TEST.CHECKPOINT_FILE_PATH, or the last checkpoint in its OUTPUT_DIR,
            gives the weights.
        image_file: what Pillow reads; a photo is turned upright as its EXIF orientation says.
        output: the picture, a PNG file.
        min_score: of what is drawn.

    Returns:
        a line about each object, the best first.

    Raises:
        UserError: the model is no detector, its weights or the image cannot be read.
    """
    if not is_detection(cfg):
        raise UserError(
            "Objects are found by a detector, but MODEL.ARCH is "
            f'"{cfg.MODEL.ARCH}": take one of configs/coco/.'
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
    names = [_class_names(cfg)[label - 1] for label in found["labels"].tolist()]
    captions = [
        f"{name} {score:.2f}" for name, score in zip(names, found["scores"].tolist(), strict=True)
    ]
    _write(draw(image, found, captions=captions), output)
    return [
        f"{caption} at {', '.join(f'{side:.0f}' for side in box)}"
        for caption, box in zip(captions, found["boxes"].tolist(), strict=True)
    ]


def draw(image: Tensor, found: dict[str, Tensor], *, captions: list[str]) -> Tensor:
    """Draw detections over an image, uint8 ``[3, H, W]``; the same class has the same color."""
    if not captions:
        return image
    colors = [_color(label) for label in found["labels"].tolist()]
    masks = paste_masks(found["masks"], found["boxes"], size=(image.shape[1], image.shape[2]))
    drawn = draw_segmentation_masks(image, masks, alpha=_MASK_OPACITY, colors=colors)
    return draw_bounding_boxes(drawn, found["boxes"], labels=captions, colors=colors, width=2)


def _read(image_file: str | Path) -> Tensor:
    try:
        return read_image(image_file, upright=True).permute(2, 0, 1)
    except VideoError as error:
        raise UserError(f"The image {image_file} cannot be read: {error.reason}.") from error


def _write(picture: Tensor, output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(picture.permute(1, 2, 0))).save(output)


def _class_names(cfg: CfgNode) -> tuple[str, ...]:
    """The names that the test's annotation file has; numbers where there is none."""
    file = annotation_file(cfg, "test")
    if not file.is_file():
        return tuple(str(label) for label in range(1, cfg.MODEL.NUM_CLASSES + 1))
    return read_annotations(file, num_classes=cfg.MODEL.NUM_CLASSES).class_names


def _color(label: int) -> tuple[int, int, int]:
    hue = label * _HUE_STEP % 1.0
    red, green, blue = (
        int(255 * min(1.0, max(0.0, abs((hue * 6 + shift) % 6 - 3) - 1))) for shift in (0, 4, 2)
    )
    return red, green, blue
