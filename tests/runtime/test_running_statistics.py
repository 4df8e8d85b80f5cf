"""Test that X3D, a model with running statistics, trains on two ranks and is evaluated."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from recording import train_recording

from stvit_video.data.build import build_loader
from stvit_video.engine.build import build_loss
from stvit_video.engine.evaluate import evaluate
from stvit_video.engine.precision import build_normalize, build_precision
from stvit_video.engine.preflight import preflight
from stvit_video.engine.validate import validate
from stvit_video.models import build_model, load_weights
from stvit_video.runtime.distributed import run_ranks

X3D = (
    "MODEL.ARCH=ptv",
    "MODEL.MODEL_NAME=x3d_s",
    "STVIT.ENABLE=False",
    # Test crops are larger than training crops, as in the published protocol.
    "DATA.TEST_CROP_SIZE=48",
    "TEST.NUM_ENSEMBLE_VIEWS=1",
    "SOLVER.BASE_LR=1e-2",
)


def validate_in_one_process(cfg):
    """Return the validation statistics of the checkpoint in OUTPUT_DIR."""
    cpu = torch.device("cpu")
    model = build_model(cfg)
    load_weights(model, next(Path(cfg.OUTPUT_DIR).rglob("*.pyth")), min_share=1.0)
    return validate(
        model,
        build_loader(cfg, "val", rank=0, world_size=1),
        normalize=build_normalize(cfg, cpu),
        precision=build_precision(cfg, cpu),
        loss_function=build_loss(cfg),
    )


def test_x3d_trains_and_evaluates_on_two_ranks(video_config):
    cfg = video_config(*X3D, "NUM_GPUS", "2", "LOG_MODEL_INFO", "True", "SOLVER.MAX_EPOCH", "1")
    preflight(cfg)
    run_ranks(train_recording, cfg, num_local_ranks=2, device="cpu")
    folder = Path(cfg.OUTPUT_DIR)
    assert "Model x3d_s: 2.981 M parameters" in (folder / "stdout.log").read_text()
    lines = json.loads((folder / "lines.json").read_text())
    assert [line["_type"] for line in lines] == ["train_iter"] * 2 + ["train_epoch", "val_epoch"]
    # Ranks train on different clips, but all validate with the saved running statistics.
    assert lines[-1]["loss"] == pytest.approx(validate_in_one_process(cfg)["loss"], abs=1e-5)

    evaluate(cfg)
    scores = np.load(folder / "results" / "scores.npz")["scores"]
    assert scores.shape == (7, 3)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
