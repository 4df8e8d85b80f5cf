"""Data set that fails in every way a decoder can, and a loader for it."""

import gc
import os
import signal
import time
from functools import partial

import torch

from stvit_video.data.bad_videos import BadVideo, BadVideoError, BadVideoLog
from stvit_video.data.labeled_paths import Entry, LabeledPaths
from stvit_video.data.loader import VideoLoader
from stvit_video.data.samplers import EvalBatchSampler, TrainBatchSampler, draw_replacement


class FaultyVideos:
    """Samples that hold their own key; ``faults`` maps indices to the way in which they fail."""

    def __init__(self, number, faults):
        self.number, self.faults = number, faults
        # Number of opens at which "hang once" hangs: more than one if workers open it concurrently.
        self.hanging = 1
        # How often each video was opened, by all processes.
        self.opened = torch.zeros(number, dtype=torch.int64).share_memory_()

    def __len__(self):
        return self.number

    def __getitem__(self, key):
        index = key if isinstance(key, int) else key.index
        self.opened[index] += 1
        match self.faults.get(index), int(self.opened[index]):
            case ("kill once", 1):
                os.kill(os.getpid(), signal.SIGKILL)
            case ("hang once", times) if times <= self.hanging:
                time.sleep(1000)
            case ("crash later", 2):
                os.kill(os.getpid(), signal.SIGSEGV)
        match self.faults.get(index):
            case "broken":
                raise BadVideoError(self.bad_video(index, "broken"))
            case "stop":
                next(iter(()))
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hang":
                # Like a hung decoder, it never returns to Python, so signal handlers do not run.
                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
                time.sleep(1000)
            case "collect":
                gc.collect()
            case "defect":
                raise TypeError("a defect")
        video = torch.zeros(3, 1, 1, 1, dtype=torch.uint8)
        return {"video": video, "video_index": index, "sample": str(key)}

    def bad_video(self, index, error, *, crashes_worker=False):
        return BadVideo(
            index, f"{index}.mp4", 0, "some.csv", index + 1, error, crashes_worker=crashes_worker
        )


def bad_video_log(number, *, max_bad=100, file=None):
    paths = LabeledPaths("some.csv", [Entry(i + 1, f"{i}.mp4", 0) for i in range(number)])
    return BadVideoLog(paths, file=file, max_bad=max_bad, handling="left out")


def loader(faults, *, number=24, train=True, workers=2, batch_size=3, seconds=0.0, **options):
    if train:
        sampler = TrainBatchSampler(number, batch_size=batch_size, rank=0, world_size=1, seed=0)
    else:
        sampler = EvalBatchSampler(number, batch_size=batch_size, rank=0, world_size=1)
    fallback = options.pop("fallback", None)
    return VideoLoader(
        FaultyVideos(number, faults),
        batch_sampler=sampler,
        num_workers=workers,
        pin_memory=False,
        bad_video_log=bad_video_log(number, **options),
        fallback=None if fallback is None else FaultyVideos(number, fallback),
        replace=partial(draw_replacement, num_samples=number, seed=0) if train else None,
        seconds_per_video=seconds,
    )
