"""The test: all views of every video, or a detector on every image."""

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
from stvit_video.engine.predict import Predictions, build_predictor, measure, merge, predict_all
from stvit_video.engine.results import build_class_names, format_table, write_results
from stvit_video.engine.resume import checkpoint_to_test, load_test_weights
from stvit_video.models import build_model
from stvit_video.runtime import distributed
from stvit_video.runtime.atomic_files import sha256
from stvit_video.runtime.distributed import ShouldStop, never, on_any_rank
from stvit_video.runtime.logging import get_logger, log_json_stats, setup_logging

# Keys that may change while a test is stopped: how fast and how patiently it is done, and by whom.
_WITHOUT_INFLUENCE = (
    *("NUM_SHARDS", "LOG_PERIOD", "DATA_LOADER", "DATA.DECODE_TIMEOUT", "DATA.MAX_BAD_VIDEOS"),
)

_log = get_logger(__name__)


def evaluate(cfg: CfgNode, *, should_stop: ShouldStop = never) -> None:
    """Test the model of a config on all views of every video, or a detector on every image.

    Called inside ``run_ranks``.

    Args:
        cfg: the config.
        should_stop: asked after every batch; once it says so on any rank, all of them return
            without results. Started again, a test of videos goes on with those that are left, and
            one of a detector begins anew.

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
    _log.info("%s", load_test_weights(cfg, model, path))
    compile_model(cfg, model)
    test_model = _test_detector if is_detection(cfg) else _test_classifier
    test_model(_TestRun(cfg, model, loader, path, should_stop))


@dataclass(frozen=True)
class _TestRun:
    """What a test takes: the model with its weights, those of ``checkpoint``, and the data."""

    cfg: CfgNode
    model: nn.Module
    loader: VideoLoader
    checkpoint: Path
    should_stop: ShouldStop


def _test_detector(run: _TestRun) -> None:
    """Test, and write the results unless it was cut short."""
    cfg, device = run.cfg, distributed.device()
    evaluated = evaluate_detector(
        run.model,
        run.loader,
        normalize=build_normalize(cfg, device),
        precision=build_precision(cfg, device),
        should_stop=run.should_stop,
    )
    if evaluated is None:
        _log.info("The test was stopped as asked; start again to do it anew")
        return
    if distributed.is_main():
        report_detection(
            evaluated,
            run.loader,
            output_dir=Path(cfg.OUTPUT_DIR),
            predictions_path=predictions_path(cfg),
            checkpoint=run.checkpoint,
            device=device,
        )


def _test_classifier(run: _TestRun) -> None:
    """Test, and write the results unless it was cut short."""
    cfg, loader = run.cfg, run.loader
    weights_hash = fingerprint = ""
    if distributed.is_main():
        weights_hash = sha256(run.checkpoint)
        fingerprint = _fingerprint(run, weights_hash)
    fingerprint = distributed.broadcast_object(fingerprint)
    stopped = PartialTest(cfg.OUTPUT_DIR, fingerprint=fingerprint)
    start, before = _go_on(run, stopped)
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
        # Also at its end, as others may fail before theirs.
        stopped.write(own, second_tries=loader.bad_video_log.read_by_fallback, start=start)
    loader.bad_video_log.share()
    if on_any_rank(run.should_stop)():
        _log.info("The test was stopped as asked; start again to go on with the videos left")
        return
    now = [part for parts in distributed.gather_objects(own) for part in parts]
    parts = [*before.parts, *now]
    read = distributed.broadcast_object(sum(map(len, parts)))
    report_unread("The test", "video", read=read, expected=len(loader.dataset))
    if distributed.is_main():
        facts = {
            "num_second_tries": len(before.second_tries | loader.bad_video_log.read_by_fallback),
            "checkpoint": str(run.checkpoint.resolve()),
            "checkpoint_sha256": weights_hash,
        }
        _report(run, parts, facts=facts)
        stopped.remove()


def _go_on(run: _TestRun, stopped: PartialTest) -> tuple[int, FinishedVideos]:
    """Leave out of the loader's batches what earlier starts have finished.

    Returns:
        the number of this start, and (on rank 0, which tells the others what they need to know)
        what was finished.
    """
    sampler = run.loader.batch_sampler
    assert isinstance(sampler, EvalBatchSampler)
    before = FinishedVideos()
    told: tuple[int, set[int]] = (0, set())
    if distributed.is_main():
        before = stopped.read()
        told = (stopped.last_start + 1, before.videos | run.loader.bad_video_log.crashing.keys())
    start, done = distributed.broadcast_object(told)
    sampler.skip(done)
    # A batch with a video that could not be read comes again as a whole: it may be mended.
    before = before.without(sampler.remaining)
    if before.videos:
        _log.info("Going on with a test that was stopped: %d videos are done", len(before.videos))
    return start, before


def _fingerprint(run: _TestRun, weights_hash: str) -> str:
    """Name a test by what its predictions depend on, but for the contents of the videos."""
    dataset = run.loader.dataset
    assert isinstance(dataset, VideoDataset)
    cfg = run.cfg.clone()
    for key in _WITHOUT_INFLUENCE:
        *path, name = key.split(".")
        node = cfg
        for part in path:
            node = node[part]
        del node[name]
    whole = (cfg.dump(), dataset.videos.paths.fingerprint(), weights_hash, fingerprint_code())
    return hashlib.sha256("\n".join(whole).encode()).hexdigest()


def predictions_path(cfg: CfgNode) -> Path:
    """Return where the predictions go; as in PySlowFast, the key's path is from OUTPUT_DIR."""
    suffix = "json" if is_detection(cfg) else "csv"
    return Path(cfg.OUTPUT_DIR) / (cfg.TEST.SAVE_RESULTS_PATH or f"results/predictions.{suffix}")


def _report(
    run: _TestRun,
    parts: Sequence[Predictions],
    *,
    facts: Mapping[str, object],
) -> None:
    cfg, dataset = run.cfg, run.loader.dataset
    assert isinstance(dataset, VideoDataset)
    predictions, left_out = merge(parts, bad=run.loader.bad_video_log.bad, num_videos=len(dataset))
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
            "dataset_fingerprint": dataset.videos.paths.fingerprint(),
            "views": {"clips": cfg.TEST.NUM_ENSEMBLE_VIEWS, "crops": cfg.TEST.NUM_SPATIAL_CROPS},
            "ensemble": cfg.DATA.ENSEMBLE_METHOD,
            **facts,
        },
    )
    _log.info("Test of %s\n%s", run.checkpoint, format_table(accuracy, class_names=class_names))
    _log.info("Results are in %s", folder)
    final = {"_type": "test_final", "top1_acc": accuracy.top1, "top5_acc": accuracy.top5}
    counts = {"num_videos": len(predictions.labels), "num_left_out": len(left_out)}
    log_json_stats(
        {
            **final,
            "mean_class_acc": accuracy.mean_class,
            **counts,
            **memory_stats(distributed.device()),
        },
        output_dir=cfg.OUTPUT_DIR,
    )
