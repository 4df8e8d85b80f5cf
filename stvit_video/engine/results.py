"""Write the results of a test: predictions, scores, per-class accuracies and a summary."""

import csv
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from fvcore.common.config import CfgNode

from stvit_video.data.bad_videos import BadVideo, write_bad_videos
from stvit_video.data.imagenet import class_folders
from stvit_video.engine.predict import Accuracy, Predictions
from stvit_video.errors import UserError

_DEFAULT_CLASS_FILE = "classes.json"
# The logged table has this many of the best and of the worst classes; per_class.csv has all.
_TABLE_CLASSES = 20


def build_class_names(cfg: CfgNode) -> list[str]:
    """Return the name of every class, in the order of labels.

    The names come from the first of these that exists: the file TENSORBOARD.CLASS_NAMES_PATH,
    classes.json in DATA.PATH_TO_DATA_DIR, the class folders there (images only), or else the
    label numbers.

    Raises:
        UserError: the file is missing, or its labels are not 0 to NUM_CLASSES - 1.
    """
    if cfg.TENSORBOARD.CLASS_NAMES_PATH:
        return read_class_names(Path(cfg.TENSORBOARD.CLASS_NAMES_PATH), cfg.MODEL.NUM_CLASSES)
    path = Path(cfg.DATA.PATH_TO_DATA_DIR) / _DEFAULT_CLASS_FILE
    if path.is_file():
        return read_class_names(path, cfg.MODEL.NUM_CLASSES)
    if cfg.TEST.DATASET == "imagenet" and cfg.DATA.PATH_TO_DATA_DIR:
        for split in ("val", "train"):
            with suppress(UserError):
                names = class_folders(path.parent / split)
                if len(names) == cfg.MODEL.NUM_CLASSES:
                    return names
    return [str(label) for label in range(cfg.MODEL.NUM_CLASSES)]


def read_class_names(path: Path, num_classes: int) -> list[str]:
    """Read a JSON file {class name: label} whose labels are 0 to ``num_classes - 1``.

    Raises:
        UserError: the file cannot be read, or has other labels.
    """
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"The class names {path} cannot be read ({error}).") from error
    if not isinstance(labels, dict) or not _has_all_labels(labels, num_classes):
        raise UserError(
            f"The class names in {path} must have the labels 0 to {num_classes - 1}, each once, "
            f"because MODEL.NUM_CLASSES is {num_classes}."
        )
    # The official Kinetics file has quotation marks inside its JSON strings.
    return [name.strip('"') for name in sorted(labels, key=labels.__getitem__)]


def _has_all_labels(labels: dict, num_classes: int) -> bool:
    values = list(labels.values())
    return len(values) == num_classes and all(label in values for label in range(num_classes))


def write_results(
    folder: Path,
    predictions: Predictions,
    accuracy: Accuracy,
    *,
    left_out: Sequence[BadVideo],
    class_names: Sequence[str],
    predictions_path: Path,
    facts: Mapping[str, object],
) -> None:
    """Write all result files of a test.

    Args:
        folder: folder for scores.npz, per_class.csv, summary.json, left_out.csv and
            confusion_matrix.png.
        predictions: predictions for all videos that could be read.
        accuracy: accuracy of these predictions.
        left_out: videos that could not be read.
        class_names: names in the order of labels.
        predictions_path: CSV file with a line for every video.
        facts: additional entries of the summary, such as the views and the checkpoint.
    """
    # Imported here because matplotlib takes a second to import and only one rank draws.
    from stvit_video.figures.confusion import draw_confusion_matrix

    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        folder / "scores.npz",
        video_index=predictions.video_index,
        scores=predictions.scores,
        labels=predictions.labels,
    )
    _write_class_accuracies(folder / "per_class.csv", accuracy, class_names)
    write_bad_videos(folder / "left_out.csv", left_out)
    summary = {**summarize(accuracy, num_left_out=len(left_out)), **facts}
    text = json.dumps(summary, indent=2, ensure_ascii=False)
    (folder / "summary.json").write_text(text + "\n", encoding="utf-8")
    draw_confusion_matrix(
        folder / "confusion_matrix.png", accuracy.confusion, class_names=class_names
    )
    write_predictions(predictions_path, predictions)


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write a CSV line for every video: the best class, its score, and the top-5 classes.

    Scores are written with enough digits to restore the exact float32 values.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    ranking = predictions.ranking()
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["video_name", "label", "prediction", "score", "top5", "correct"])
        for row, name in enumerate(predictions.video_names):
            label, best = int(predictions.labels[row]), ranking[row]
            score = str(predictions.scores[row, best[0]])
            top5 = " ".join(map(str, best))
            writer.writerow([name, label, best[0], score, top5, bool(best[0] == label)])


def summarize(accuracy: Accuracy, *, num_left_out: int) -> dict[str, object]:
    """Return the accuracies of a test in percent and its numbers of videos, by name."""
    num_read = int(accuracy.videos.sum())
    return {
        "top1_acc": accuracy.top1,
        "top5_acc": accuracy.top5,
        "mean_class_acc": accuracy.mean_class,
        "top1_acc_by_clips": {
            str(clips): value for clips, value in enumerate(accuracy.by_clips, start=1)
        },
        "num_videos_expected": num_read + num_left_out,
        "num_videos": num_read,
        "num_left_out": num_left_out,
    }


def format_table(accuracy: Accuracy, *, class_names: Sequence[str]) -> str:
    """Return a table for the log: all classes that have videos, or the best and the worst."""
    labels = np.flatnonzero(accuracy.videos)
    order = labels[np.argsort(-accuracy.class_top1[labels], kind="stable")]
    width = max(len("class"), *(len(class_names[label]) for label in order))
    lines = [f"{'class':<{width}}  videos  top-1 %  top-5 %"]
    num_omitted = len(order) - 2 * _TABLE_CLASSES
    for position, label in enumerate(order):
        if num_omitted > 0 and position == _TABLE_CLASSES:
            lines.append(f"... {num_omitted} more classes in per_class.csv ...")
        if num_omitted > 0 and _TABLE_CLASSES <= position < len(order) - _TABLE_CLASSES:
            continue
        lines.append(
            f"{class_names[label]:<{width}}  {accuracy.videos[label]:>6}  "
            f"{accuracy.class_top1[label]:>7.2f}  {accuracy.class_top5[label]:>7.2f}"
        )
    by_clips = ", ".join(f"{k}: {value:.2f}" for k, value in enumerate(accuracy.by_clips, start=1))
    lines.append(
        f"{accuracy.videos.sum()} videos: top-1 {accuracy.top1:.2f}, top-5 {accuracy.top5:.2f}, "
        f"mean class accuracy {accuracy.mean_class:.2f}; top-1 by number of clips {by_clips}"
    )
    return "\n".join(lines)


def _write_class_accuracies(path: Path, accuracy: Accuracy, class_names: Sequence[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["label", "class", "videos", "top1", "top5"])
        for label, name in enumerate(class_names):
            videos = int(accuracy.videos[label])
            # A class without videos has no accuracy; pandas reads the empty field as NaN.
            top1 = float(accuracy.class_top1[label]) if videos else ""
            top5 = float(accuracy.class_top5[label]) if videos else ""
            writer.writerow([label, name, videos, top1, top5])
