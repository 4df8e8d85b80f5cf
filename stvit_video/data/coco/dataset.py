"""Data sets over the images of an annotation file.

Letters: H W size, m objects of an image.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from stvit_video.data.bad_video import BadVideo, BadVideoError
from stvit_video.data.coco.annotations import CocoAnnotations, ImageRecord
from stvit_video.data.coco.masks import decode_mask
from stvit_video.data.labeled_videos import LabeledVideos
from stvit_video.data.samplers import Draw, generator_for


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

    def bad_video(self, index: int, error: str, *, kills: bool = False) -> BadVideo:
        """Describe an image that cannot be read."""
        return self.videos.bad_video(index, error, kills=kills)

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
        seed: what a sample is depends on it and on the `Draw` alone.
    """

    _: KW_ONLY
    seed: int

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        """Make the sample of an image.

        Returns:
            ``image`` uint8 [3, H, W], and its ``target``: ``boxes`` float32 [m, 4], ``labels``
            int64 [m] from 1 on, ``masks`` uint8 [m, H, W].

        Raises:
            BadVideoError: the image cannot be read, or a mask is damaged.
        """
        image = self.read(draw.index)
        target = self._target(draw.index)
        # The generator that torchvision's transforms draw from, for them alone.
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(generator_for(draw, seed=self.seed).get_state())
            image, target = self.transform(image, target)
        # Of a mirrored or cut image these may be views of all of it.
        target = {name: _plain(value) for name, value in target.items()}
        return {"image": _plain(image), "target": target, **self.about(draw.index)}

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
