"""What a test of a detector leaves behind."""

import json
from pathlib import Path

import torch

from stvit_video.data.bad_videos import write_quarantine
from stvit_video.data.coco.dataset import CocoImages
from stvit_video.data.loader import VideoLoader
from stvit_video.engine.detection.evaluate import Evaluated, format_table, write_results
from stvit_video.engine.meters import memory
from stvit_video.runtime.atomic_files import sha256
from stvit_video.runtime.logging import get_logger, log_json_stats

_log = get_logger(__name__)


def report_detection(
    evaluated: Evaluated,
    loader: VideoLoader,
    *,
    output_dir: Path,
    predictions_path: Path,
    checkpoint: Path,
    device: torch.device,
) -> None:
    """Write the results, a summary and the images that were left out, and log the table.

    Args:
        evaluated: what was found.
        loader: of the images.
        output_dir: of the run; its ``results`` get summary.json and left_out.csv.
        predictions_path: the JSON file in COCO's format.
        checkpoint: what was tested.
        device: whose memory is reported.
    """
    dataset = loader.dataset
    assert isinstance(dataset, CocoImages)
    folder = output_dir / "results"
    folder.mkdir(parents=True, exist_ok=True)
    write_results(predictions_path, evaluated.results)
    write_quarantine(folder / "left_out.csv", evaluated.left_out)
    counts = {
        "num_videos_expected": len(dataset),
        "num_left_out": len(evaluated.left_out),
        "num_annotations_left_out": len(dataset.annotations.bad),
    }
    summary = {
        **evaluated.measured,
        **counts,
        "annotations": str(dataset.annotations.paths.csv_path.resolve()),
        "checkpoint": str(checkpoint.resolve()),
        "checkpoint_sha256": sha256(checkpoint),
    }
    text = json.dumps(summary, indent=2, ensure_ascii=False)
    (folder / "summary.json").write_text(text + "\n", encoding="utf-8")
    _log.info("Test of %s\n%s", checkpoint, format_table(evaluated.measured))
    _log.info("Results are in %s", folder)
    log_json_stats(
        {"_type": "test_final", **evaluated.measured, **counts, **memory(device)},
        output_dir=output_dir,
    )
