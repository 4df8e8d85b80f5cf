"""A report of the data loader's speed, part by part as it is measured."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

import torch
from fvcore.common.config import CfgNode

from stvit_video.benchmarks.loader import (
    PEER_DECODERS,
    OneItemForAllViews,
    OneItemForEachView,
    OurClips,
    PeerClips,
    Source,
    SourceTiming,
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
    """Measure the loader of a config, and yield what was found.

    Args:
        config: file of the config.
        media: what to read: at most ``clips`` files of it, evenly spread.
        folder: an empty or new place for CSV files, or links to images.
        overrides: of the config.
        rounds: passes over the videos that count.
        clips: to load through the worker processes.
        model_speed: clips a second that the model trains on; None: measured on ``device``.
        device: where the model would train.
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
    what = (
        f"{len(files)} images as clips of 1 frame"
        if media.are_images
        else f"{len(files)} videos, clips of {cfg.DATA.NUM_FRAMES} frames at stride "
        f"{cfg.DATA.SAMPLING_RATE}"
    )
    decoder = training.videos.backend
    cores = os.cpu_count() or 1
    yield f"{what}, decoder {decoder}, {cores} cores; medians of {rounds} rounds\n"
    # PyTorchVideo has no data set of images.
    decoders = () if media.are_images else PEER_DECODERS
    yield from _against_peers(cfg, training, files, decoders=decoders, rounds=rounds)
    yield report_steps(time_steps(training, rounds=rounds)) + "\n"
    if test.num_clips * test.crops.count > 1:
        yield _against_single_views(test, rounds=max(3, rounds // 2)) + "\n"
    speed = time_workers(loader_cfg, clips=clips)
    yield report_workers(speed, num_workers=cfg.DATA_LOADER.NUM_WORKERS, num_cores=cores)
    yield report_need(
        model_speed=model_speed or _training_speed(loader_cfg, device),
        loader_speed=speed.clips / speed.seconds,
    )


def _against_peers(
    cfg: CfgNode,
    dataset: TrainingClips,
    videos: Sequence[Path],
    *,
    decoders: Sequence[str],
    rounds: int,
) -> Iterator[str]:
    for frames_only in (False, True):
        ours = f"this loader, {dataset.videos.backend}"
        peers = {}
        for decoder in decoders:
            peer = PeerClips(videos, decoder=decoder, cfg=cfg, frames_only=frames_only)
            name = f"LabeledVideoDataset, {decoder}"
            try:
                peer()
            except RuntimeError as error:
                yield f"{name} fails: {str(error).splitlines()[0]}"
            else:
                peers[name] = peer
        sources: dict[str, Source] = {ours: OurClips(dataset, frames_only=frames_only), **peers}
        timings = compare_sources(sources, rounds=rounds)
        title = "the clip's frames alone" if frames_only else "samples, cropped and resized"
        table = report_sources(timings, count=len(videos), item="clip", against=ours)
        yield f"{title}\n{table}\n"
        for name, peer in peers.items():
            left_out = [video.name for i, video in enumerate(videos) if i not in peer.seen]
            if left_out:
                yield f"{name} cannot read {', '.join(left_out)}, and takes others instead\n"


def _against_single_views(dataset: MultiViewVideos, *, rounds: int) -> str:
    name = f"an item of {dataset.num_clips}x{dataset.crops.count} views"
    sources: dict[str, Source] = {
        name: OneItemForAllViews(dataset),
        "the same views, an item each": OneItemForEachView(dataset),
    }
    timings = compare_sources(sources, rounds=rounds)
    return report_sources(timings, count=len(dataset), item="video", against=name)


def _training_speed(cfg: CfgNode, device: torch.device) -> float:
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


def report_sources(
    timings: Mapping[str, SourceTiming], *, count: int, item: str, against: str
) -> str:
    """Write a table of sources, with how many times as fast one of them is as each other one.

    Args:
        timings: of `compare_sources`.
        count: items that a source makes in a round.
        item: what they are: "clip".
        against: name of the source that is compared with the others.
    """
    header = (f"{item}s/s", "CPU ms", "MB", "times as fast", "in CPU time")
    lines = [" " * 44 + " {:>9} {:>8} {:>6} {:>14} {:>12}".format(*header)]
    ours = timings[against]
    for name, timing in timings.items():
        wall, cpu = (
            median(b / a for a, b in zip(first, second, strict=True))
            for first, second in ((ours.wall, timing.wall), (ours.cpu, timing.cpu))
        )
        ratios = "" if timing is ours else f" {wall:>13.2f}x {cpu:>11.2f}x"
        lines.append(
            f"{name:<44} {count / median(timing.wall):>9.2f} "
            f"{median(timing.cpu) / count * 1e3:>8.1f} {timing.nbytes / 1e6:>6.1f}{ratios}"
        )
    return "\n".join(lines)


def report_steps(seconds: Mapping[str, float]) -> str:
    """Write what each step of a sample takes, and its share."""
    total = sum(seconds.values())
    lines = [f"{'step of a clip':<14} {'CPU ms':>8} {'share':>6}"]
    lines += [f"{step:<14} {s * 1e3:>8.2f} {s / total:>6.0%}" for step, s in seconds.items()]
    return "\n".join([*lines, f"{'all':<14} {total * 1e3:>8.2f}"])


def report_workers(speed: WorkerSpeed, *, num_workers: int, num_cores: int) -> str:
    """Write how fast the loader was, and how its workers' memory went."""
    rate = speed.clips / speed.seconds
    # Medians, for a worker may be in the middle of a video; without the first tenth, in which it
    # takes up what it needs once.
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


def report_need(*, model_speed: float, loader_speed: float) -> str:
    """Write what share of the loader's speed a model needs."""
    share = model_speed / loader_speed
    line = f"the model trains on {model_speed:.2f} clips/s: {share:.0%} of the loader's speed"
    if share < 1:
        return line
    return f"{line}; more DATA_LOADER.NUM_WORKERS, if there are cores for them, or smaller files"
