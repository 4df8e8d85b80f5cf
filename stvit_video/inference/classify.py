"""Classify videos or images without labels."""

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
class TopClasses:
    """Top-5 classes of a file, or all classes if there are fewer than five.

    Attributes:
        file: name of the file, as given.
        labels: labels of the classes, best first.
        names: names of the classes.
        scores: scores of the classes, computed from all views of the test.
    """

    file: str
    labels: list[int]
    names: list[str]
    scores: list[float]

    def lines(self, *, in_percent: bool) -> list[str]:
        """Return the file's name, followed by a line "score  name" for each class."""
        numbers = [f"{100 * s:6.2f}%" if in_percent else f"{s:7.3f}" for s in self.scores]
        pairs = zip(numbers, self.names, strict=True)
        return [self.file, *(f"{number}  {name}" for number, name in pairs)]


def classify(cfg: CfgNode, paths: Sequence[str | Path]) -> Iterator[TopClasses]:
    """Classify videos or images by all views of the test, one file after the other.

    Files that cannot be read are skipped with a warning.

    Args:
        cfg: config of a classifier. The weights are those of TEST.CHECKPOINT_FILE_PATH, or of the
            newest checkpoint in OUTPUT_DIR.
        paths: files, folders and CSV files, see `find_media`.

    Raises:
        UserError: none of the files can be read, they do not fit the config, there are no
            weights, or the scores are not finite.
    """
    views = MediaViews(cfg, paths)
    class_names = build_class_names(cfg)
    device = torch.device(resolve_device(cfg.DEVICE, 1))
    model = build_model(cfg).to(device).eval()
    load_test_weights(cfg, model, checkpoint_to_test(cfg))
    predictor = build_predictor(cfg, model, device)
    for item in views:
        batch = collate([item])
        predictions = make_predictions(batch, predictor(batch["video"]))
        labels = predictions.ranking()[0]
        yield TopClasses(
            file=item["video_name"],
            labels=labels.tolist(),
            names=[class_names[label] for label in labels],
            scores=predictions.scores[0, labels].tolist(),
        )


def write_top_classes(path: Path, files: Iterable[TopClasses]) -> None:
    """Write a CSV file with a line for each of the top classes of each file.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["file", "rank", "label", "class", "score"])
            for top in files:
                rows = zip(top.labels, top.names, top.scores, strict=True)
                for rank, row in enumerate(rows, start=1):
                    writer.writerow([top.file, rank, *row])
    except OSError as error:
        raise UserError(f"Cannot write {path} ({error.strerror}): choose another path.") from error
