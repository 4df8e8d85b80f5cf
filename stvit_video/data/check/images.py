"""A check of folders of images by class: every folder, and every image."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pandas as pd

from stvit_video.data.bad_videos import BadVideo, write_bad_videos
from stvit_video.data.check.csv_files import Problem, write_problems
from stvit_video.data.check.journal import Journal, VideoFacts
from stvit_video.data.check.videos import check_videos
from stvit_video.data.imagenet import IMAGE_SUFFIXES, class_files, class_folders, label_images
from stvit_video.data.labeled_videos import LabeledVideos
from stvit_video.errors import UserError

# Files without an image's suffix that the report of a split names.
_NAMED = 3


@dataclass(frozen=True)
class ImageFolderCheck:
    """How folders of images by class are checked.

    Attributes:
        folders: of each split, by its name; holds a folder of images for every class.
        num_classes: folders that each must hold.
        num_workers: processes that read images, at least 1.
        seconds_per_image: limit of the time for one image; 0: none.
        output: folder of what is written.
    """

    folders: Mapping[str, Path]
    num_classes: int
    num_workers: int
    seconds_per_image: float
    output: Path

    def run(self) -> tuple[list[Problem], str]:
        """Check everything, and write the lists and the table.

        Stopped and started again, it goes on where it was.

        Returns:
            all problems, and a report to be shown.

        Raises:
            UserError: the folder of a split cannot be read, or holds no folders.
        """
        classes = {name: class_folders(folder) for name, folder in self.folders.items()}
        problems = self._compare_classes(classes)
        bad: list[BadVideo] = []
        table = {}
        with closing(Journal(self.output / "journal.jsonl", way="image")) as journal:
            for split, folder in self.folders.items():
                images, found = self._list(folder, classes[split])
                problems += found
                facts: list[VideoFacts] = []
                if any(images.values()):
                    facts, bad_here = self._read(split, images, journal)
                    bad += bad_here
                table[split] = _column(images, facts)
        problems += [Problem("image", str(image)) for image in bad]
        write_bad_videos(self.output / "quarantine.csv", bad)
        statistics = pd.DataFrame(table)
        statistics.to_csv(self.output / "statistics.csv")
        return problems, f"{statistics.to_string()}\n\n{write_problems(self.output, problems)}"

    def _compare_classes(self, classes: Mapping[str, Sequence[str]]) -> list[Problem]:
        problems = [
            Problem(
                "class",
                f"{self.folders[split]} holds {len(names)} folders, one for each class, but "
                f"MODEL.NUM_CLASSES is {self.num_classes}",
            )
            for split, names in classes.items()
            if len(names) != self.num_classes
        ]
        everywhere = set.intersection(*(set(names) for names in classes.values()))
        return problems + [
            Problem("class", f"{self.folders[split] / name} has no fellow in every other split")
            for split, names in classes.items()
            for name in names
            if name not in everywhere
        ]

    def _list(
        self, folder: Path, names: Sequence[str]
    ) -> tuple[dict[str, list[str]], list[Problem]]:
        """List the images of each class, the folders that give none, and what is no image."""
        images: dict[str, list[str]] = {}
        problems = []
        ignored: list[str] = []
        for name in names:
            try:
                images[name], others = class_files(folder / name)
            except UserError as error:
                images[name] = []
                problems.append(Problem("class", str(error)))
                continue
            ignored += [f"{name}/{other}" for other in others]
            if not images[name]:
                what = f"{folder / name} holds no images ({', '.join(IMAGE_SUFFIXES)})"
                problems.append(Problem("class", what))
        if ignored:
            problems.append(Problem("ignored", _say_ignored(folder, ignored)))
        return images, problems

    def _read(
        self, split: str, images: Mapping[str, Sequence[str]], journal: Journal
    ) -> tuple[list[VideoFacts], list[BadVideo]]:
        folder = self.folders[split]
        files = LabeledVideos(label_images(folder, images), prefix=folder, backend="image")
        facts = check_videos(
            files,
            journal=journal,
            every_frame=True,
            num_workers=self.num_workers,
            seconds_per_video=self.seconds_per_image,
            title=split,
        )
        bad = [
            files.bad_video(index, fact.error, crashes_worker=fact.crashes_worker)
            for index, fact in enumerate(facts)
            if fact.error
        ]
        return facts, bad


def _say_ignored(folder: Path, names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (
        f"{folder} holds {len(names)} files or folders in class folders that are ignored, as no "
        f"suffix of an image ({', '.join(IMAGE_SUFFIXES)}) ends their names: "
        f"{', '.join(names[:_NAMED])}{more}; convert them, or take them away"
    )


def _column(images: Mapping[str, Sequence[str]], facts: Sequence[VideoFacts]) -> dict[str, int]:
    counts = [len(names) for names in images.values()]
    sides = [min(fact.height, fact.width) for fact in facts if not fact.error]
    return {
        "classes": len(images),
        "images": len(facts),
        "unreadable": len(facts) - len(sides),
        "fewest of a class": min(counts),
        "most of a class": max(counts),
        "smallest short side": min(sides, default=0),
        "median short side": int(median(sides)) if sides else 0,
    }
