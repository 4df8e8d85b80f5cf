"""Speed of the data loader: against PyTorchVideo's, by step, over worker processes."""

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

# Makes one sample of each video, and returns the bytes of a sample's video.
Source = Callable[[], int]

PEER_DECODERS = ("pyav", "decord")
# PyTorchVideo measures clips in seconds, for all videos alike.
_PEER_FPS = 30


class OurClips:
    """Training samples of a data set, one of each video a call, or their frames alone."""

    def __init__(self, dataset: TrainingClips, *, frames_only: bool = False) -> None:
        self._dataset = dataset
        self._frames_only = frames_only
        self._epoch = 0

    def __call__(self) -> int:
        """Make the samples; returns the bytes of the last one's video."""
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


class PeerClips:
    """PyTorchVideo's samples of the same length and size, one of each video a call.

    Of a clip it decodes every frame, from which its own transforms take those that are wanted.
    """

    def __init__(
        self, files: Sequence[Path], *, decoder: str, cfg: CfgNode, frames_only: bool = False
    ) -> None:
        self._count = len(files)
        seconds = cfg.DATA.NUM_FRAMES * cfg.DATA.SAMPLING_RATE / _PEER_FPS
        self._dataset = LabeledVideoDataset(
            [(str(file), {"label": 0}) for file in files],
            make_clip_sampler("random", seconds),
            video_sampler=SequentialSampler,
            transform=_peer_subsample(cfg) if frames_only else _peer_transform(cfg),
            decode_audio=False,
            decoder=decoder,
        )
        self._samples: Iterator[dict[str, Any]] = iter(())
        self.seen: set[int] = set()

    def __call__(self) -> int:
        """Make the samples; returns the bytes of the last one's video.

        What it cannot read it replaces by the next video: ``seen`` holds the indices it read.

        Raises:
            RuntimeError: it can read none.
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


def _peer_subsample(cfg: CfgNode) -> Callable[[dict[str, Any]], dict[str, Any]]:
    subsample = pytorchvideo_functional().uniform_temporal_subsample

    def transform(sample: dict[str, Any]) -> dict[str, Any]:
        return {**sample, "video": subsample(sample["video"], cfg.DATA.NUM_FRAMES)}

    return transform


def _peer_transform(cfg: CfgNode) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Its subsampling, random resized crop and flip; not its normalization, as ours is later."""
    size = cfg.DATA.TRAIN_CROP_SIZE
    subsample = _peer_subsample(cfg)
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
class OneItemForAllViews:
    """All test views of each video as the items that testing reads."""

    dataset: MultiViewVideos

    def __call__(self) -> int:
        """Make the items; returns the bytes of the last one's video."""
        for index in range(len(self.dataset)):
            item = self.dataset[index]
        return item["video"].nbytes


@dataclass
class OneItemForEachView:
    """The same views, each an item for itself: opened, decoded, resized and cropped alone."""

    dataset: MultiViewVideos

    def __call__(self) -> int:
        """Make the items; returns the bytes of all those of the last video."""
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


# Batches of each worker in an epoch of `time_workers`.
_BATCHES_A_WORKER = 4
# Which class an image is of matters not, and a config has at least two.
_CLASSES = 2

STEPS = ("open", "seek", "decode", "transform", "collate")


