"""Entry functions for ranks in tests; spawned processes import them from here."""

import json
from pathlib import Path
from unittest import mock

import torch
from torch import nn

from stvit_video.engine import recorder
from stvit_video.engine.evaluate import test, validate
from stvit_video.engine.precision import Normalise, Precision
from stvit_video.engine.train import train
from stvit_video.runtime import distributed


def train_recording(cfg):
    """Train, and keep the statistics with all their digits, which the log rounds."""
    lines = []
    with mock.patch.object(recorder, "log_json_stats", lambda line, **_: lines.append(dict(line))):
        train(cfg)
    if distributed.is_main():
        (Path(cfg.OUTPUT_DIR) / "lines.json").write_text(json.dumps(lines))


def train_recording_and_test(cfg):
    train_recording(cfg)
    test(cfg)


def statistics_after_validation(folder):
    """Validate a BatchNorm whose running statistics are of this rank; save them."""
    norm = nn.BatchNorm3d(2)
    norm.running_mean.fill_(distributed.get_rank())
    norm.num_batches_tracked.fill_(distributed.get_rank())
    batch = {"video": torch.zeros(1, 2, 1, 1, 1, dtype=torch.uint8), "label": torch.tensor([0])}
    cpu = torch.device("cpu")
    validate(
        nn.Sequential(norm, nn.Flatten()),
        [batch],
        normalise=Normalise(cpu, mean=(0.0, 0.0), std=(1.0, 1.0)),
        precision=Precision(cpu),
        loss_function=nn.CrossEntropyLoss(),
    )
    torch.save(norm.state_dict(), Path(folder) / f"{distributed.get_rank()}.pt")
