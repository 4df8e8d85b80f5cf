"""What was found out about each video file, kept so that a check goes on where it was stopped."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, NamedTuple

from stvit_video.errors import UserError


@dataclass(frozen=True)
class VideoFacts:
    """What a video is like, or why it cannot be read.

    Attributes:
        frames: how many there are.
        fps: frames a second.
        height: of the upright frame, in pixels.
        width: the same.
        error: why it cannot be read; empty if it can.
        crashes_worker: the process that read it died or had to be ended.
    """

    frames: int = 0
    fps: float = 0.0
    height: int = 0
    width: int = 0
    error: str = ""
    crashes_worker: bool = False

    @property
    def seconds(self) -> float:
        """How long the video is."""
        return self.frames / self.fps if self.fps else 0.0


class _Key(NamedTuple):
    way: str
    file: str
    bytes: int
    mtime_ns: int


class Journal:
    """Facts by file, each written to disk as a line of JSON as soon as it is known.

    A file that has changed since, in size or time, is unknown again; so is one that is not there,
    and one that was checked in another way.

    Args:
        path: the journal; its folder is made.
        way: how files are checked, in words.

    Raises:
        UserError: it is another kind of file.
    """

    def __init__(self, path: Path, *, way: str) -> None:
        self._way = way
        self._known: dict[_Key, VideoFacts] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        # A check that was killed may have left a part of a line at the end.
        whole = text[: text.rfind("\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                row = json.loads(line)
                row["crashes_worker"] = row["kills"]  # its name in the file
                facts = VideoFacts(**{f.name: row[f.name] for f in fields(VideoFacts)})
                self._known[_Key(*(row[name] for name in _Key._fields))] = facts
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{path}, line {number}: this is no journal of checked videos; choose another "
                    "--output, or delete the file to check all videos again"
                ) from error
        if whole != text:
            path.write_text(whole, encoding="utf-8")
        self._file: IO[str] = path.open("a", encoding="utf-8")

    def get(self, file: str) -> VideoFacts | None:
        """What is known of a file as it is now."""
        key = self._key(file)
        return self._known.get(key) if key else None

    def add(self, file: str, facts: VideoFacts) -> None:
        """Note what was found out about a file."""
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
