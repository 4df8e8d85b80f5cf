"""Check a data set in COCO's layout: every annotation, image and mask."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from stvit_video.data.bad_videos import BadVideo
from stvit_video.data.check.journal import VideoFacts
from stvit_video.data.check.videos import DatasetCheck, Problem
from stvit_video.data.coco.annotations import (
    BadAnnotation,
    CocoAnnotations,
    read_annotations,
    write_bad_annotations,
)
from stvit_video.data.coco.dataset import decode_mask, image_files, require_pycocotools, size_error
from stvit_video.data.labeled_videos import LabeledVideos
from stvit_video.errors import UserError


@dataclass(frozen=True, kw_only=True)
class CocoCheck(DatasetCheck):
    """A check of a data set in COCO's layout.

    Attributes:
        splits: (annotation file, image folder) by the name of the split.
    """

    splits: Mapping[str, tuple[Path, Path]]

    def run(self) -> tuple[list[Problem], str]:
        """Check everything, and write the lists and the statistics.

        A malformed annotation file is one of the problems, and the other splits are still checked.
        An interrupted check resumes from its journal.

        Returns:
            All problems, and the report to print.

        Raises:
            UserError: pycocotools is not installed.
        """
        require_pycocotools()
        self.output.mkdir(parents=True, exist_ok=True)
        problems: list[Problem] = []
        bad_images: list[BadVideo] = []
        bad_annotations: list[BadAnnotation] = []
        columns = {}
        with self.open_journal("image") as journal:
            for split, (file, folder) in self.splits.items():
                try:
                    annotations = read_annotations(file, num_classes=self.num_classes)
                    images = image_files(annotations, folder)
                except UserError as error:
                    problems.append(Problem("file", str(error)))
                    continue
                facts = self.check_split(split, images, journal)
                bad_masks = _bad_masks(annotations)
                bad_annotations += [*annotations.bad, *bad_masks]
                bad_images += _bad_images(annotations, images, facts)
                problems += _duplicates(annotations) + _empty_classes(annotations)
                columns[split] = _statistics(annotations, facts, bad_masks)
        problems += [
            Problem("annotation", f"{bad.file}, id {bad.id}, {bad.image}: {bad.error}")
            for bad in bad_annotations
        ]
        write_bad_annotations(self.output / "annotations_left_out.csv", bad_annotations)
        return self.write_results(problems, bad_images, pd.DataFrame(columns))


def _bad_images(
    annotations: CocoAnnotations, images: LabeledVideos, facts: Sequence[VideoFacts]
) -> list[BadVideo]:
    """Find images that cannot be read, or whose size differs from the annotations."""
    bad = []
    for index, (record, image) in enumerate(zip(annotations.images, facts, strict=True)):
        error = image.error or size_error(record, (image.height, image.width))
        if error:
            bad.append(images.bad_video(index, error, crashes_worker=image.crashes_worker))
    return bad


def _bad_masks(annotations: CocoAnnotations) -> list[BadAnnotation]:
    """Find masks that cannot be decoded, or that have no pixels."""
    bad = []
    for index, image in enumerate(annotations.images):
        for number, each in enumerate(image.objects, start=1):
            error = ""
            try:
                mask = decode_mask(each.segmentation, height=image.height, width=image.width)
                error = "" if mask.any() else "its mask has no pixels"
            except (ValueError, TypeError, RuntimeError) as damage:
                error = f"its mask is damaged ({damage})"
            if error:
                name, _ = annotations.paths[index]
                reason = f"object {number} of the image: {error}"
                bad.append(BadAnnotation(str(annotations.paths.csv_path), image.id, name, reason))
    return bad


def _duplicates(annotations: CocoAnnotations) -> list[Problem]:
    first: dict[str, int] = {}
    problems = []
    for index, (name, _) in enumerate(annotations.paths):
        earlier = first.setdefault(name, index)
        if earlier != index:
            place, other = (annotations.paths.location(each) for each in (index, earlier))
            problems.append(Problem("duplicate", f"{place}: {name} is already in {other}"))
    return problems


def _empty_classes(annotations: CocoAnnotations) -> list[Problem]:
    labels = {each.label for image in annotations.images for each in image.objects}
    empty = [name for label, name in enumerate(annotations.class_names, 1) if label not in labels]
    if not empty:
        return []
    return [Problem("class", f"{annotations.paths.csv_path} has no objects of {', '.join(empty)}")]


def _statistics(
    annotations: CocoAnnotations, facts: Sequence[VideoFacts], bad_masks: Sequence[BadAnnotation]
) -> dict[str, int]:
    counts = [len(image.objects) for image in annotations.images]
    return {
        "images": len(facts),
        "unreadable": sum(bool(image.error) for image in facts),
        "without objects": counts.count(0),
        "objects": sum(counts),
        "annotations of no object": len(annotations.bad) + len(bad_masks),
    }
