"""Open the videos of a CSV file, and describe them with their labels and names."""

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

# Enough to detect a wrong DATA.PATH_PREFIX early, and few enough for a slow network disk.
_NUM_CHECKED_FILES = 8


class LabeledVideos:
    """The videos of a CSV file.

    Args:
        paths: the entries of the CSV file.
        prefix: folder that relative paths start from.
        backend: the decoder, see `open_video`.

    Attributes:
        paths: as passed in.
        backend: as passed in.

    Raises:
        UserError: none of the first files exists.
    """

    def __init__(self, paths: LabeledPaths, *, prefix: str | Path, backend: str) -> None:
        self.paths = paths
        self.backend = backend
        self._videos = LabeledVideoPaths(paths, path_prefix=str(prefix))
        first = [self.file(index) for index in range(min(_NUM_CHECKED_FILES, len(paths)))]
        # Single missing files are not checked here: they count against DATA.MAX_BAD_VIDEOS later.
        if not any(path.is_file() for path in first):
            raise UserError(
                f"{paths.location(0)}: there is no video {first[0]}, nor any other of the first "
                f"{len(first)}; relative paths start at DATA.PATH_PREFIX or, if that is empty, at "
                "the folder of the CSV file"
            )

    def __len__(self) -> int:
        return len(self.paths)

    def file(self, index: int) -> Path:
        """Return the file of a video."""
        path, _ = self._videos[index]
        return Path(path)

    def metadata(self, index: int) -> dict[str, Any]:
        """Return the fields of a sample besides its pixels; its name is the path in the CSV."""
        path, label = self.paths[index]
        return {"label": label, "video_index": index, "video_name": path}

    def bad_video(self, index: int, error: str, *, crashes_worker: bool = False) -> BadVideo:
        """Return the `BadVideo` of a video that cannot be read."""
        path, label = self.paths[index]
        return BadVideo(
            index=index,
            path=path,
            label=label,
            csv=str(self.paths.csv_path),
            line=self.paths.line(index),
            error=error,
            crashes_worker=crashes_worker,
            is_image=self.paths.items == "images",
        )

    def with_backend(self, backend: str) -> "LabeledVideos":
        """Return the same videos with another decoder."""
        other = copy.copy(self)
        other.backend = backend
        return other

    @contextmanager
    def open(self, index: int) -> Iterator[VideoReader]:
        """Open a video; errors name its line of the CSV file.

        Raises:
            BadVideoError: the video cannot be opened, or reading it inside the block fails.
        """
        try:
            with open_video(self.file(index), backend=self.backend) as reader:
                yield reader
        except VideoError as error:
            raise BadVideoError(self.bad_video(index, error.reason)) from error
        except (UserError, ImportError):
            raise
        except Exception as error:
            # Decoders may raise anything on malformed files, even StopIteration, which would
            # silently end the epoch of a loader. A single file must not end a long run.
            raise BadVideoError(self.bad_video(index, _describe(error))) from error


def _describe(error: Exception) -> str:
    """Return the type, message and source line of an error in one line."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message} ({Path(frame.filename).name}, line {frame.lineno})"
