"""Evaluation: one clip of every video while training, all views of every video in the test."""

from collections.abc import Sequence
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import nn

from stvit_video.data.build import build_loader
from stvit_video.data.kinetics import VideoDataset
from stvit_video.data.loader import VideoLoader
from stvit_video.engine.accuracy import error_percent, topk_correct
from stvit_video.engine.build import compile_model, is_detection
from stvit_video.engine.checkpoint import newest_checkpoint, verify
from stvit_video.engine.class_names import build_class_names
from stvit_video.engine.detection.evaluate import evaluate_detector
from stvit_video.engine.detection.report import report_detection
from stvit_video.engine.durable import sha256
from stvit_video.engine.keep import best_checkpoint
from stvit_video.engine.meters import memory
from stvit_video.engine.precision import Normalise, Precision, build_normalise, build_precision
from stvit_video.engine.predict import ViewPredictor, predict_all
from stvit_video.engine.predictions import Predictions, measure, merge
from stvit_video.engine.results import format_table, write_results
from stvit_video.engine.statistics import share_running_statistics
from stvit_video.engine.stopping import ShouldStop, agreed, never, until
from stvit_video.errors import UserError
from stvit_video.models import LoadReport, build_model, load_weights
from stvit_video.runtime import distributed
from stvit_video.runtime.logging import get_logger, log_json_stats, progress, setup_logging

# TEST.CHECKPOINT_FILE_PATH of the checkpoint of the lowest validation error.
BEST = "best"

_log = get_logger(__name__)


@torch.no_grad()
def validate(
    model: nn.Module,
    loader: VideoLoader,
    *,
    normalise: Normalise,
    precision: Precision,
    loss_function: nn.Module,
    should_stop: ShouldStop = never,
) -> dict[str, float] | None:
    """Measure the mean loss and the errors in percent; every rank must call this.

    Ranks may have different numbers of batches, and batches of different sizes, because only
    sums meet at the end: the model must not be wrapped in DDP. Videos that cannot be read are
    left out, and a sentence in the log says so.

    Args:
        model: left in the mode, training or evaluation, that it was in; its running statistics,
            if it has any, become rank 0's.
        loader: this rank's share of the clips.
        normalise: uint8 video -> float video on the device.
        precision: of the forward passes.
        loss_function: (logits, labels) -> mean loss.
        should_stop: asked after every batch.

    Returns:
        ``loss``, ``top1_err`` and ``top5_err`` over the clips of all ranks, and their number,
        ``num_videos``; or None on all ranks, if any of them was asked to stop.

    Raises:
        UserError: too many videos cannot be read, or none can.
    """
    share_running_statistics(model)
    was_training = model.training
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=normalise.device)
    clips = 0
    batches = until(loader, should_stop)
    for batch in progress(batches, total=len(loader), description="validation"):
        video = normalise(batch["video"])
        labels = batch["label"].to(video.device, non_blocking=True)
        with precision.autocast():
            logits = model(video)
            loss_sum = loss_function(logits, labels) * len(labels)
        sums += torch.cat([loss_sum.view(1), topk_correct(logits, labels)])
        clips += len(labels)
    model.train(was_training)
    loader.quarantine.share()
    if agreed(should_stop)():
        return None
    all_clips, all_loss, top1, top5 = distributed.all_reduce_sum([clips, *sums.tolist()])
    _say_what_was_read("Validation", read=int(all_clips), expected=len(loader.dataset))
    return {
        "loss": all_loss / all_clips,
        "top1_err": error_percent(top1, all_clips),
        "top5_err": error_percent(top5, all_clips),
        "num_videos": int(all_clips),
    }


def _say_what_was_read(what: str, *, read: int, expected: int) -> None:
    """Log in a sentence how many videos an evaluation is not about.

    Raises:
        UserError: none could be read, so there is no accuracy.
    """
    if not read:
        raise UserError(
            f"{what} is over no video: none of its {expected} could be read; quarantine.csv in "
            "OUTPUT_DIR says why."
        )
    if read < expected:
        _log.warning(
            "%s is over %d of %d videos: %d could not be read (quarantine.csv says why)",
            *(what, read, expected, expected - read),
        )


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
    if not test_model(cfg, model, loader, checkpoint=path, should_stop=should_stop):
        _log.info("The test was stopped as asked; start again to do it anew")


