"""Data sets of images with boxes and masks: transforms, samples and batches."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import crop, get_size

from stvit_video.data.bad_videos import BadVideo, BadVideoError
from stvit_video.data.coco.annotations import CocoAnnotations, ImageRecord, Segmentation
from stvit_video.data.labeled_videos import LabeledVideos
from stvit_video.data.samplers import SampleKey, generator_for
from stvit_video.errors import UserError

# Stride of a backbone's last feature map. Padding to its multiples gives every feature map whole
# pixels.
_STRIDE = 32


def require_pycocotools() -> None:
    """Check that pycocotools is installed.

    Raises:
        UserError: it is not.
    """
    if find_spec("pycocotools") is None:
        raise UserError(
            'the data set "coco" needs pycocotools: pip install pycocotools, or install '
            "stvit_video[coco]"
        )


def decode_mask(segmentation: Segmentation, *, height: int, width: int) -> Tensor:
    """Decode polygons or a run-length encoding to a uint8 mask ``[height, width]`` of 0 and 1.

    Raises:
        ValueError: the encoding is damaged.
    """
    from pycocotools import mask

    encoded = segmentation
    if isinstance(segmentation, list):
        encoded = mask.merge(mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        encoded = mask.frPyObjects(segmentation, height, width)
    return torch.from_numpy(mask.decode(encoded))


def encode_mask(pixels: Tensor) -> dict[str, Any]:
    """Encode a mask ``[height, width]`` with run lengths, as in COCO's result format."""
    from pycocotools import mask

    encoded = mask.encode(np.asfortranarray(pixels.cpu().numpy().astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}


@dataclass(frozen=True, eq=False)
class CocoImages(Dataset[dict[str, Any]]):
    """Base class of the training and evaluation data sets.

    Attributes:
        annotations: of the images.
        videos: the image files, each a video of one frame.
        transform: of images, boxes and masks.
    """

    annotations: CocoAnnotations
    _: KW_ONLY
    videos: LabeledVideos
    transform: v2.Transform

    def __len__(self) -> int:
        return len(self.videos)

    def bad_video(self, index: int, error: str, *, crashes_worker: bool = False) -> BadVideo:
        """Describe an image that cannot be read."""
        return self.videos.bad_video(index, error, crashes_worker=crashes_worker)

    def read(self, index: int) -> tv_tensors.Image:
        """Read an image, uint8 [3, H, W], with the pixels as stored.

        COCO's annotations refer to the stored pixels, so the EXIF orientation is ignored. Other
        labeling tools annotate the upright picture: if the orientation swaps its height and width,
        reading it fails because of its size.

        Raises:
            BadVideoError: the image cannot be read, or its size differs from the annotations.
        """
        record = self.annotations.images[index]
        with self.videos.open(index) as reader:
            pixels = reader.get_frames([0])[0].permute(2, 0, 1)
        if error := size_error(record, pixels.shape[1:]):
            raise BadVideoError(self.bad_video(index, error))
        return tv_tensors.Image(pixels)

    def metadata(self, index: int) -> dict[str, Any]:
        """Return the metadata of a sample."""
        record = self.annotations.images[index]
        path, _ = self.annotations.paths[index]
        return {
            "video_index": index,
            "video_name": path,
            "image_id": record.id,
            "original_size": (record.height, record.width),
        }


@dataclass(frozen=True, eq=False)
class TrainingImages(CocoImages):
    """Images with their objects, randomly transformed.

    Attributes:
        seed: a sample depends only on it and on its `SampleKey`.
    """

    _: KW_ONLY
    seed: int

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        """Make the sample of an image.

        Returns:
            ``image`` uint8 [3, H, W], and its ``target``: ``boxes`` float32 [m, 4], ``labels``
            int64 [m] from 1 on, ``masks`` uint8 [m, H, W].

        Raises:
            BadVideoError: the image cannot be read, or a mask is damaged.
        """
        image = self.read(key.index)
        target = self._target(key.index)
        # torchvision's transforms draw from the global generator, so it is seeded for them alone.
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(generator_for(key, seed=self.seed).get_state())
            image, target = self.transform(image, target)
        target = {name: _compact(value) for name, value in target.items()}
        return {"image": _compact(image), "target": target, **self.metadata(key.index)}

    def _target(self, index: int) -> dict[str, Tensor]:
        record = self.annotations.images[index]
        size = (record.height, record.width)
        boxes = torch.tensor([each.box for each in record.objects], dtype=torch.float32)
        masks = torch.zeros(len(record.objects), *size, dtype=torch.uint8)
        for mask, each in zip(masks, record.objects, strict=True):
            try:
                mask.copy_(decode_mask(each.segmentation, height=size[0], width=size[1]))
            except (ValueError, TypeError, RuntimeError) as error:
                reason = f"a mask of its annotations is damaged ({error})"
                raise BadVideoError(self.bad_video(index, reason)) from error
        return {
            "boxes": tv_tensors.BoundingBoxes(
                boxes.reshape(-1, 4),
                format=tv_tensors.BoundingBoxFormat.XYXY,
                canvas_size=size,
            ),
            "labels": torch.tensor([each.label for each in record.objects], dtype=torch.int64),
            "masks": tv_tensors.Mask(masks),
        }


@dataclass(frozen=True, eq=False)
class EvaluationImages(CocoImages):
    """Images at one scale, without objects, which the evaluation reads from the file itself."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Make the sample of an image: ``image`` uint8 [3, H, W].

        Raises:
            BadVideoError: the image cannot be read.
        """
        image = self.transform(self.read(index))
        return {"image": _compact(image), **self.metadata(index)}


def _compact(value: Tensor) -> Tensor:
    """Return a plain tensor that is no view of a larger, uncropped one."""
    return value.as_subclass(Tensor).contiguous()


def image_files(annotations: CocoAnnotations, folder: str | Path) -> LabeledVideos:
    """Return the image files of annotations, each as a video of one frame.

    Raises:
        UserError: none of the first files exists.
    """
    return LabeledVideos(annotations.paths, prefix=folder, backend="image")


def size_error(record: ImageRecord, size: Sequence[int]) -> str:
    """Describe how an image's (height, width) differs from its annotations, or return ""."""
    annotated = (record.height, record.width)
    if tuple(size) == annotated:
        return ""
    hint = ""
    if tuple(size)[::-1] == annotated:
        hint = "; if they were made with its EXIF orientation applied, store the image that way"
    found, expected = (f"{width} x {height}" for height, width in (size, annotated))
    return f"it is {found} pixels, but its annotations are for {expected}{hint}"


def train_transform(
    *,
    short_sides: Sequence[int],
    max_size: int,
    crop_short_sides: Sequence[int] = (),
    crop_range: Sequence[int] = (),
    flip: bool = True,
) -> v2.Transform:
    """Build the augmentation of Swin's detectors: multi-scale resizing, with or without a crop.

    Args:
        short_sides: the short side of an image is drawn from these.
        max_size: limit of the long side.
        crop_short_sides: half of the images are first resized to a short side drawn from these,
            cropped, and resized again; empty: no crop.
        crop_range: shortest and longest side of the crop.
        flip: flip half of the images horizontally.
    """
    resize: v2.Transform = v2.RandomShortestSize(list(short_sides), max_size)
    if crop_short_sides:
        shortest, longest = crop_range
        resize_to_crop = v2.RandomShortestSize(list(crop_short_sides), max_size)
        cropped = v2.Compose([resize_to_crop, RandomRectangleCrop((shortest, longest)), resize])
        resize = v2.RandomChoice([resize, cropped])
    # Remove objects of which the crop or rounding leaves less than a pixel.
    steps = [resize, v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=1.0)]
    return v2.Compose([v2.RandomHorizontalFlip(), *steps] if flip else steps)


