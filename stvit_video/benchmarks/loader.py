"""Measure the data loader: against PyTorchVideo, step by step, and with worker processes."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from fvcore.common.config import CfgNode
from pytorchvideo.data import LabeledVideoDataset, make_clip_sampler
from torch import Tensor
from torch.utils.data import SequentialSampler

from stvit_video.config import load_config
from stvit_video.data.build import build_loader
from stvit_video.data.kinetics import MultiViewVideos, TrainingClips
from stvit_video.data.pytorchvideo import pytorchvideo_functional
from stvit_video.data.samplers import SampleKey, generator_for
from stvit_video.data.workers import collate
from stvit_video.errors import UserError
from stvit_video.inference.media import Media

# Function that makes one sample of each video, and returns the size of one in bytes.
Source = Callable[[], int]

STEPS = ("open", "seek", "decode", "transform", "collate")
PYTORCHVIDEO_DECODERS = ("pyav", "decord")
# PyTorchVideo measures clips in seconds, so one frame rate is assumed for all videos.
_PYTORCHVIDEO_FPS = 30
# Batches per worker in an epoch of `time_workers`.
_BATCHES_PER_WORKER = 4
# The classes of images do not matter here, but a config has at least two.
_NUM_CLASSES = 2


class TrainingSamples:
    """Training samples of a data set, or only their frames; each call makes one of every video."""

    def __init__(self, dataset: TrainingClips, *, frames_only: bool = False) -> None:
        self._dataset = dataset
        self._frames_only = frames_only
        self._epoch = 0

    def __call__(self) -> int:
        """Make the samples, and return the size of the last video in bytes."""
        self._epoch += 1
        for index in range(len(self._dataset)):
            video = self._frames(index) if self._frames_only else self._sample(index)
        return video.nbytes

    def _sample(self, index: int) -> Tensor:
        return collate([self._dataset[SampleKey(index, self._epoch)]])["video"]

    def _frames(self, index: int) -> Tensor:
        sampling = self._dataset.sampling
        with self._dataset.videos.open(index) as reader:
            return reader.get_frames(
                sampling.random_clip(reader.num_frames, fps=reader.fps, generator=None)
            )


class PyTorchVideoClips:
    """PyTorchVideo's samples of the same length and size; each call makes one of every video.

    PyTorchVideo decodes every frame of a clip, and its transforms choose frames afterwards.
    """

    def __init__(
        self, files: Sequence[Path], *, decoder: str, cfg: CfgNode, frames_only: bool = False
    ) -> None:
        self._count = len(files)
        seconds = cfg.DATA.NUM_FRAMES * cfg.DATA.SAMPLING_RATE / _PYTORCHVIDEO_FPS
        self._dataset = LabeledVideoDataset(
            [(str(file), {"label": 0}) for file in files],
            make_clip_sampler("random", seconds),
            video_sampler=SequentialSampler,
            transform=_pytorchvideo_subsample(cfg) if frames_only else _pytorchvideo_transform(cfg),
            decode_audio=False,
            decoder=decoder,
        )
        self._samples: Iterator[dict[str, Any]] = iter(())
        self.seen: set[int] = set()

    def __call__(self) -> int:
        """Make the samples, and return the size of the last video in bytes.

        PyTorchVideo replaces an unreadable video by the next one; ``seen`` holds the indices of
        the videos that were read.

        Raises:
            RuntimeError: none of the videos can be read.
        """
        for _ in range(self._count):
            sample = self._next()
            self.seen.add(sample["video_index"])
        return sample["video"].nbytes

    def _next(self) -> dict[str, Any]:
        sample = next(self._samples, None)
        if sample is None:
            self._samples = iter(self._dataset)
            sample = next(self._samples, None)
        if sample is None:
            raise RuntimeError("PyTorchVideo can read none of the videos")
        return sample


def _pytorchvideo_subsample(cfg: CfgNode) -> Callable[[dict[str, Any]], dict[str, Any]]:
    subsample = pytorchvideo_functional().uniform_temporal_subsample

    def transform(sample: dict[str, Any]) -> dict[str, Any]:
        return {**sample, "video": subsample(sample["video"], cfg.DATA.NUM_FRAMES)}

    return transform


def _pytorchvideo_transform(cfg: CfgNode) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Subsample, crop and flip; without normalization, which this loader does not do either."""
    size = cfg.DATA.TRAIN_CROP_SIZE
    subsample = _pytorchvideo_subsample(cfg)
    crop = partial(
        pytorchvideo_functional().random_resized_crop,
        target_height=size,
        target_width=size,
        scale=cfg.DATA.TRAIN_JITTER_SCALES_RELATIVE or (0.08, 1.0),
        aspect_ratio=cfg.DATA.TRAIN_JITTER_ASPECT_RELATIVE or (0.75, 1.3333),
    )

    def transform(sample: dict[str, Any]) -> dict[str, Any]:
        video = crop(subsample(sample)["video"])
        return {**sample, "video": video.flip(-1) if torch.rand(()) < 0.5 else video}

    return transform


