"""Save and restore the predictions of a test that was stopped or failed."""

import hashlib
import io
import json
import re
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

import stvit_video
from stvit_video.engine.predict import Predictions, concatenate
from stvit_video.runtime import distributed
from stvit_video.runtime.atomic_files import recorded_hash, sha256, write_atomically
from stvit_video.runtime.logging import get_logger

_FILE = re.compile(r"start_(\d+)_rank_\d+\.npz")

_log = get_logger(__name__)


@dataclass(frozen=True)
class FinishedVideos:
    """Predictions that earlier starts of a test have finished.

    Attributes:
        parts: predictions, each video at most once.
        second_tries: videos among them that only the fallback decoder could read.
    """

    parts: tuple[Predictions, ...] = ()
    second_tries: frozenset[int] = frozenset()

    @property
    def videos(self) -> set[int]:
        """Indices of the finished videos."""
        return {index for part in self.parts for index in part.video_index.tolist()}

    def without(self, videos: Collection[int]) -> "FinishedVideos":
        """Return a copy without the predictions of some videos."""
        return FinishedVideos(
            tuple(_drop_videos(part, videos) for part in self.parts),
            self.second_tries.difference(videos),
        )


class PartialTest:
    """Files in OUTPUT_DIR, one for each rank and start, that hold the finished predictions.

    Args:
        output_dir: OUTPUT_DIR of the run.
        fingerprint: hash of everything that the predictions depend on; files with another
            fingerprint are ignored.
    """

    def __init__(self, output_dir: str | Path, *, fingerprint: str) -> None:
        self._folder = Path(output_dir) / "stopped_test"
        self._fingerprint = fingerprint

    def write(
        self, parts: Sequence[Predictions], *, second_tries: Collection[int], start: int
    ) -> None:
        """Write the predictions of this rank.

        If writing fails, a warning is logged and the videos are tested again.

        Args:
            parts: predictions.
            second_tries: videos that only the fallback decoder could read.
            start: number of this start, the same on all ranks, and not :attr:`last_start`.
        """
        if not parts:
            return
        predictions = concatenate(parts)
        facts = {"fingerprint": self._fingerprint, "second_tries": sorted(second_tries)}
        arrays = {**vars(predictions), "video_names": np.array(predictions.video_names)}
        content = io.BytesIO()
        np.savez(content, facts=json.dumps(facts), **arrays)

        def write(file: BinaryIO) -> None:
            file.write(content.getbuffer())

        file = self._folder / f"start_{start:03d}_rank_{distributed.get_rank():05d}.npz"
        try:
            write_atomically(file, write)
        except OSError as error:
            _log.warning("The finished predictions cannot be saved: %s", error)

    def read(self) -> FinishedVideos:
        """Return the predictions of all ranks and all earlier starts of the same test."""
        finished = FinishedVideos()
        for file in reversed(self._files()):  # the newest prediction of a video wins
            found = self._read(file)
            if found is not None:
                new = found.without(finished.videos)
                finished = FinishedVideos(
                    finished.parts + new.parts, finished.second_tries | new.second_tries
                )
        return finished

    @property
    def last_start(self) -> int:
        """Number of the latest start that wrote a file; 0 if there is none."""
        return max((_start_number(file) for file in self._files()), default=0)

    def remove(self) -> None:
        """Remove the files of all ranks; one rank calls this once the results are written."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _files(self) -> list[Path]:
        files = self._folder.glob("*.npz")
        return sorted((file for file in files if _FILE.fullmatch(file.name)), key=_start_number)

    def _read(self, file: Path) -> FinishedVideos | None:
        try:
            if recorded_hash(file) != sha256(file):
                _log.warning("%s is damaged; its videos are tested again", file)
                return None
            with np.load(file, allow_pickle=False) as arrays:
                facts = json.loads(str(arrays["facts"]))
                if facts["fingerprint"] != self._fingerprint:
                    return None
                contents = {name: arrays[name] for name in arrays.files if name != "facts"}
        except OSError as error:
            _log.warning("%s cannot be read; its videos are tested again: %s", file, error)
            return None
        names = [str(name) for name in contents.pop("video_names")]
        predictions = Predictions(video_names=names, **contents)
        return FinishedVideos((predictions,), frozenset(facts["second_tries"]))


def fingerprint_code() -> str:
    """Return a hash of this package's source and of PyTorch's version."""
    digest = hashlib.sha256(torch.__version__.encode())
    package = Path(stvit_video.__file__).parent
    for file in sorted(package.rglob("*.py")):
        digest.update(f"\n{file.relative_to(package)}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _start_number(file: Path) -> int:
    match = _FILE.fullmatch(file.name)
    assert match is not None
    return int(match[1])


def _drop_videos(predictions: Predictions, videos: Collection[int]) -> Predictions:
    keep = ~np.isin(predictions.video_index, list(videos))
    return predictions.select(np.flatnonzero(keep))
