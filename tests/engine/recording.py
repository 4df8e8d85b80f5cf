"""Entry functions for ranks in tests; spawned processes import them from here."""

import json
from pathlib import Path
from unittest import mock

from stvit_video.engine import recorder
from stvit_video.engine.evaluate import test
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