@dataclass
class MultiViewItems:
    """Items of the test; each has all views of a video."""

    dataset: MultiViewVideos

    def __call__(self) -> int:
        """Make the items, and return the size of the last video in bytes."""
        for index in range(len(self.dataset)):
            item = self.dataset[index]
        return item["video"].nbytes


@dataclass
class SingleViewItems:
    """The same views as separate items: each opens, decodes, resizes and crops the video."""

    dataset: MultiViewVideos

    def __call__(self) -> int:
        """Make the items, and return the size of all views of the last video in bytes."""
        crops = self.dataset.crops
        for index in range(len(self.dataset)):
            views = [
                self._view(index, clip=clip, crop=crop).nbytes
                for clip in range(self.dataset.num_clips)
                for crop in range(crops.count)
            ]
        return sum(views)

    def _view(self, index: int, *, clip: int, crop: int) -> Tensor:
        dataset = self.dataset
        with dataset.videos.open(index) as reader:
            clips = dataset.sampling.views(
                reader.num_frames, fps=reader.fps, num_views=dataset.num_clips
            )
            frames = reader.get_frames(clips[clip], transform=dataset.crops.resize)
        view = dataset.crops.crop(frames.permute(3, 0, 1, 2))[crop]
        return view.movedim(0, -1).contiguous().movedim(-1, 0)