def _test_detector(
    cfg: CfgNode,
    model: nn.Module,
    loader: VideoLoader,
    *,
    checkpoint: Path,
    should_stop: ShouldStop,
) -> bool:
    """Test, and write the results; return False if it was cut short."""
    device = distributed.device()
    evaluated = evaluate_detector(
        model,
        loader,
        normalise=build_normalise(cfg, device),
        precision=build_precision(cfg, device),
        should_stop=should_stop,
    )
    if evaluated is None:
        return False
    if distributed.is_main():
        report_detection(
            evaluated,
            loader,
            output_dir=Path(cfg.OUTPUT_DIR),
            predictions_path=predictions_path(cfg),
            checkpoint=checkpoint,
            device=device,
        )
    return True


def _test_classifier(
    cfg: CfgNode,
    model: nn.Module,
    loader: VideoLoader,
    *,
    checkpoint: Path,
    should_stop: ShouldStop,
) -> bool:
    """Test, and write the results; return False if it was cut short."""
    device = distributed.device()
    predictor = ViewPredictor(
        model,
        num_clips=cfg.TEST.NUM_ENSEMBLE_VIEWS,
        max_views=cfg.TEST.BATCH_SIZE // cfg.NUM_GPUS,
        normalise=build_normalise(cfg, device),
        precision=build_precision(cfg, device),
        activation=cfg.MODEL.HEAD_ACT,
        ensemble=cfg.DATA.ENSEMBLE_METHOD,
    )
    own = predict_all(
        predictor,
        loader,
        log_period=cfg.LOG_PERIOD,
        output_dir=cfg.OUTPUT_DIR,
        should_stop=should_stop,
    )
    loader.quarantine.share()
    if agreed(should_stop)():
        return False
    parts = [part for rank_parts in distributed.gather_objects(own) for part in rank_parts]
    read = sum(len(part.labels) for part in parts)
    _say_what_was_read("The test", read=read, expected=len(loader.dataset))
    if distributed.is_main():
        _report(cfg, parts, loader, checkpoint=checkpoint, device=device)
    return True


def load_tested_weights(cfg: CfgNode, model: nn.Module, path: Path) -> LoadReport:
    """Fill ``model`` with the weights of a checkpoint, or (EMA.EVAL) with their average.

    Raises:
        UserError: the file cannot be read, does not fit, or holds no average.
    """
    averaged = cfg.EMA.ENABLE and cfg.EMA.EVAL
    if averaged:
        # As the validation measures it, whatever MODEL.PARAM_DTYPE is.
        model.float()
    return load_weights(model, path, min_share=1.0, averaged=averaged)


def checkpoint_to_test(cfg: CfgNode) -> Path:
    """Return the file of TEST.CHECKPOINT_FILE_PATH, else the newest checkpoint in OUTPUT_DIR.

    "best" is the checkpoint in OUTPUT_DIR of the lowest validation error.

    Raises:
        UserError: there is neither, or the file is damaged: a test of random weights is never
            what was meant.
    """
    if cfg.TEST.CHECKPOINT_FILE_PATH:
        path = Path(cfg.TEST.CHECKPOINT_FILE_PATH)
        if cfg.TEST.CHECKPOINT_FILE_PATH == BEST:
            path = best_checkpoint(cfg.OUTPUT_DIR)
        verify(path)
        return path
    newest = newest_checkpoint(cfg.OUTPUT_DIR)
    if newest is None:
        raise UserError(
            f"There are no weights to test: TEST.CHECKPOINT_FILE_PATH is empty and OUTPUT_DIR "
            f"{cfg.OUTPUT_DIR} holds no checkpoint; set the former, or train first "
            "(TRAIN.ENABLE True)."
        )
    return newest


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
