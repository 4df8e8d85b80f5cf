"""Videos or images without labels, as a user names them: files, folders and CSV files."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from stvit_video.data.build import build_fallback, build_sampling, build_test_crops
from stvit_video.data.imagenet import IMAGE_SUFFIXES
from stvit_video.data.kinetics import MultiViewVideos
from stvit_video.data.labeled_paths import Entry, LabeledPaths
from stvit_video.data.labeled_videos import LabeledVideos
from stvit_video.data.workers import FaultTolerantDataset, WorkerMonitor
from stvit_video.errors import UserError
from stvit_video.runtime.logging import get_logger

VIDEO_SUFFIXES = (".mp4", ".mkv", ".avi", ".webm", ".mov")

_log = get_logger(__name__)


@dataclass(frozen=True)
class Media:
    """Files that are all videos or all images.

    Attributes:
        files: in the order in which they were named, those of a folder sorted; some may be missing.
        are_images: whether they are images.
    """

    files: list[Path]
    are_images: bool


def find_media(
    places: Sequence[str | Path],
    *,
    separator: str = " ",
    prefix: str | Path = "",
    prefer_images: bool = False,
) -> Media:
    """List the videos or the images that files, folders and CSV files name.

    Of a folder they are all those in it and in its subfolders; of a CSV file its lines, each
    "path label" or a path alone.

    Args:
        places: files, folders, CSV files.
        separator: between path and label.
        prefix: folder in front of a CSV file's relative paths; empty: the CSV file's own.
        prefer_images: what a file is whose suffix tells neither.

    Raises:
        UserError: a place does not exist or holds nothing, or there are both videos and images.
    """
    lists = _Lists(separator, Path(prefix) if str(prefix) else None)
    files = [file for place in places for file in _files_at(Path(place), lists)]
    others = VIDEO_SUFFIXES if prefer_images else IMAGE_SUFFIXES
    kinds = [(file.suffix.lower() in others) != prefer_images for file in files]
    if any(kinds) and not all(kinds):
        image, video = files[kinds.index(True)], files[kinds.index(False)]
        raise UserError(
            f"{image} is an image, but {video} is none: give images or videos, not both."
        )
    return Media(files, are_images=all(kinds))


@dataclass(frozen=True)
class _Lists:
    """How CSV files are read."""

    separator: str
    prefix: Path | None

    def files(self, csv_path: Path) -> list[Path]:
        """Return the files of the lines."""
        try:
            text = csv_path.read_text(encoding="utf-8-sig", errors="surrogateescape")
        except OSError as error:
            raise UserError(f"{csv_path} cannot be read ({error.strerror}): mend it.") from error
        lines = [line.strip() for line in text.split("\n")]
        return [(self.prefix or csv_path.parent) / self._path(line) for line in lines if line]

    def _path(self, line: str) -> str:
        path, _, label = line.rpartition(self.separator)
        return path.strip() if path.strip() and label.strip().isdecimal() else line


def _files_at(place: Path, lists: _Lists) -> list[Path]:
    known = (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES)
    if place.is_dir():
        # Folders of classes are often links.
        walked = os.walk(place, followlinks=True)
        inside = [Path(root, name) for root, _, names in walked for name in names]
        found = sorted(file for file in inside if file.suffix.lower() in known)
    elif place.suffix.lower() == ".csv" and place.is_file():
        found = lists.files(place)
    elif place.is_file() or place.suffix.lower() in known:
        found = [place]
    else:
        raise UserError(f"There is no {place}: name files, folders, or CSV files that exist.")
    if not found:
        raise UserError(f"{place} holds no videos or images ({', '.join(known)}): name another.")
    return found


class MediaViews:
    """The test views of every file that can be read; the others are left out, with a warning.

    Args:
        cfg: of the model, which says what the views are.
        places: as `find_media` takes them.

    Attributes:
        left_out: the files that could not be read, as far as reading has come.

    Raises:
        UserError: as `find_media`, or there is none of the files, or they are images, and the
            clips of the config have more than one frame.
    """

    def __init__(self, cfg: CfgNode, places: Sequence[str | Path]) -> None:
        media = find_media(
            places,
            separator=cfg.DATA.PATH_LABEL_SEPARATOR,
            prefix=cfg.DATA.PATH_PREFIX,
            prefer_images=cfg.TEST.DATASET == "imagenet",
        )
        if media.are_images and cfg.DATA.NUM_FRAMES != 1:
            raise UserError(
                f"{media.files[0]} is an image, but a clip has DATA.NUM_FRAMES "
                f"{cfg.DATA.NUM_FRAMES}: take a config of images, or set it to 1."
            )
        self.left_out: list[Path] = []
        self._num_named = len(media.files)
        self._files: list[Path] = []
        for file in media.files:
            if file.is_file():
                self._files.append(file)
            else:
                self._leave_out(file, "No such file or directory")
        self._refuse_if_all_are_left_out()
        backend = "image" if media.are_images else cfg.DATA.DECODING_BACKEND
        entries = [Entry(line, str(file), 0) for line, file in enumerate(self._files, start=1)]
        dataset = MultiViewVideos(
            LabeledVideos(LabeledPaths(Path(), entries), prefix="", backend=backend),
            sampling=build_sampling(cfg),
            crops=build_test_crops(cfg),
            num_clips=cfg.TEST.NUM_ENSEMBLE_VIEWS,
        )
        fallback = build_fallback(dataset)
        self._guarded = FaultTolerantDataset(
            [dataset] if fallback is None else [dataset, fallback],
            replace=None,
            max_bad=0,
            monitor=WorkerMonitor(num_workers=0, seconds=0.0),
        )

    def __len__(self) -> int:
        """How many files there are; not all of them can be read, perhaps."""
        return len(self._files)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Read each file: an item is as those of `MultiViewVideos`, and has the file's name.

        Raises:
            UserError: none of the files can be read.
        """
        for index, file in enumerate(self._files):
            item, reports = self._guarded[index]
            if isinstance(item, UserError):
                raise item
            if item is None:
                self._leave_out(file, reports[-1].error)
            else:
                yield item
        self._refuse_if_all_are_left_out()

    def _leave_out(self, file: Path, reason: str) -> None:
        if self._num_named == 1:
            raise UserError(f"{file} cannot be read: {reason}.")
        _log.warning("%s cannot be read and is left out: %s", file, reason)
        self.left_out.append(file)

    def _refuse_if_all_are_left_out(self) -> None:
        if len(self.left_out) == self._num_named:
            raise UserError(f"None of the {self._num_named} files can be read: give others.")
