"""What is raised when a video file cannot be read."""

from pathlib import Path

from stvit_video.errors import UserError


class VideoError(UserError):
    """A video file that cannot be opened or decoded.

    It keeps ``path`` and ``reason`` apart, so that a data set can add the line of its CSV file,
    and it can be pickled, so that it travels from a worker process as it is.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(str(path), reason)
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot read the video {self.path}: {self.reason}"
