"""Report the speed of the data loader, one section at a time."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

import torch
from fvcore.common.config import CfgNode

from stvit_video.benchmarks.loader import (
    PYTORCHVIDEO_DECODERS,
    MultiViewItems,
    PyTorchVideoClips,
    SingleViewItems,
    Source,
    SourceTiming,
    TrainingSamples,
    WorkerSpeed,
    benchmark_configs,
    compare_sources,
    time_steps,
    time_workers,
)
from stvit_video.benchmarks.models import compare
from stvit_video.data.build import build_dataset
from stvit_video.data.kinetics import MultiViewVideos, TrainingClips
from stvit_video.engine.precision import build_precision
from stvit_video.inference.media import Media
from stvit_video.models import build_model

_MIB = 2**20
_MODEL_ROUNDS = 1


def loader_report(
    config: str | Path,
    media: Media,
    *,
    folder: Path,
    overrides: Sequence[str] = (),
    rounds: int,
    clips: int,
    model_speed: float | None = None,
    device: torch.device,
) -> Iterator[str]:
    """Measure the loader of a config, and yield each section of the report.

    Args:
        config: the config file.
        media: files to read; at most ``clips`` of them are used, evenly spread.
        folder: an empty or new folder for CSV files or links to images.
        overrides: overrides of the config.
        rounds: timed passes over the files.
        clips: number of clips to load with the worker processes.
        model_speed: training speed of the model in clips per second; None to measure it on
            ``device``.
        device: device on which the model would train.
    """
    files = (
        [media.files[number * len(media.files) // clips] for number in range(clips)]
        if clips < len(media.files)
        else media.files
    )
    cfg, loader_cfg = benchmark_configs(
        config, Media(files, media.are_images), folder=folder, overrides=overrides
    )
    training, test = build_dataset(cfg, "train"), build_dataset(cfg, "test")
    assert isinstance(training, TrainingClips), type(training)
    assert isinstance(test, MultiViewVideos), type(test)
    description = (
        f"{len(files)} images as clips of 1 frame"
        if media.are_images
        else f"{len(files)} videos, clips of {cfg.DATA.NUM_FRAMES} frames at stride "
        f"{cfg.DATA.SAMPLING_RATE}"
    )
    decoder = training.videos.backend
    cores = os.cpu_count() or 1
    yield f"{description}, decoder {decoder}, {cores} cores; medians of {rounds} rounds\n"
    # PyTorchVideo has no image data sets.
    decoders = () if media.are_images else PYTORCHVIDEO_DECODERS
    yield from _compare_with_pytorchvideo(cfg, training, files, decoders=decoders, rounds=rounds)
    yield _format_steps(time_steps(training, rounds=rounds)) + "\n"
    if test.num_clips * test.crops.count > 1:
        yield _compare_with_single_views(test, rounds=max(3, rounds // 2)) + "\n"
    speed = time_workers(loader_cfg, clips=clips)
    yield _format_workers(speed, num_workers=cfg.DATA_LOADER.NUM_WORKERS, num_cores=cores)
    yield _format_model_speed(
        model_speed=model_speed or _measure_training_speed(loader_cfg, device),
        loader_speed=speed.clips / speed.seconds,
    )


def _compare_with_pytorchvideo(
    cfg: CfgNode,
    dataset: TrainingClips,
    videos: Sequence[Path],
    *,
    decoders: Sequence[str],
    rounds: int,
) -> Iterator[str]:
    for frames_only in (False, True):
        this_loader = f"this loader, {dataset.videos.backend}"
        others = {}
        for decoder in decoders:
            clips = PyTorchVideoClips(videos, decoder=decoder, cfg=cfg, frames_only=frames_only)
            name = f"LabeledVideoDataset, {decoder}"
            try:
                clips()
            except RuntimeError as error:
                yield f"{name} fails: {str(error).splitlines()[0]}"
            else:
                others[name] = clips
        sources: dict[str, Source] = {
            this_loader: TrainingSamples(dataset, frames_only=frames_only),
            **others,
        }
        timings = compare_sources(sources, rounds=rounds)
        title = "only the frames of clips" if frames_only else "samples, cropped and resized"
        table = _format_sources(timings, count=len(videos), item="clip", baseline=this_loader)
        yield f"{title}\n{table}\n"
        for name, clips in others.items():
            left_out = [video.name for i, video in enumerate(videos) if i not in clips.seen]
            if left_out:
                yield f"{name} cannot read {', '.join(left_out)}, and uses other videos instead\n"


def _compare_with_single_views(dataset: MultiViewVideos, *, rounds: int) -> str:
    name = f"an item of {dataset.num_clips}x{dataset.crops.count} views"
    sources: dict[str, Source] = {
        name: MultiViewItems(dataset),
        "the same views, one item each": SingleViewItems(dataset),
    }
    timings = compare_sources(sources, rounds=rounds)
    return _format_sources(timings, count=len(dataset), item="video", baseline=name)


def _measure_training_speed(cfg: CfgNode, device: torch.device) -> float:
    batch = cfg.TRAIN.BATCH_SIZE if device.type == "cuda" else 1
    size = cfg.DATA.TRAIN_CROP_SIZE
    timings = compare(
        {"model": build_model(cfg).to(device)},
        torch.randn(batch, 3, cfg.DATA.NUM_FRAMES, size, size, device=device),
        rounds=_MODEL_ROUNDS,
        amp=build_precision(cfg, device).dtype,
        train=True,
    )
    return batch / median(timings["model"].seconds)


def _format_sources(
    timings: Mapping[str, SourceTiming], *, count: int, item: str, baseline: str
) -> str:
    """Format a table of sources, with the speed of the baseline relative to each of the others.

    Args:
        timings: result of `compare_sources`.
        count: number of items that a source makes in a round.
        item: name of an item, such as "clip".
        baseline: name of the source that is compared with the others.
    """
    header = (f"{item}s/s", "CPU ms", "MB", "times as fast", "in CPU time")
    lines = [" " * 44 + " {:>9} {:>8} {:>6} {:>14} {:>12}".format(*header)]
    reference = timings[baseline]
    for name, timing in timings.items():
        wall, cpu = (
            median(b / a for a, b in zip(first, second, strict=True))
            for first, second in ((reference.wall, timing.wall), (reference.cpu, timing.cpu))
        )
        ratios = "" if timing is reference else f" {wall:>13.2f}x {cpu:>11.2f}x"
        lines.append(
            f"{name:<44} {count / median(timing.wall):>9.2f} "
            f"{median(timing.cpu) / count * 1e3:>8.1f} {timing.nbytes / 1e6:>6.1f}{ratios}"
        )
    return "\n".join(lines)


def _format_steps(seconds: Mapping[str, float]) -> str:
    """Format the CPU time and the share of each step of a sample."""
    total = sum(seconds.values())
    lines = [f"{'step of a clip':<14} {'CPU ms':>8} {'share':>6}"]
    lines += [f"{step:<14} {s * 1e3:>8.2f} {s / total:>6.0%}" for step, s in seconds.items()]
    return "\n".join([*lines, f"{'all':<14} {total * 1e3:>8.2f}"])


def _format_workers(speed: WorkerSpeed, *, num_workers: int, num_cores: int) -> str:
    """Format the speed of the loader, and the growth of its workers' memory."""
    rate = speed.clips / speed.seconds
    # Medians, because a worker may be in the middle of a video. The first tenth is ignored,
    # because workers allocate caches at the beginning.
    tenth = len(speed.memory) // 10
    sizes = [nbytes for _, nbytes in speed.memory]
    begin, end = median(sizes[tenth : 2 * tenth + 1]), median(sizes[-tenth - 1 :])
    workers = f"{num_workers} worker processes" if num_workers else "no worker process"
    return (
        f"the loader, {workers} on {num_cores} cores: {rate:.2f} clips/s "
        f"({speed.clips} clips in {speed.seconds:.1f} s)\n"
        f"memory of a worker: {end / max(1, num_workers) / _MIB:.0f} MiB, "
        f"{end / begin - 1:+.1%} from the second to the last tenth of the clips"
    )


def _format_model_speed(*, model_speed: float, loader_speed: float) -> str:
    """Format the share of the loader's speed that a model needs."""
    share = model_speed / loader_speed
    line = f"the model trains on {model_speed:.2f} clips/s: {share:.0%} of the loader's speed"
    if share < 1:
        return line
    return f"{line}; increase DATA_LOADER.NUM_WORKERS if cores are free, or use smaller files"