@dataclass
class SourceTiming:
    """What one source of clips took, round by round.

    Attributes:
        wall: seconds of each round.
        cpu: seconds of CPU time of each round, of all threads of this process.
        nbytes: of one sample's video.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    nbytes: int = 0


@dataclass(frozen=True)
class WorkerSpeed:
    """What the loader with its worker processes did.

    Attributes:
        clips: how many were loaded in the time that counts.
        seconds: how long that took.
        memory: [(clips loaded so far, bytes of the workers' own memory, in all)].
    """

    clips: int
    seconds: float
    memory: list[tuple[int, int]]


def compare_sources(sources: Mapping[str, Source], *, rounds: int) -> dict[str, SourceTiming]:
    """Time sources, all of them in each of ``rounds`` rounds, after a round that does not count.

    PyTorch works in one thread, as in a worker process; a decoder in as many as it likes.
    """
    timings = {name: SourceTiming() for name in sources}
    with _one_thread():
        for name, source in sources.items():
            timings[name].nbytes = source()
        for _ in range(rounds):
            for name, source in sources.items():
                wall, cpu = time.perf_counter(), time.process_time()
                source()
                timings[name].wall.append(time.perf_counter() - wall)
                timings[name].cpu.append(time.process_time() - cpu)
    return timings


def time_steps(dataset: TrainingClips, *, rounds: int) -> dict[str, float]:
    """Measure the seconds of CPU time that each step of a training sample takes on average.

    Seeking is all until the first frame of the clip is there: the jump to the key frame before it,
    and decoding from there. Cutting frames out is a part of decoding.
    """
    spent: dict[str, float] = defaultdict(float)
    keys = [SampleKey(i, epoch) for epoch in range(rounds) for i in range(len(dataset))]
    with _one_thread():
        for key in keys:
            _time_sample(dataset, key, spent=spent)
    return {step: spent[step] / len(keys) for step in STEPS}


def _time_sample(dataset: TrainingClips, key: SampleKey, *, spent: dict[str, float]) -> None:
    generator = generator_for(key, seed=dataset.seed)
    cut = dataset.transform.make_crop(generator=generator)
    found: list[float] = []

    def noticed(frame: Tensor) -> Tensor:
        found.append(time.thread_time())
        return cut(frame)

    begun = time.thread_time()
    with dataset.videos.open(key.index) as reader:
        opened = time.thread_time()
        indices = dataset.sampling.random_clip(
            reader.num_frames, fps=reader.fps, generator=generator
        )
        frames = reader.get_frames(indices, transform=noticed)
        decoded = time.thread_time()
    video = dataset.transform.finish(frames, generator=generator)
    transformed = time.thread_time()
    collate([{"video": video, "clip_index": 0, **dataset.videos.metadata(key.index)}])
    ends = (opened, found[0], decoded, transformed, time.thread_time())
    for step, start, end in zip(STEPS, (begun, *ends), ends, strict=False):
        spent[step] += end - start


def time_workers(cfg: CfgNode, *, clips: int) -> WorkerSpeed:
    """Load at least ``clips`` training clips through the worker processes of the config.

    What the workers have loaded when each of them has given a batch does not count.
    """
    loader = build_loader(cfg, "train", rank=0, world_size=1)
    warm_up = max(1, cfg.DATA_LOADER.NUM_WORKERS)
    memory: list[tuple[int, int]] = []
    loaded = epoch = counted = 0
    began = time.perf_counter()
    while counted < clips:
        loader.batch_sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        epoch += 1
        for batch in loader:
            loaded += 1
            if loaded == warm_up:
                began = time.perf_counter()
            counted += len(batch["video"]) if loaded > warm_up else 0
            if loaded >= warm_up and loaded % warm_up == 0:
                memory.append((counted, _memory_of_workers()))
    return WorkerSpeed(clips=counted, seconds=time.perf_counter() - began, memory=memory)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _memory_of_workers() -> int:
    """Bytes that the child processes have in memory, or this one, if it has none.

    Without files and without the shared memory of batches on their way; what a worker has from
    its parent counts, for it becomes the worker's own when the parent changes it.
    """
    this = psutil.Process()
    sizes = [process.memory_info() for process in this.children() or [this]]
    return sum(size.rss - size.shared for size in sizes)


def benchmark_configs(
    path: str | Path, media: Media, *, folder: Path, overrides: Sequence[str] = ()
) -> tuple[CfgNode, CfgNode]:
    """Load a config for one rank with some files as its data sets, in two ways.

    Args:
        path: the config.
        media: videos, or images for a config of images.
        folder: gets CSV files, or folders of links to the images.
        overrides: of the config.

    Returns:
        One whose training and test sets hold every file once; and one whose training set repeats
        them until all workers have several batches.

    Raises:
        UserError: a file is missing, or the files are not of the kind that the config reads.
    """
    cfg = load_config(path, overrides)
    _check_media(path, cfg, media)
    batch = cfg.TRAIN.BATCH_SIZE // cfg.NUM_GPUS
    files = [file.resolve() for file in media.files]
    enough = -(-_BATCHES_A_WORKER * max(1, cfg.DATA_LOADER.NUM_WORKERS) * batch // len(files))

    def over(name: str, *, repeats: int, batch: int, extra: Sequence[str] = ()) -> CfgNode:
        if media.are_images:
            _link_images(folder / name, files * repeats)
            data = ["MODEL.NUM_CLASSES", f"{_CLASSES}"]
        else:
            lines = [f"{file}{cfg.DATA.PATH_LABEL_SEPARATOR}0\n" for file in files]
            _list_videos(folder / name, lines * repeats)
            data = ["DATA.PATH_PREFIX", ""]
        data += ["DATA.PATH_TO_DATA_DIR", f"{folder / name}"]
        one_rank = ["NUM_GPUS", "1", "NUM_SHARDS", "1", "SHARD_ID", "0", "OUTPUT_DIR", f"{folder}"]
        # Clips are mixed on the device, and one alone with none.
        sizes = ["TRAIN.BATCH_SIZE", f"{batch}", "TEST.BATCH_SIZE", "1", "MIXUP.ENABLE", "False"]
        return load_config(path, [*overrides, *one_rank, *data, *sizes, *extra])

    once = over("once", repeats=1, batch=1, extra=["AUG.NUM_SAMPLE", "1"])
    return once, over("often", repeats=enough, batch=batch)


def _check_media(path: str | Path, cfg: CfgNode, media: Media) -> None:
    missing = [file for file in media.files if not file.is_file()]
    if missing:
        raise UserError(f"There is no {missing[0]}: name files that exist.")
    kinds = {"kinetics": "videos", "imagenet": "images"}
    dataset = cfg.TRAIN.DATASET
    if dataset not in kinds:
        raise UserError(
            f"--loader measures loaders of videos and images, but TRAIN.DATASET of {path} is "
            f'"{dataset}": take another config.'
        )
    if media.are_images != (kinds[dataset] == "images"):
        raise UserError(
            f'TRAIN.DATASET "{dataset}" of {path} is of {kinds[dataset]}, but {media.files[0]} is '
            f"none: name {kinds[dataset]} by --videos."
        )
    if media.are_images and len(media.files) < _CLASSES:
        raise UserError(
            f"--loader measures at least {_CLASSES} images, but {media.files[0]} is the only one: "
            "name more, and --clips above 1."
        )


def _list_videos(folder: Path, lines: Sequence[str]) -> None:
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"{split}.csv").write_text("".join(lines))


def _link_images(folder: Path, files: Sequence[Path]) -> None:
    for split in ("train", "val"):
        for number, file in enumerate(files):
            # The number, as others may have the same name; the name, for messages.
            link = folder / split / f"{number % _CLASSES}" / f"{number}-{file.name}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
