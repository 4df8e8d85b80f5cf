"""PyTorchVideo's models on the way of all models: training, checkpoint, resuming, test."""

import json
from pathlib import Path

import numpy as np
import torch
from recording import statistics_after_validation

from stvit_video.engine.evaluate import test as run_test
from stvit_video.engine.preflight import preflight
from stvit_video.engine.train import train
from stvit_video.runtime.distributed import run_ranks

X3D = (
    *("MODEL.ARCH", "ptv", "MODEL.MODEL_NAME", "x3d_s", "STVIT.ENABLE", "False"),
    # The test's crops are larger than those of training, as in the published protocol.
    *("DATA.TEST_CROP_SIZE", "48", "SOLVER.OPTIMIZING_METHOD", "sgd"),
)


def losses(cfg):
    text = (Path(cfg.OUTPUT_DIR) / "json_stats.log").read_text()
    lines = [json.loads(line.removeprefix("json_stats: ")) for line in text.splitlines()]
    return [line["loss"] for line in lines if line["_type"] == "train_iter"]


def test_x3d_trains_and_is_tested(video_config):
    cfg = video_config(*X3D, "LOG_MODEL_INFO", "True", "SOLVER.MAX_EPOCH", "1")
    preflight(cfg)
    train(cfg)
    assert len(losses(cfg)) == 2
    assert np.isfinite(losses(cfg)).all()
    run_test(cfg)
    folder = Path(cfg.OUTPUT_DIR)
    scores = np.load(folder / "results" / "scores.npz")["scores"]
    assert scores.shape == (7, 3)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    log = (folder / "stdout.log").read_text()
    assert "Model x3d_s: 2.981 M parameters" in log
    assert "100.0% of the model's parameters filled" in log


def test_all_ranks_validate_with_the_running_statistics_of_rank_0(tmp_path):
    run_ranks(statistics_after_validation, tmp_path, num_local_ranks=2, device="cpu")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.equal(first["running_mean"], torch.zeros(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
