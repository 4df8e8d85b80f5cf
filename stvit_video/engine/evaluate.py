"""Test a classifier on all views of every video, or a detector on every image."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fvcore.common.config import CfgNode
from torch import nn

from stvit_video.data.bad_videos import report_unread
from stvit_video.data.build import build_loader
from stvit_video.data.kinetics import VideoDataset
from stvit_video.data.loader import VideoLoader
from stvit_video.data.samplers import EvalBatchSampler
from stvit_video.engine.build import compile_model, is_detection
from stvit_video.engine.detection import evaluate_detector, report_detection
from stvit_video.engine.metrics import memory_stats
from stvit_video.engine.partial_test import FinishedVideos, PartialTest, fingerprint_code
from stvit_video.engine.precision import build_normalize, build_precision
from stvit_video.engine.predict import (
    Predictions,
    build_predictor,
    compute_accuracy,
    merge_predictions,
    predict_all,
)
from stvit_video.engine.results import build_class_names, format_table, write_results
from stvit_video.engine.resume import checkpoint_to_test, load_test_weights
from stvit_video.models import build_model
from stvit_video.runtime import distributed
from stvit_video.runtime.atomic_files import sha256
from stvit_video.runtime.distributed import ShouldStop, never, on_any_rank
from stvit_video.runtime.logging import get_logger, log_json_stats, setup_logging

# Config keys that do not affect predictions, so they may change when a test resumes.
_KEYS_WITHOUT_EFFECT = (
    "NUM_SHARDS",
    "LOG_PERIOD",
    "DATA_LOADER",
    "DATA.DECODE_TIMEOUT",
    "DATA.MAX_BAD_VIDEOS",
)

_log = get_logger(__name__)


def evaluate(cfg: CfgNode, *, should_stop: ShouldStop = never) -> None:
    """Test the model of a config on all views of every video, or a detector on every image.

    Called inside ``run_ranks``.

    Args:
        cfg: the config.
        should_stop: checked after every batch. If it is true on any rank, all ranks return without
            writing results. When run again, a classifier resumes with the remaining videos, and a
            detector starts over.

    Raises:
        UserError: there are no weights to test, they do not fit the model, the scores are not
            finite, or too many videos cannot be read.
    """
    setup_logging(cfg.OUTPUT_DIR)
    path = checkpoint_to_test(cfg)
    loader = build_loader(
        cfg, "test", rank=distributed.get_rank(), world_size=distributed.get_world_size()
    )
    device = distributed.device()
    model = build_model(cfg).to(device).eval()
    _log.info("%s", load_test_weights(cfg, model, path))
    compile_model(cfg, model)
    test_model = _test_detector if is_detection(cfg) else _test_classifier
    test_model(_TestRun(cfg, model, loader, path, should_stop))


def predictions_path(cfg: CfgNode) -> Path:
    """Return the file of predictions; TEST.SAVE_RESULTS_PATH is relative to OUTPUT_DIR.

    PySlowFast resolves the key the same way.
    """
    suffix = "json" if is_detection(cfg) else "csv"
    return Path(cfg.OUTPUT_DIR) / (cfg.TEST.SAVE_RESULTS_PATH or f"results/predictions.{suffix}")


@dataclass(frozen=True)
class _TestRun:
    """Config, model and data of a test; the weights come from ``checkpoint``."""

    cfg: CfgNode
    model: nn.Module
    loader: VideoLoader
    checkpoint: Path
    should_stop: ShouldStop


def _test_classifier(run: _TestRun) -> None:
    """Score the remaining videos, and write the results unless the test is stopped."""
    cfg, loader = run.cfg, run.loader
    weights_hash = fingerprint = ""
    if distributed.is_main():
        weights_hash = sha256(run.checkpoint)
        fingerprint = _fingerprint(run, weights_hash)
    fingerprint = distributed.broadcast_object(fingerprint)
    partial_test = PartialTest(cfg.OUTPUT_DIR, fingerprint=fingerprint)
    start, finished = _skip_finished(run, partial_test)
    own: list[Predictions] = []
    try:
        for part in predict_all(
            build_predictor(cfg, run.model, distributed.device()),
            loader,
            log_period=cfg.LOG_PERIOD,
            output_dir=cfg.OUTPUT_DIR,
            should_stop=run.should_stop,
        ):
            own.append(part)
    finally:
        # Needed even if this rank finishes, because another rank may still fail.
        partial_test.write(own, second_tries=loader.bad_video_log.read_by_fallback, start=start)
    loader.bad_video_log.share()
    if on_any_rank(run.should_stop)():
        _log.info("Test stopped as requested; run it again to test the remaining videos")
        return
    new = [part for parts in distributed.gather_objects(own) for part in parts]
    parts = [*finished.parts, *new]
    num_read = distributed.broadcast_object(sum(map(len, parts)))
    report_unread("The test", "video", read=num_read, expected=len(loader.dataset))
    if distributed.is_main():
        facts = {
            "num_second_tries": len(finished.second_tries | loader.bad_video_log.read_by_fallback),
            "checkpoint": str(run.checkpoint.resolve()),
            "checkpoint_sha256": weights_hash,
        }
        _report_classifier(run, parts, facts=facts)
        partial_test.remove()


def _fingerprint(run: _TestRun, weights_hash: str) -> str:
    """Hash everything that the predictions depend on, except the contents of the videos."""
    dataset = run.loader.dataset
    assert isinstance(dataset, VideoDataset)
    cfg = run.cfg.clone()
    for key in _KEYS_WITHOUT_EFFECT:
        *path, name = key.split(".")
        node = cfg
        for part in path:
            node = node[part]
        del node[name]
    parts = (cfg.dump(), dataset.videos.paths.fingerprint(), weights_hash, fingerprint_code())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _skip_finished(run: _TestRun, partial_test: PartialTest) -> tuple[int, FinishedVideos]:
    """Remove the videos that earlier starts finished from the loader's batches.

    Returns:
        the number of this start, and, on rank 0 only, the finished videos.
    """
    sampler = run.loader.batch_sampler
    assert isinstance(sampler, EvalBatchSampler)
    finished = FinishedVideos()
    shared: tuple[int, set[int]] = (0, set())
    if distributed.is_main():
        finished = partial_test.read()
        crashing = run.loader.bad_video_log.crashing.keys()
        shared = (partial_test.last_start + 1, finished.videos | crashing)
    start, skipped = distributed.broadcast_object(shared)
    sampler.skip(skipped)
    # A batch with an unreadable video is repeated as a whole: the video may have been fixed.
    finished = finished.without(sampler.remaining)
    if finished.videos:
        _log.info("Resuming a stopped test: %d videos are done", len(finished.videos))
    return start, finished


def _report_classifier(
    run: _TestRun, parts: Sequence[Predictions], *, facts: Mapping[str, object]
) -> None:
    cfg, dataset = run.cfg, run.loader.dataset
    assert isinstance(dataset, VideoDataset)
    predictions, left_out = merge_predictions(
        parts, bad=run.loader.bad_video_log.bad, num_videos=len(dataset)
    )
    accuracy = compute_accuracy(predictions)
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
            "dataset_fingerprint": dataset.videos.paths.fingerprint(),
            "views": {"clips": cfg.TEST.NUM_ENSEMBLE_VIEWS, "crops": cfg.TEST.NUM_SPATIAL_CROPS},
            "ensemble": cfg.DATA.ENSEMBLE_METHOD,
            **facts,
        },
    )
    _log.info("Test of %s\n%s", run.checkpoint, format_table(accuracy, class_names=class_names))
    _log.info("Results are in %s", folder)
    stats = {
        "_type": "test_final",
        "top1_acc": accuracy.top1,
        "top5_acc": accuracy.top5,
        "mean_class_acc": accuracy.mean_class,
        "num_videos": len(predictions.labels),
        "num_left_out": len(left_out),
        **memory_stats(distributed.device()),
    }
    log_json_stats(stats, output_dir=cfg.OUTPUT_DIR)


def _test_detector(run: _TestRun) -> None:
    """Detect in all images, and write the results unless the test is stopped."""
    cfg, device = run.cfg, distributed.device()
    evaluation = evaluate_detector(
        run.model,
        run.loader,
        normalize=build_normalize(cfg, device),
        precision=build_precision(cfg, device),
        should_stop=run.should_stop,
    )
    if evaluation is None:
        _log.info("Test stopped as requested; run it again to start over")
        return
    if distributed.is_main():
        report_detection(
            evaluation,
            run.loader,
            output_dir=Path(cfg.OUTPUT_DIR),
            predictions_path=predictions_path(cfg),
            checkpoint=run.checkpoint,
            device=device,
        )
