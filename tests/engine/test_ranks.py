"""Test that several gloo ranks on the CPU match a single process."""

import json
from pathlib import Path

import numpy as np
from recording import train_recording_and_test

from stvit_video.engine.evaluate import evaluate
from stvit_video.engine.train import train
from stvit_video.runtime.distributed import run_ranks


def losses(cfg):
    lines = json.loads((Path(cfg.OUTPUT_DIR) / "lines.json").read_text())
    return [line["loss"] for line in lines if "loss" in line]


def predictions(cfg):
    return np.load(Path(cfg.OUTPUT_DIR) / "results" / "scores.npz")


def test_two_ranks_train_and_test_like_one(video_config, tmp_path):
    configs = []
    # The same 4 clips per step: in one pass on one rank, or in two passes on each of two ranks
    # with 1 clip per pass.
    for ranks, batch, passes in ((1, 4, 1), (2, 2, 2)):
        cfg = video_config(
            *("OUTPUT_DIR", str(tmp_path / f"{ranks} ranks"), "NUM_GPUS", str(ranks)),
            *("TRAIN.BATCH_SIZE", str(batch), "TRAIN.ACCUMULATE_STEPS", str(passes)),
            *("SOLVER.MAX_EPOCH", "3", "SOLVER.CLIP_GRAD_L2NORM", "5.0"),
        )
        run_ranks(train_recording_and_test, cfg, num_local_ranks=ranks, device="cpu")
        configs.append(cfg)
    one, two = configs
    assert len(losses(one)) == 3 * (2 + 1 + 1)  # steps, epoch, validation
    np.testing.assert_allclose(losses(two), losses(one), atol=1e-5)
    np.testing.assert_allclose(predictions(two)["scores"], predictions(one)["scores"], atol=1e-5)
    np.testing.assert_array_equal(predictions(two)["labels"], predictions(one)["labels"])
    top = [predictions(cfg)["scores"].argmax(axis=1) for cfg in configs]
    np.testing.assert_array_equal(*top)


def test_three_ranks_with_uneven_shares_test_like_one(video_config, tmp_path):
    trained = video_config("SOLVER.MAX_EPOCH", "1", "OUTPUT_DIR", str(tmp_path / "trained"))
    train(trained)
    weights = next(Path(trained.OUTPUT_DIR).rglob("*.pyth"))
    scores = []
    for ranks in (1, 3):
        output = ("OUTPUT_DIR", str(tmp_path / f"{ranks} ranks"), "NUM_GPUS", str(ranks))
        # Six views per video and per rank: batches of one video, and 3, 2 and 2 batches per rank.
        views = ("TEST.CHECKPOINT_FILE_PATH", str(weights), "TEST.BATCH_SIZE", str(6 * ranks))
        cfg = video_config(*output, *views, "TRAIN.ENABLE", "False")
        run_ranks(evaluate, cfg, num_local_ranks=ranks, device="cpu")
        scores.append(predictions(cfg))
    one, three = scores
    np.testing.assert_array_equal(three["video_index"], np.arange(7))
    np.testing.assert_allclose(three["scores"], one["scores"], atol=1e-6)
    np.testing.assert_array_equal(three["scores"].argmax(1), one["scores"].argmax(1))
