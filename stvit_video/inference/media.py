"""Find and read videos or images without labels, given as files, folders and CSV files."""

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
_MEDIA_SUFFIXES = (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES)

_log = get_logger(__name__)


@dataclass(frozen=True)
class Media:
    """Files that are either all videos or all images.

    Attributes:
        files: files in the given order, those of a folder sorted; some may not exist.
        are_images: whether they are images.
    """

    files: list[Path]
    are_images: bool


def find_media(
    paths: Sequence[str | Path],
    *,
    separator: str = " ",
    prefix: str | Path = "",
    prefer_images: bool = False,
) -> Media:
    """List the videos or the images in files, folders and CSV files.

    Folders are searched with their subfolders. Each line of a CSV file is "path label" or only a
    path.

    Args:
        paths: files, folders and CSV files.
        separator: separator between path and label.
        prefix: folder of the relative paths in CSV files; empty for the CSV file's own folder.
        prefer_images: whether a file with an unknown suffix is an image.

    Raises:
        UserError: a path does not exist or has no media, or there are both videos and images.
    """
    csv_prefix = Path(prefix) if str(prefix) else None
    files = [
        file
        for path in paths
        for file in _list_files(Path(path), separator=separator, prefix=csv_prefix)
    ]
    others = VIDEO_SUFFIXES if prefer_images else IMAGE_SUFFIXES
    is_image = [(file.suffix.lower() in others) != prefer_images for file in files]
    if any(is_image) and not all(is_image):
        image, video = files[is_image.index(True)], files[is_image.index(False)]
        raise UserError(
            f"Images and videos cannot be mixed, but {image} is an image and {video} is a video: "
            "give only one kind."
        )
    return Media(files, are_images=all(is_image))


def _list_files(path: Path, *, separator: str, prefix: Path | None) -> list[Path]:
    if path.is_dir():
        # Class folders are often symbolic links.
        walked = os.walk(path, followlinks=True)
        inside = [Path(root, name) for root, _, names in walked for name in names]
        files = sorted(file for file in inside if file.suffix.lower() in _MEDIA_SUFFIXES)
    elif path.suffix.lower() == ".csv" and path.is_file():
        files = _read_csv(path, separator=separator, prefix=prefix)
    elif path.is_file() or path.suffix.lower() in _MEDIA_SUFFIXES:
        files = [path]
    else:
        raise UserError(f"{path} does not exist: give existing files, folders, or CSV files.")
    if not files:
        raise UserError(
            f"{path} has no videos or images ({', '.join(_MEDIA_SUFFIXES)}): give another path."
        )
    return files


def _read_csv(csv_path: Path, *, separator: str, prefix: Path | None) -> list[Path]:
    try:
        text = csv_path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UserError(
            f"{csv_path} cannot be read ({error.strerror}): check its permissions."
        ) from error
    lines = [line.strip() for line in text.split("\n")]
    return [(prefix or csv_path.parent) / _without_label(line, separator) for line in lines if line]


def _without_label(line: str, separator: str) -> str:
    path, _, label = line.rpartition(separator)
    return path.strip() if path.strip() and label.strip().isdecimal() else line


class MediaViews:
    """Test views of every readable file; other files are skipped with a warning.

    Args:
        cfg: config of the model, which defines the views.
        paths: files, folders and CSV files, see `find_media`.

    Attributes:
        left_out: files that could not be read so far.

    Raises:
        UserError: as `find_media`; or none of the files exists; or they are images, and the clips
            of the config have more than one frame.
    """

    def __init__(self, cfg: CfgNode, paths: Sequence[str | Path]) -> None:
        media = find_media(
            paths,
            separator=cfg.DATA.PATH_LABEL_SEPARATOR,
            prefix=cfg.DATA.PATH_PREFIX,
            prefer_images=cfg.TEST.DATASET == "imagenet",
        )
        if media.are_images and cfg.DATA.NUM_FRAMES != 1:
            raise UserError(
                f"{media.files[0]} is an image, but a clip has DATA.NUM_FRAMES "
                f"{cfg.DATA.NUM_FRAMES}: use a config for images, or set it to 1."
            )
        self.left_out: list[Path] = []
        self._num_given = len(media.files)
        self._files: list[Path] = []
        for file in media.files:
            if file.is_file():
                self._files.append(file)
            else:
                self._leave_out(file, "No such file or directory")
        self._check_any_readable()
        backend = "image" if media.are_images else cfg.DATA.DECODING_BACKEND
        entries = [Entry(line, str(file), 0) for line, file in enumerate(self._files, start=1)]
        dataset = MultiViewVideos(
            LabeledVideos(LabeledPaths(Path(), entries), prefix="", backend=backend),
            sampling=build_sampling(cfg),
            crops=build_test_crops(cfg),
            num_clips=cfg.TEST.NUM_ENSEMBLE_VIEWS,
        )
        fallback = build_fallback(dataset)
        self._dataset = FaultTolerantDataset(
            [dataset] if fallback is None else [dataset, fallback],
            replace=None,
            max_bad=0,
            monitor=WorkerMonitor(num_workers=0, seconds=0.0),
        )

    def __len__(self) -> int:
        """Return the number of existing files, some of which may not be readable."""
        return len(self._files)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Read the files; items are those of `MultiViewVideos` with the file as the name.

        Raises:
            UserError: none of the files can be read.
        """
        for index, file in enumerate(self._files):
            item, reports = self._dataset[index]
            if isinstance(item, UserError):
                raise item
            if item is None:
                self._leave_out(file, reports[-1].error)
            else:
                yield item
        self._check_any_readable()

    def _leave_out(self, file: Path, reason: str) -> None:
        if self._num_given == 1:
            raise UserError(f"{file} cannot be read: {reason}.")
        _log.warning("%s cannot be read and is skipped: %s", file, reason)
        self.left_out.append(file)

    def _check_any_readable(self) -> None:
        if len(self.left_out) == self._num_given:
            raise UserError(f"None of the {self._num_given} files can be read: give other files.")
