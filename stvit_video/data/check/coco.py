"""A check of a data set in COCO's layout: every annotation, every image, and every mask."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from stvit_video.data.bad_videos import BadVideo, write_bad_videos
from stvit_video.data.check.csv_files import Problem, write_problems
from stvit_video.data.check.journal import Journal, VideoFacts
from stvit_video.data.check.videos import check_videos
from stvit_video.data.coco.annotations import (
    BadAnnotation,
    CocoAnnotations,
    read_annotations,
    write_left_out,
)
from stvit_video.data.coco.dataset import decode_mask, image_files, require_pycocotools, size_error
from stvit_video.data.labeled_videos import LabeledVideos
from stvit_video.errors import UserError


@dataclass(frozen=True)
class CocoCheck:
    """How a data set in COCO's layout is checked.

    Attributes:
        splits: (annotation file, folder of images) by the name of the split.
        num_classes: categories that each file must have.
        num_workers: processes that read images, at least 1.
        seconds_per_image: limit of the time for one image; 0: none.
        output: folder of what is written.
    """

    splits: Mapping[str, tuple[Path, Path]]
    num_classes: int
    num_workers: int
    seconds_per_image: float
    output: Path

    def run(self) -> tuple[list[Problem], str]:
        """Check everything, and write the lists and the table.

        A file that is no annotation file is a problem like others; the other splits are checked
        all the same. Stopped and started again, the check goes on where it was.

        Returns:
            all problems, and a report to be shown.

        Raises:
            UserError: pycocotools is not there.
        """
        require_pycocotools()
        self.output.mkdir(parents=True, exist_ok=True)
        problems: list[Problem] = []
        unreadable: list[BadVideo] = []
        left_out: list[BadAnnotation] = []
        table = {}
        with closing(Journal(self.output / "journal.jsonl", way="image")) as journal:
            for name, (file, folder) in self.splits.items():
                try:
                    annotations = read_annotations(file, num_classes=self.num_classes)
                    images = image_files(annotations, folder)
                except UserError as error:
                    problems.append(Problem("file", str(error)))
                    continue
                facts = self._read(name, images, journal)
                bad_masks = _bad_masks(annotations)
                left_out += [*annotations.bad, *bad_masks]
                unreadable += _unreadable(annotations, images, facts)
                problems += _repeats(annotations) + _absent_classes(annotations)
                table[name] = _column(annotations, facts, bad_masks)
        problems += [Problem("annotation", _describe(bad)) for bad in left_out]
        problems += [Problem("image", str(bad)) for bad in unreadable]
        write_left_out(self.output / "annotations_left_out.csv", left_out)
        write_bad_videos(self.output / "quarantine.csv", unreadable)
        counts = pd.DataFrame(table)
        counts.to_csv(self.output / "statistics.csv")
        shown = f"{counts.to_string()}\n\n" if table else ""
        return problems, shown + write_problems(self.output, problems)

    def _read(self, name: str, images: LabeledVideos, journal: Journal) -> list[VideoFacts]:
        return check_videos(
            images,
            journal=journal,
            every_frame=True,
            num_workers=self.num_workers,
            seconds_per_video=self.seconds_per_image,
            title=name,
        )


def _unreadable(
    annotations: CocoAnnotations, images: LabeledVideos, facts: Sequence[VideoFacts]
) -> list[BadVideo]:
    bad = []
    for index, (record, found) in enumerate(zip(annotations.images, facts, strict=True)):
        error = found.error or size_error(record, (found.height, found.width))
        if error:
            bad.append(images.bad_video(index, error, crashes_worker=found.crashes_worker))
    return bad


def _bad_masks(annotations: CocoAnnotations) -> list[BadAnnotation]:
    """Find masks that cannot be drawn, or that have no pixel."""
    bad = []
    for index, image in enumerate(annotations.images):
        for place, each in enumerate(image.objects, start=1):
            error = ""
            try:
                mask = decode_mask(each.segmentation, height=image.height, width=image.width)
                error = "" if mask.any() else "its mask has no pixel"
            except (ValueError, TypeError, RuntimeError) as damage:
                error = f"its mask is damaged ({damage})"
            if error:
                name, _ = annotations.paths[index]
                what = f"object {place} of the image: {error}"
                bad.append(BadAnnotation(str(annotations.paths.csv_path), image.id, name, what))
    return bad


def _repeats(annotations: CocoAnnotations) -> list[Problem]:
    first: dict[str, int] = {}
    problems = []
    for index, (name, _) in enumerate(annotations.paths):
        earlier = first.setdefault(name, index)
        if earlier != index:
            place, other = (annotations.paths.location(each) for each in (index, earlier))
            problems.append(Problem("duplicate", f"{place}: {other} has {name} already"))
    return problems


def _absent_classes(annotations: CocoAnnotations) -> list[Problem]:
    present = {each.label for image in annotations.images for each in image.objects}
    absent = [name for label, name in enumerate(annotations.class_names, 1) if label not in present]
    if not absent:
        return []
    return [Problem("class", f"{annotations.paths.csv_path} has no objects of {', '.join(absent)}")]


def _column(
    annotations: CocoAnnotations, facts: Sequence[VideoFacts], bad_masks: Sequence[BadAnnotation]
) -> dict[str, int]:
    counts = [len(image.objects) for image in annotations.images]
    return {
        "images": len(facts),
        "unreadable": sum(bool(found.error) for found in facts),
        "without objects": counts.count(0),
        "objects": sum(counts),
        "annotations of no object": len(annotations.bad) + len(bad_masks),
    }


def _describe(bad: BadAnnotation) -> str:
    return f"{bad.file}, id {bad.id}, {bad.image}: {bad.error}"
