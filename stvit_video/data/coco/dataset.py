"""Data sets over the images of an annotation file: masks, transforms and batches."""

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


def require_pycocotools() -> None:
    """Check that pycocotools is there.

    Raises:
        UserError: it is not.
    """
    if find_spec("pycocotools") is None:
        raise UserError(
            'the data set "coco" needs pycocotools: pip install pycocotools, or install '
            "stvit_video[coco]"
        )


def decode_mask(segmentation: Segmentation, *, height: int, width: int) -> Tensor:
    """Draw polygons or a run-length encoding as a uint8 mask ``[height, width]`` of 0 and 1.

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
    """Give the run-length encoding of a mask ``[height, width]``, as COCO's results have it."""
    from pycocotools import mask

    encoded = mask.encode(np.asfortranarray(pixels.cpu().numpy().astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}


class RandomRectangleCrop(v2.Transform):
    """A rectangle at a random place, each side drawn from a range, at most that of the image.

    Args:
        sides: the shortest and the longest side, in pixels.
    """

    def __init__(self, sides: tuple[int, int]) -> None:
        super().__init__()
        self.sides = sides

    def make_params(self, flat_inputs: list[Any]) -> dict[str, int]:
        """Draw the rectangle."""
        whole = get_size(flat_inputs[0])
        low, high = self.sides
        drawn = torch.randint(low, high + 1, (2,)).tolist()
        height, width = (min(side, limit) for side, limit in zip(drawn, whole, strict=True))
        top, left = (
            int(torch.randint(limit - side + 1, ()))
            for side, limit in zip((height, width), whole, strict=True)
        )
        return {"top": top, "left": left, "height": height, "width": width}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Cut it out of an image, boxes or masks."""
        return self._call_kernel(crop, inpt, **params)


def train_transform(
    *,
    short_sides: Sequence[int],
    max_size: int,
    crop_short_sides: Sequence[int] = (),
    crop_range: Sequence[int] = (),
    flip: bool = True,
) -> v2.Transform:
    """Build the augmentation of Swin's detectors: many scales, or a crop and then many scales.

    Args:
        short_sides: of which one is drawn for an image.
        max_size: limit of the long side.
        crop_short_sides: short sides of which one is drawn before the crop, which half of the
            images get; empty: no crop.
        crop_range: shortest and longest side of the crop.
        flip: mirror half of the images.
    """
    scale: v2.Transform = v2.RandomShortestSize(list(short_sides), max_size)
    if crop_short_sides:
        shortest, longest = crop_range
        first = v2.RandomShortestSize(list(crop_short_sides), max_size)
        cropped = v2.Compose([first, RandomRectangleCrop((shortest, longest)), scale])
        scale = v2.RandomChoice([scale, cropped])
    # What the crop, or rounding, has left less than a pixel of is no object any more.
    steps = [scale, v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=1.0)]
    return v2.Compose([v2.RandomHorizontalFlip(), *steps] if flip else steps)


def eval_transform(*, short_side: int, max_size: int) -> v2.Transform:
    """Build what validation and test do: one scale."""
    return v2.RandomShortestSize(short_side, max_size)


# Of a backbone's last map, so that every map has whole pixels.
_MULTIPLE = 32


def collate_images(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Pad images at the bottom and on the right with zeros; all else becomes lists.

    Returns:
        ``image``, uint8 [B, 3, H, W] with sides that are multiples of 32, ``size`` (rows and
        columns of each without padding), and a list for each other entry of the samples.
    """
    batch: dict[str, Any] = {name: [sample[name] for sample in samples] for name in samples[0]}
    images = batch["image"]
    batch["size"] = [tuple(image.shape[1:]) for image in images]
    tallest, widest = (max(side) for side in zip(*batch["size"], strict=True))
    height, width = padded_size((tallest, widest))
    batch["image"] = torch.zeros(len(images), 3, height, width, dtype=torch.uint8)
    for padded, image in zip(batch["image"], images, strict=True):
        padded[:, : image.shape[1], : image.shape[2]] = image
    return batch


def padded_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return the sides of a batch whose images have sides up to ``size``."""
    rows, columns = (-(-side // _MULTIPLE) * _MULTIPLE for side in size)
    return rows, columns


@dataclass(frozen=True, eq=False)
class CocoImages(Dataset[dict[str, Any]]):
    """What the data sets have in common.

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
        """Read an image, uint8 [3, H, W], as its pixels are stored.

        COCO's annotations are of the stored pixels, so an EXIF orientation does not turn them.
        Other labelling programs annotate the upright picture: an image of which the orientation
        exchanges rows and columns is then refused, because it is of another size.

        Raises:
            BadVideoError: it cannot be read, or is not of the size that the annotations are for.
        """
        record = self.annotations.images[index]
        with self.videos.open(index) as reader:
            pixels = reader.get_frames([0])[0].permute(2, 0, 1)
        if error := size_error(record, pixels.shape[1:]):
            self.refuse(index, error)
        return tv_tensors.Image(pixels)

    def refuse(self, index: int, error: str) -> None:
        """Raise the error about an image that cannot be used."""
        raise BadVideoError(self.bad_video(index, error))

    def about(self, index: int) -> dict[str, Any]:
        """What a sample says besides its pixels and objects."""
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
        seed: what a sample is depends on it and on the `SampleKey` alone.
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
        # The generator that torchvision's transforms draw from, for them alone.
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(generator_for(key, seed=self.seed).get_state())
            image, target = self.transform(image, target)
        # Of a mirrored or cut image these may be views of all of it.
        target = {name: _plain(value) for name, value in target.items()}
        return {"image": _plain(image), "target": target, **self.about(key.index)}

    def _target(self, index: int) -> dict[str, Tensor]:
        record = self.annotations.images[index]
        size = (record.height, record.width)
        boxes = torch.tensor([each.box for each in record.objects], dtype=torch.float32)
        masks = torch.zeros(len(record.objects), *size, dtype=torch.uint8)
        for mask, each in zip(masks, record.objects, strict=True):
            try:
                mask.copy_(decode_mask(each.segmentation, height=size[0], width=size[1]))
            except (ValueError, TypeError, RuntimeError) as error:
                self.refuse(index, f"a mask of its annotations is damaged ({error})")
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
    """Images alone, at one scale; what is in them, the evaluation reads from the file itself."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Make the sample of an image: ``image`` uint8 [3, H, W].

        Raises:
            BadVideoError: the image cannot be read.
        """
        image = self.transform(self.read(index))
        return {"image": _plain(image), **self.about(index)}


def image_files(annotations: CocoAnnotations, folder: str | Path) -> LabeledVideos:
    """The files of the images in a folder.

    Raises:
        UserError: none of the first ones exists.
    """
    return LabeledVideos(annotations.paths, prefix=folder, backend="image")


def size_error(record: ImageRecord, size: Sequence[int]) -> str:
    """Say what is wrong where an image of ``size``, (rows, columns), is not what is annotated."""
    annotated = (record.height, record.width)
    if tuple(size) == annotated:
        return ""
    hint = ""
    if tuple(size)[::-1] == annotated:
        hint = "; were they made of the picture as its EXIF orientation turns it, store it so"
    found, expected = (f"{width} x {height}" for height, width in (size, annotated))
    return f"it is {found} pixels, its annotations {expected}{hint}"


def _plain(value: Tensor) -> Tensor:
    return value.as_subclass(Tensor).contiguous()
