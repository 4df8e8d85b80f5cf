"""Check image folders with one subfolder per class: every folder and every image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pandas as pd

from stvit_video.data.bad_videos import BadVideo
from stvit_video.data.check.journal import VideoFacts
from stvit_video.data.check.videos import DatasetCheck, Problem, bad_videos
from stvit_video.data.imagenet import IMAGE_SUFFIXES, class_files, class_folders, label_images
from stvit_video.data.labeled_videos import LabeledVideos
from stvit_video.errors import UserError

# Ignored files that the problem of a split names.
_MAX_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class ImageFolderCheck(DatasetCheck):
    """A check of image folders with one subfolder per class.

    Attributes:
        folders: of each split, by its name.
    """

    folders: Mapping[str, Path]

    def run(self) -> tuple[list[Problem], str]:
        """Check everything, and write the lists and the statistics.

        An interrupted check resumes from its journal.

        Returns:
            All problems, and the report to print.

        Raises:
            UserError: the folder of a split cannot be read, or has no subfolders.
        """
        classes = {name: class_folders(folder) for name, folder in self.folders.items()}
        problems = self._compare_classes(classes)
        bad: list[BadVideo] = []
        columns = {}
        with self.open_journal("image") as journal:
            for split, folder in self.folders.items():
                images, folder_problems = _list_images(folder, classes[split])
                problems += folder_problems
                facts: list[VideoFacts] = []
                if any(images.values()):
                    paths = label_images(folder, images)
                    files = LabeledVideos(paths, prefix=folder, backend="image")
                    facts = self.check_split(split, files, journal)
                    bad += bad_videos(files, facts)
                columns[split] = _statistics(images, facts)
        return self.write_results(problems, bad, pd.DataFrame(columns))

    def _compare_classes(self, classes: Mapping[str, Sequence[str]]) -> list[Problem]:
        problems = [
            Problem(
                "class",
                f"{self.folders[split]} has {len(names)} class folders, but MODEL.NUM_CLASSES is "
                f"{self.num_classes}",
            )
            for split, names in classes.items()
            if len(names) != self.num_classes
        ]
        common = set.intersection(*(set(names) for names in classes.values()))
        return problems + [
            Problem("class", f"{self.folders[split] / name} is missing in another split")
            for split, names in classes.items()
            for name in names
            if name not in common
        ]


def _list_images(folder: Path, names: Sequence[str]) -> tuple[dict[str, list[str]], list[Problem]]:
    """List the images of each class, and report empty folders and ignored files."""
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
            text = f"{folder / name} has no images ({', '.join(IMAGE_SUFFIXES)})"
            problems.append(Problem("class", text))
    if ignored:
        problems.append(Problem("ignored", _describe_ignored(folder, ignored)))
    return images, problems


def _describe_ignored(folder: Path, names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return (
        f"{folder} has {len(names)} files or folders in its class folders that are ignored because "
        f"their names do not end in an image suffix ({', '.join(IMAGE_SUFFIXES)}): "
        f"{', '.join(names[:_MAX_NAMED])}{more}; convert or remove them"
    )


def _statistics(images: Mapping[str, Sequence[str]], facts: Sequence[VideoFacts]) -> dict[str, int]:
    counts = [len(names) for names in images.values()]
    short_sides = [min(image.height, image.width) for image in facts if not image.error]
    return {
        "classes": len(images),
        "images": len(facts),
        "unreadable": len(facts) - len(short_sides),
        "fewest of a class": min(counts),
        "most of a class": max(counts),
        "smallest short side": min(short_sides, default=0),
        "median short side": int(median(short_sides)) if short_sides else 0,
    }