@dataclass
class SourceTiming:
    """Times of a source of clips.

    Attributes:
        wall: seconds of each round.
        cpu: CPU seconds of each round, over all threads of this process.
        nbytes: size of the video of one sample in bytes.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    nbytes: int = 0


@dataclass(frozen=True)
class WorkerSpeed:
    """Speed and memory of the loader with its worker processes.

    Attributes:
        clips: number of timed clips.
        seconds: time to load them.
        memory: [(clips loaded so far, private memory of all workers in bytes)].
    """

    clips: int
    seconds: float
    memory: list[tuple[int, int]]


def compare_sources(sources: Mapping[str, Source], *, rounds: int) -> dict[str, SourceTiming]:
    """Time sources; each of ``rounds`` rounds runs all of them, after one warm-up round.

    PyTorch uses one thread, as in a worker process; decoders use their default number.
    """
    timings = {name: SourceTiming() for name in sources}
    with _one_thread():
        for name, source in sources.items():
            timings[name].nbytes = source()
        for _ in range(rounds):
            for name, source in sources.items():
                wall_start, cpu_start = time.perf_counter(), time.process_time()
                source()
                timings[name].wall.append(time.perf_counter() - wall_start)
                timings[name].cpu.append(time.process_time() - cpu_start)
    return timings


def time_steps(dataset: TrainingClips, *, rounds: int) -> dict[str, float]:
    """Return the mean CPU seconds of each step of a training sample.

    Seeking lasts until the first frame of the clip is decoded; it includes the jump to the
    preceding key frame and decoding from there. Cropping frames is part of decoding.
    """
    seconds: dict[str, float] = defaultdict(float)
    keys = [SampleKey(i, epoch) for epoch in range(rounds) for i in range(len(dataset))]
    with _one_thread():
        for key in keys:
            _time_sample(dataset, key, seconds=seconds)
    return {step: seconds[step] / len(keys) for step in STEPS}


def _time_sample(dataset: TrainingClips, key: SampleKey, *, seconds: dict[str, float]) -> None:
    generator = generator_for(key, seed=dataset.seed)
    cut = dataset.transform.make_crop(generator=generator)
    frame_times: list[float] = []

    def timed_cut(frame: Tensor) -> Tensor:
        frame_times.append(time.thread_time())
        return cut(frame)

    start_time = time.thread_time()
    with dataset.videos.open(key.index) as reader:
        opened = time.thread_time()
        indices = dataset.sampling.random_clip(
            reader.num_frames, fps=reader.fps, generator=generator
        )
        frames = reader.get_frames(indices, transform=timed_cut)
        decoded = time.thread_time()
    video = dataset.transform.finish(frames, generator=generator)
    transformed = time.thread_time()
    collate([{"video": video, "clip_index": 0, **dataset.videos.metadata(key.index)}])
    ends = (opened, frame_times[0], decoded, transformed, time.thread_time())
    for step, start, end in zip(STEPS, (start_time, *ends), ends, strict=False):
        seconds[step] += end - start


def time_workers(cfg: CfgNode, *, clips: int) -> WorkerSpeed:
    """Load at least ``clips`` training clips through the worker processes of the config.

    The first batches, one for each worker, are not timed.
    """
    loader = build_loader(cfg, "train", rank=0, world_size=1)
    warm_up = max(1, cfg.DATA_LOADER.NUM_WORKERS)
    memory: list[tuple[int, int]] = []
    batches = epoch = clips_timed = 0
    start = time.perf_counter()
    while clips_timed < clips:
        loader.batch_sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        epoch += 1
        for batch in loader:
            batches += 1
            if batches == warm_up:
                start = time.perf_counter()
            clips_timed += len(batch["video"]) if batches > warm_up else 0
            if batches >= warm_up and batches % warm_up == 0:
                memory.append((clips_timed, _worker_memory()))
    return WorkerSpeed(clips=clips_timed, seconds=time.perf_counter() - start, memory=memory)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _worker_memory() -> int:
    """Return the resident bytes of the child processes, or of this process if it has none.

    Mapped files and the shared memory of batches are excluded. Pages inherited from the parent
    are included, because they become the worker's own once the parent changes them.
    """
    current = psutil.Process()
    sizes = [process.memory_info() for process in current.children() or [current]]
    return sum(size.rss - size.shared for size in sizes)


def benchmark_configs(
    path: str | Path, media: Media, *, folder: Path, overrides: Sequence[str] = ()
) -> tuple[CfgNode, CfgNode]:
    """Load two variants of a config that read the given files on one rank.

    Args:
        path: the config.
        media: videos, or images for a config that reads images.
        folder: folder for CSV files, or for folders of links to the images.
        overrides: overrides of the config.

    Returns:
        a config whose training and test sets have every file once, and a config whose training
        set repeats the files until every worker has several batches.

    Raises:
        UserError: a file is missing, or the config reads another kind of files.
    """
    cfg = load_config(path, overrides)
    _check_media(path, cfg, media)
    batch = cfg.TRAIN.BATCH_SIZE // cfg.NUM_GPUS
    files = [file.resolve() for file in media.files]
    repeats = -(-_BATCHES_PER_WORKER * max(1, cfg.DATA_LOADER.NUM_WORKERS) * batch // len(files))

    def load(name: str, *, repeats: int, batch: int, extra: Sequence[str] = ()) -> CfgNode:
        if media.are_images:
            _link_images(folder / name, files * repeats)
            data = ["MODEL.NUM_CLASSES", f"{_NUM_CLASSES}"]
        else:
            lines = [f"{file}{cfg.DATA.PATH_LABEL_SEPARATOR}0\n" for file in files]
            _write_csv_files(folder / name, lines * repeats)
            data = ["DATA.PATH_PREFIX", ""]
        data += ["DATA.PATH_TO_DATA_DIR", f"{folder / name}"]
        one_rank = ["NUM_GPUS", "1", "NUM_SHARDS", "1", "SHARD_ID", "0", "OUTPUT_DIR", f"{folder}"]
        # Mixup runs on the device, not in the loader, and needs more than one clip.
        sizes = ["TRAIN.BATCH_SIZE", f"{batch}", "TEST.BATCH_SIZE", "1", "MIXUP.ENABLE", "False"]
        return load_config(path, [*overrides, *one_rank, *data, *sizes, *extra])

    once = load("once", repeats=1, batch=1, extra=["AUG.NUM_SAMPLE", "1"])
    return once, load("often", repeats=repeats, batch=batch)


def _check_media(path: str | Path, cfg: CfgNode, media: Media) -> None:
    missing = [file for file in media.files if not file.is_file()]
    if missing:
        raise UserError(f"{missing[0]} does not exist: give existing files.")
    kinds = {"kinetics": "videos", "imagenet": "images"}
    dataset = cfg.TRAIN.DATASET
    if dataset not in kinds:
        raise UserError(
            f"--loader measures loaders of videos or images, but TRAIN.DATASET of {path} is "
            f'"{dataset}": use another config.'
        )
    if media.are_images != (kinds[dataset] == "images"):
        raise UserError(
            f'TRAIN.DATASET "{dataset}" of {path} reads {kinds[dataset]}, but {media.files[0]} is '
            f"of another kind: give {kinds[dataset]} with --videos."
        )
    if media.are_images and len(media.files) < _NUM_CLASSES:
        raise UserError(
            f"--loader needs at least {_NUM_CLASSES} images, but {media.files[0]} is the only one: "
            "give more images, and --clips of at least 2."
        )


def _write_csv_files(folder: Path, lines: Sequence[str]) -> None:
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"{split}.csv").write_text("".join(lines))


def _link_images(folder: Path, files: Sequence[Path]) -> None:
    for split in ("train", "val"):
        for number, file in enumerate(files):
            # The number makes the name unique, and the original name helps in messages.
            link = folder / split / f"{number % _NUM_CLASSES}" / f"{number}-{file.name}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
