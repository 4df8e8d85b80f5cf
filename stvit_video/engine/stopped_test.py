"""What a test had finished when it was stopped, for the start that goes on with it."""

import io
import json
import shutil
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from torch.utils.data import Sampler

from stvit_video.data.bad_video import BadVideo
from stvit_video.engine.durable import recorded_hash, sha256, write_atomically
from stvit_video.engine.predictions import Predictions, concatenate
from stvit_video.runtime import distributed
from stvit_video.runtime.logging import get_logger

_log = get_logger(__name__)


@dataclass(frozen=True)
class Finished:
    """What one rank has finished of a test.

    Attributes:
        parts: predictions of its batches.
        bad: videos that could not be read.
        second_tries: videos among the predictions that only the second decoder could read.
    """

    parts: tuple[Predictions, ...] = ()
    bad: tuple[BadVideo, ...] = ()
    second_tries: int = 0

    @property
    def indices(self) -> set[int]:
        """Numbers of the videos with which nothing is left to do."""
        predicted = (index for part in self.parts for index in part.video_index.tolist())
        return {*predicted, *(bad.index for bad in self.bad)}


class StoppedTest:
    """Files in OUTPUT_DIR, one of each rank, that outlive a stop.

    Args:
        output_dir: of the run.
        fingerprint: of everything that the predictions depend on; those of another are not
            taken up.
    """

    def __init__(self, output_dir: str | Path, *, fingerprint: str) -> None:
        self._folder = Path(output_dir) / "stopped_test"
        self._file = self._folder / f"rank_{distributed.get_rank():05d}.npz"
        self._fingerprint = fingerprint

    def write(self, finished: Finished) -> None:
        """Write what this rank has finished; a failure costs no more than doing it again."""
        if not finished.parts:
            return
        predictions = concatenate(finished.parts)
        facts = {
            "fingerprint": self._fingerprint,
            "second_tries": finished.second_tries,
            "bad": [asdict(bad) for bad in finished.bad],
        }
        arrays = {**vars(predictions), "video_names": np.array(predictions.video_names)}
        content = io.BytesIO()
        np.savez(content, facts=json.dumps(facts), **arrays)

        def write(file: BinaryIO) -> None:
            file.write(content.getbuffer())

        try:
            write_atomically(self._file, write)
        except OSError as error:
            _log.warning("What the test has finished is lost: %s", error)

    def read(self) -> Finished:
        """Return what this rank had finished of the same test, or nothing."""
        if recorded_hash(self._file) is None or not self._file.is_file():
            return Finished()
        if recorded_hash(self._file) != sha256(self._file):
            _log.warning("%s is damaged: what it held is done again", self._file)
            return Finished()
        with np.load(self._file, allow_pickle=False) as arrays:
            facts = json.loads(str(arrays["facts"]))
            if facts["fingerprint"] != self._fingerprint:
                return Finished()
            contents = {name: arrays[name] for name in arrays.files if name != "facts"}
        names = [str(name) for name in contents.pop("video_names")]
        return Finished(
            parts=(Predictions(video_names=names, **contents),),
            bad=tuple(BadVideo(**bad) for bad in facts["bad"]),
            second_tries=facts["second_tries"],
        )

    def remove(self) -> None:
        """Remove the files of all ranks; one rank calls this when the results are written."""
        shutil.rmtree(self._folder, ignore_errors=True)


class UnfinishedBatches(Sampler[list[int]]):
    """The batches of a sampler with which something is left to do, each as a whole.

    Their composition stays what it is without a stop, as the last digits of a video's scores may
    depend on the others in its batch.
    """

    def __init__(self, batches: Sampler[list[int]], finished: Collection[int]) -> None:
        self._batches = [batch for batch in batches if not set(batch) <= set(finished)]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches)
