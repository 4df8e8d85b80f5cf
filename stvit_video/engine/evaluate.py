"""The test: all views of every video, or a detector on every image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import nn

from stvit_video.data.build import build_loader
from stvit_video.data.kinetics import VideoDataset
from stvit_video.data.loader import VideoLoader
from stvit_video.engine.build import compile_model, is_detection
from stvit_video.engine.class_names import build_class_names
from stvit_video.engine.detection.evaluate import evaluate_detector
from stvit_video.engine.detection.report import report_detection
from stvit_video.engine.durable import sha256
from stvit_video.engine.meters import memory
from stvit_video.engine.precision import build_normalise, build_precision
from stvit_video.engine.predict import ViewPredictor, predict_all
from stvit_video.engine.predictions import Predictions, measure, merge
from stvit_video.engine.results import format_table, write_results
from stvit_video.engine.stopping import ShouldStop, agreed, never
from stvit_video.engine.tested_weights import checkpoint_to_test, load_tested_weights
from stvit_video.engine.what_was_read import say_what_was_read
from stvit_video.models import build_model
from stvit_video.runtime import distributed
from stvit_video.runtime.logging import get_logger, log_json_stats, setup_logging

_log = get_logger(__name__)


def test(cfg: CfgNode, *, should_stop: ShouldStop = never) -> None:
    """Test the model of a config on all views of every video, or a detector on every image.

    Called inside ``run_ranks``.

    Args:
        cfg: the config.
        should_stop: asked after every batch; once it says so on any rank, all of them return
            without results, and the test is done again when it is started again.

    Raises:
        UserError: there are no weights to test, they do not fit, their scores are not finite, or
            too many videos cannot be read.
    """
    setup_logging(cfg.OUTPUT_DIR)
    path = checkpoint_to_test(cfg)
    loader = build_loader(
        cfg, "test", rank=distributed.get_rank(), world_size=distributed.get_world_size()
    )
    device = distributed.device()
    model = build_model(cfg).to(device).eval()
    _log.info("%s", load_tested_weights(cfg, model, path))
    compile_model(cfg, model)
    test_model = _test_detector if is_detection(cfg) else _test_classifier
    if not test_model(_TestRun(cfg, model, loader, path, should_stop)):
        _log.info("The test was stopped as asked; start again to do it anew")


@dataclass(frozen=True)
class _TestRun:
    """What a test takes: the model with its weights, those of ``checkpoint``, and the data."""

    cfg: CfgNode
    model: nn.Module
    loader: VideoLoader
    checkpoint: Path
    should_stop: ShouldStop


def _test_detector(run: _TestRun) -> bool:
    """Test, and write the results; return False if it was cut short."""
    cfg, device = run.cfg, distributed.device()
    evaluated = evaluate_detector(
        run.model,
        run.loader,
        normalise=build_normalise(cfg, device),
        precision=build_precision(cfg, device),
        should_stop=run.should_stop,
    )
    if evaluated is None:
        return False
    if distributed.is_main():
        report_detection(
            evaluated,
            run.loader,
            output_dir=Path(cfg.OUTPUT_DIR),
            predictions_path=predictions_path(cfg),
            checkpoint=run.checkpoint,
            device=device,
        )
    return True


def _test_classifier(run: _TestRun) -> bool:
    """Test, and write the results; return False if it was cut short."""
    cfg, device = run.cfg, distributed.device()
    predictor = ViewPredictor(
        run.model,
        num_clips=cfg.TEST.NUM_ENSEMBLE_VIEWS,
        max_views=cfg.TEST.BATCH_SIZE // cfg.NUM_GPUS,
        normalise=build_normalise(cfg, device),
        precision=build_precision(cfg, device),
        activation=cfg.MODEL.HEAD_ACT,
        ensemble=cfg.DATA.ENSEMBLE_METHOD,
    )
    own = predict_all(
        predictor,
        run.loader,
        log_period=cfg.LOG_PERIOD,
        output_dir=cfg.OUTPUT_DIR,
        should_stop=run.should_stop,
    )
    run.loader.quarantine.share()
    if agreed(run.should_stop)():
        return False
    parts = [part for rank_parts in distributed.gather_objects(own) for part in rank_parts]
    read = sum(len(part.labels) for part in parts)
    say_what_was_read("The test", "video", read=read, expected=len(run.loader.dataset))
    if distributed.is_main():
        _report(cfg, parts, run.loader, checkpoint=run.checkpoint, device=device)
    return True


def predictions_path(cfg: CfgNode) -> Path:
    """Return where the predictions go; as in PySlowFast, the key's path is from OUTPUT_DIR."""
    suffix = "json" if is_detection(cfg) else "csv"
    return Path(cfg.OUTPUT_DIR) / (cfg.TEST.SAVE_RESULTS_PATH or f"results/predictions.{suffix}")


def _report(
    cfg: CfgNode,
    parts: Sequence[Predictions],
    loader: VideoLoader,
    *,
    checkpoint: Path,
    device: torch.device,
) -> None:
    dataset = loader.dataset
    assert isinstance(dataset, VideoDataset)
    predictions, left_out = merge(parts, bad=loader.quarantine.bad, num_videos=len(dataset))
    accuracy = measure(predictions)
    class_names = build_class_names(cfg)
    folder = Path(cfg.OUTPUT_DIR) / "results"
    write_results(
        folder,
        predictions,
        accuracy,
        left_out=left_out,
        class_names=class_names,
        predictions_path=predictions_path(cfg),
        facts={
            "num_second_tries": loader.quarantine.second_tries,
            "dataset_fingerprint": dataset.videos.paths.fingerprint(),
            "views": {"clips": cfg.TEST.NUM_ENSEMBLE_VIEWS, "crops": cfg.TEST.NUM_SPATIAL_CROPS},
            "ensemble": cfg.DATA.ENSEMBLE_METHOD,
            "checkpoint": str(checkpoint.resolve()),
            "checkpoint_sha256": sha256(checkpoint),
        },
    )
    _log.info("Test of %s\n%s", checkpoint, format_table(accuracy, class_names=class_names))
    _log.info("Results are in %s", folder)
    final = {"_type": "test_final", "top1_acc": accuracy.top1, "top5_acc": accuracy.top5}
    counts = {"num_videos": len(predictions.labels), "num_left_out": len(left_out)}
    log_json_stats(
        {**final, "mean_class_acc": accuracy.mean_class, **counts, **memory(device)},
        output_dir=cfg.OUTPUT_DIR,
    )