def eval_transform(*, short_side: int, max_size: int) -> v2.Transform:
    """Build the transform of validation and test, which resizes to one scale."""
    return v2.RandomShortestSize(short_side, max_size)


class RandomRectangleCrop(v2.Transform):
    """Crops a rectangle at a random position, with each side drawn from a range.

    Args:
        sides: the shortest and the longest side in pixels, limited by the image's size.
    """

    def __init__(self, sides: tuple[int, int]) -> None:
        super().__init__()
        self.sides = sides

    def make_params(self, flat_inputs: list[Any]) -> dict[str, int]:
        """SampleKey the rectangle."""
        size = get_size(flat_inputs[0])
        low, high = self.sides
        drawn = torch.randint(low, high + 1, (2,)).tolist()
        height, width = (min(side, limit) for side, limit in zip(drawn, size, strict=True))
        top, left = (
            int(torch.randint(limit - side + 1, ()))
            for side, limit in zip((height, width), size, strict=True)
        )
        return {"top": top, "left": left, "height": height, "width": width}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Crop an image, boxes or masks."""
        return self._call_kernel(crop, inpt, **params)


def collate_images(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Collate images by zero padding at the bottom and right; other entries become lists.

    Returns:
        ``image``, uint8 [B, 3, H, W] with sides that are multiples of 32, ``size`` (height and
        width of each image without padding), and a list for each other entry of the samples.
    """
    batch: dict[str, Any] = {name: [sample[name] for sample in samples] for name in samples[0]}
    images = batch["image"]
    batch["size"] = [tuple(image.shape[1:]) for image in images]
    max_height, max_width = (max(sides) for sides in zip(*batch["size"], strict=True))
    height, width = padded_size((max_height, max_width))
    batch["image"] = torch.zeros(len(images), 3, height, width, dtype=torch.uint8)
    for padded, image in zip(batch["image"], images, strict=True):
        padded[:, : image.shape[1], : image.shape[2]] = image
    return batch


def padded_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) of a batch whose largest sides are ``size``."""
    height, width = (-(-side // _STRIDE) * _STRIDE for side in size)
    return height, width
