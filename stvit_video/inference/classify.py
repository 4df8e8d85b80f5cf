"""The best classes of videos or images that have no labels."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from fvcore.common.config import CfgNode

from stvit_video.data.workers import collate
from stvit_video.engine.predict import build_predictor, make_predictions
from stvit_video.engine.results import build_class_names
from stvit_video.engine.resume import checkpoint_to_test, load_test_weights
from stvit_video.errors import UserError
from stvit_video.inference.media import MediaViews
from stvit_video.models import build_model
from stvit_video.runtime.launch import resolve_device


@dataclass(frozen=True)
class BestClasses:
    """The best classes of a file, five or, with fewer classes, all of them.

    Attributes:
        file: its name, as it was given.
        labels: of the classes, the best first.
        names: of the classes.
        scores: of the classes, by all views of the test together.
    """

    file: str
    labels: list[int]
    names: list[str]
    scores: list[float]

    def lines(self, *, in_percent: bool) -> list[str]:
        """Return the file's name, and below it a line "score  name" for each class."""
        numbers = [f"{100 * s:6.2f}%" if in_percent else f"{s:7.3f}" for s in self.scores]
        pairs = zip(numbers, self.names, strict=True)
        return [self.file, *(f"{number}  {name}" for number, name in pairs)]


def classify(cfg: CfgNode, places: Sequence[str | Path]) -> Iterator[BestClasses]:
    """Score videos or images as the test does, by all of its views, one file after the other.

    A file that cannot be read is left out, with a warning.

    Args:
        cfg: of a classifier; TEST.CHECKPOINT_FILE_PATH, or the last checkpoint in its OUTPUT_DIR,
            gives the weights.
        places: files, folders and CSV files, see `find_media`.

    Raises:
        UserError: none of the files can be read, they do not fit the config, there are no
            weights, or the scores are not finite.
    """
    views = MediaViews(cfg, places)
    class_names = build_class_names(cfg)
    device = torch.device(resolve_device(cfg.DEVICE, 1))
    model = build_model(cfg).to(device).eval()
    load_test_weights(cfg, model, checkpoint_to_test(cfg))
    predictor = build_predictor(cfg, model, device)
    for item in views:
        batch = collate([item])
        predictions = make_predictions(batch, predictor(batch["video"]))
        best = predictions.ranking()[0]
        yield BestClasses(
            file=item["video_name"],
            labels=best.tolist(),
            names=[class_names[label] for label in best],
            scores=predictions.scores[0, best].tolist(),
        )


def write_best_classes(path: Path, files: Iterable[BestClasses]) -> None:
    """Write a CSV line for each of the best classes of each file.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["file", "rank", "label", "class", "score"])
            for best in files:
                rows = zip(best.labels, best.names, best.scores, strict=True)
                for rank, row in enumerate(rows, start=1):
                    writer.writerow([best.file, rank, *row])
    except OSError as error:
        raise UserError(f"Cannot write {path} ({error.strerror}): take another path.") from error
