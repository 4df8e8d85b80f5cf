"""Journal of checked videos, from which an interrupted check resumes."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, NamedTuple

from stvit_video.errors import UserError


@dataclass(frozen=True)
class VideoFacts:
    """Properties of a video, or the reason why it cannot be read.

    Attributes:
        frames: number of frames.
        fps: frames per second.
        height: of the upright frame, in pixels.
        width: of the upright frame, in pixels.
        error: why it cannot be read; empty if it can.
        crashes_worker: the worker process that read it crashed or had to be killed.
    """

    frames: int = 0
    fps: float = 0.0
    height: int = 0
    width: int = 0
    error: str = ""
    crashes_worker: bool = False

    @property
    def seconds(self) -> float:
        """Length of the video."""
        return self.frames / self.fps if self.fps else 0.0


class _Key(NamedTuple):
    way: str
    file: str
    bytes: int
    mtime_ns: int


class Journal:
    """Facts of checked files, each appended to disk as a line of JSON immediately.

    A file counts as unknown if its size or time has changed, if it is missing, or if it was
    checked in another way.

    Args:
        path: the journal; its folder is created.
        way: description of how files are checked.

    Raises:
        UserError: the file is not a journal.
    """

    def __init__(self, path: Path, *, way: str) -> None:
        self._way = way
        self._known: dict[_Key, VideoFacts] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        # A killed check may have left an incomplete line at the end.
        complete = text[: text.rfind("\n") + 1]
        for number, line in enumerate(complete.splitlines(), start=1):
            try:
                row = json.loads(line)
                row["crashes_worker"] = row["kills"]  # the name of the JSON key
                facts = VideoFacts(**{f.name: row[f.name] for f in fields(VideoFacts)})
                self._known[_Key(*(row[name] for name in _Key._fields))] = facts
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{path}, line {number}: this is not a journal of checked videos; choose "
                    "another --output, or delete the file to check all videos again"
                ) from error
        if complete != text:
            path.write_text(complete, encoding="utf-8")
        self._file: IO[str] = path.open("a", encoding="utf-8")

    def get(self, file: str) -> VideoFacts | None:
        """Return the facts of a file in its current state, or None."""
        key = self._key(file)
        return self._known.get(key) if key else None

    def add(self, file: str, facts: VideoFacts) -> None:
        """Add the facts of a file; a missing file is not added."""
        key = self._key(file)
        if key is None:
            return
        self._known[key] = facts
        row = key._asdict() | asdict(facts)
        row["kills"] = row.pop("crashes_worker")
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _key(self, file: str) -> _Key | None:
        try:
            status = Path(file).stat()
        except OSError:
            return None
        return _Key(self._way, file, status.st_size, status.st_mtime_ns)
