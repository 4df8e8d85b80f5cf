"""The videos of a CSV file: their labels, their names, and how to open them."""

import copy
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths

from stvit_video.data.bad_videos import BadVideo, BadVideoError
from stvit_video.data.decode import VideoError, VideoReader, open_video
from stvit_video.data.labeled_paths import LabeledPaths
from stvit_video.errors import UserError

# Enough to notice a wrong DATA.PATH_PREFIX at once, and few enough for a slow network disk.
_CHECKED_FILES = 8


class LabeledVideos:
    """The videos of a CSV file: their labels, their names, and how to open them.

    Args:
        paths: the lines of the CSV file.
        prefix: folder in front of relative paths.
        backend: decoder, see `open_video`.

    Attributes:
        paths: the same.
        backend: the same.

    Raises:
        UserError: none of the first files exists.
    """

    def __init__(self, paths: LabeledPaths, *, prefix: str | Path, backend: str) -> None:
        self.paths = paths
        self._videos = LabeledVideoPaths(paths, path_prefix=str(prefix))
        self.backend = backend
        first = [self.file(index) for index in range(min(_CHECKED_FILES, len(paths)))]
        # One that is missing alone counts against DATA.MAX_BAD_VIDEOS, when it is to be read.
        if not any(path.is_file() for path in first):
            raise UserError(
                f"{paths.place(0)}: there is no video {first[0]}, nor any other of the first "
                f"{len(first)}; relative paths are taken from DATA.PATH_PREFIX or, if that is "
                "empty, from the folder of the CSV file"
            )

    def __len__(self) -> int:
        return len(self.paths)

    def file(self, index: int) -> Path:
        """Where a video is."""
        path, _ = self._videos[index]
        return Path(path)

    def about(self, index: int) -> dict[str, Any]:
        """What a sample says besides its pixels; the name is the path as the CSV file has it."""
        path, label = self.paths[index]
        return {"label": label, "video_index": index, "video_name": path}

    def bad_video(self, index: int, error: str, *, crashes_worker: bool = False) -> BadVideo:
        """Describe a video that cannot be read."""
        path, label = self.paths[index]
        csv, line = str(self.paths.csv_path), self.paths.line(index)
        is_image = self.paths.items == "images"
        return BadVideo(
            index, path, label, csv, line, error, crashes_worker=crashes_worker, is_image=is_image
        )

    def with_backend(self, backend: str) -> "LabeledVideos":
        """The same videos over another decoder."""
        other = copy.copy(self)
        other.backend = backend
        return other

    @contextmanager
    def open(self, index: int) -> Iterator[VideoReader]:
        """Open a video, and name its line of the CSV file if it cannot be read.

        Raises:
            BadVideoError: the video cannot be opened, or what is read inside the block cannot.
        """
        try:
            with open_video(self.file(index), backend=self.backend) as reader:
                yield reader
        except VideoError as error:
            raise BadVideoError(self.bad_video(index, error.reason)) from error
        except (UserError, ImportError):
            raise
        except Exception as error:
            # Decoders raise what they like on files that they did not expect, StopIteration too,
            # which would end a loader's epoch in silence; one file must not end a long run.
            raise BadVideoError(self.bad_video(index, _unexpected(error))) from error


def _unexpected(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text} ({Path(place.filename).name}, line {place.lineno})"
