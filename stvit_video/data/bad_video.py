"""A video that cannot be read, as a value and as an error."""

from dataclasses import dataclass

from stvit_video.errors import UserError


@dataclass(frozen=True)
class BadVideo:
    """A line of a CSV file whose video cannot be read, and why.

    It travels from a worker process to the main one beside the samples of a batch.

    Attributes:
        index: of the video in its data set.
        path: as the CSV file has it.
        label: of the line.
        csv: the CSV file.
        line: of the CSV file, from 1.
        error: the first error that was met.
        kills: the process that read it died or had to be ended, so it is not opened again.
        second_try: the decoder of the config failed with ``error``, but the second one read it;
            so it is not bad after all.
        is_image: it is an image of a folder or an annotation file, which ``line`` counts.
    """

    index: int
    path: str
    label: int
    csv: str
    line: int
    error: str
    kills: bool = False
    second_try: bool = False
    is_image: bool = False

    def __str__(self) -> str:
        unit, what = ("image", "image") if self.is_image else ("line", "video")
        return f"{self.csv}, {unit} {self.line}: cannot read the {what} {self.path}: {self.error}"


class BadVideoError(UserError):
    """What a data set raises for a `BadVideo`, which is its attribute ``bad``."""

    def __init__(self, bad: BadVideo) -> None:
        super().__init__(bad)
        self.bad = bad

    def __str__(self) -> str:
        return f"{self.bad}; replace or remove it"
