"""The videos of a CSV file: their labels, their names, and how to open them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths

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

    Raises:
        UserError: one of the first files does not exist.
    """

    def __init__(self, paths: LabeledPaths, *, prefix: str | Path, backend: str) -> None:
        self._paths = paths
        self._videos = LabeledVideoPaths(paths, path_prefix=str(prefix))
        self._backend = backend
        for index in range(min(_CHECKED_FILES, len(paths))):
            path, _ = self._videos[index]
            if not Path(path).is_file():
                raise UserError(
                    f"{paths.place(index)}: there is no video {path}; relative paths are taken "
                    "from DATA.PATH_PREFIX or, if that is empty, from the folder of the CSV file"
                )

    def __len__(self) -> int:
        return len(self._paths)

    def about(self, index: int) -> dict[str, Any]:
        """What a sample says besides its pixels; the name is the path as the CSV file has it."""
        path, label = self._paths[index]
        return {"label": label, "video_index": index, "video_name": path}

    @contextmanager
    def open(self, index: int) -> Iterator[VideoReader]:
        """Open a video, and name its line of the CSV file if it cannot be read.

        Raises:
            UserError: the video cannot be opened, or what is read inside the block cannot.
        """
        path, _ = self._videos[index]
        try:
            with open_video(path, backend=self._backend) as reader:
                yield reader
        except VideoError as error:
            mend = "replace the file or take out the line"
            raise UserError(f"{self._paths.place(index)}: {error}; {mend}") from error
