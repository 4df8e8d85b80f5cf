"""Test training runs: output, resuming, initial weights, precision, periods."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from comparing import same, without_times
from recording import train_recording

from stvit_video.engine.checkpoint import checkpoint_path, read_checkpoint
from stvit_video.engine.evaluate import evaluate
from stvit_video.engine.step import TrainingStep
from stvit_video.engine.train import train
from stvit_video.errors import UserError
from stvit_video.models import build_model, save_weights

STOCHASTIC = ("MODEL.DROPOUT_RATE", "0.5", "MODEL.DROPCONNECT_RATE", "0.2")
AUGMENTED = (
    *("AUG.ENABLE", "True", "AUG.NUM_SAMPLE", "2", "MIXUP.ENABLE", "True"),
    *("MODEL.LOSS_FUNC", "soft_cross_entropy"),
)


def run(cfg):
    """Train, and return the statistics unrounded."""
    train_recording(cfg)
    lines = json.loads((Path(cfg.OUTPUT_DIR) / "lines.json").read_text())
    return [without_times(line) for line in lines]


def lines_of(lines, kind):
    return [line for line in lines if line["_type"] == kind]


def test_the_output_of_a_run_is_like_pyslowfasts(video_config):
    cfg = video_config("TENSORBOARD.ENABLE", "True", "LOG_MODEL_INFO", "True")
    train(cfg)
    folder = Path(cfg.OUTPUT_DIR)
    assert sorted(path.name for path in (folder / "checkpoints").glob("*.pyth")) == [
        "checkpoint_epoch_00001.pyth",
        "checkpoint_epoch_00002.pyth",
    ]
    text = (folder / "json_stats.log").read_text()
    lines = [json.loads(line.removeprefix("json_stats: ")) for line in text.splitlines()]
    epoch = ["train_iter", "train_iter", "train_epoch", "val_epoch"]
    assert [line["_type"] for line in lines] == epoch * 2
    assert lines[1].keys() == {
        *("_type", "epoch", "iter", "dt", "dt_data", "dt_net", "eta", "loss", "lr", "rss"),
        *("top1_err", "top5_err"),
    }
    assert (lines[1]["epoch"], lines[1]["iter"]) == ("1/2", "2/2")
    assert lines[-1].keys() >= {"epoch", "top1_err", "top5_err", "min_top1_err", "loss"}
    assert lines[-1]["min_top1_err"] == min(
        line["top1_err"] for line in lines_of(lines, "val_epoch")
    )
    assert "M parameters" in (folder / "stdout.log").read_text()
    assert list((folder / "runs").glob("events.out.tfevents.*"))


def test_the_learning_rate_changes_at_every_step(video_config):
    lines = lines_of(run(video_config()), "train_iter")
    # The warm-up is half an epoch of two steps, so only the first step has learning rate 0.
    assert lines[0]["lr"] == 0
    assert [line["lr"] for line in lines[1:]] == pytest.approx(
        [1e-3 * (1 + cos) / 2 for cos in (2**-0.5, 0, -(2**-0.5))]
    )


@pytest.mark.parametrize(("workers", "augmented"), [("0", ()), ("1", ()), ("1", AUGMENTED)])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    video_config, tmp_path, workers, augmented
):
    epochs = (*STOCHASTIC, *augmented, "SOLVER.MAX_EPOCH", "3", "DATA_LOADER.NUM_WORKERS", workers)
    whole = video_config(*epochs)
    expected = run(whole)
    resumed = video_config(*epochs, "OUTPUT_DIR", str(tmp_path / "resumed"))
    first = checkpoint_path(resumed.OUTPUT_DIR, 1)
    first.parent.mkdir(parents=True)
    shutil.copy(checkpoint_path(whole.OUTPUT_DIR, 1), first)

    # The validation of epoch 1 is repeated, as the checkpoint was saved before it.
    per_epoch = len(expected) // 3
    assert run(resumed) == expected[per_epoch - 1 :]
    one, other = (read_checkpoint(checkpoint_path(cfg.OUTPUT_DIR, 3)) for cfg in (whole, resumed))
    assert same(one["model_state"], other["model_state"])
    assert same(one["optimizer_state"], other["optimizer_state"])
    assert same(one["random_states"], other["random_states"])
    assert one["validations"] == other["validations"]


def test_repeated_augmentation_trains_on_every_clip(video_config, monkeypatch):
    batches = []
    real = TrainingStep.__call__
    monkeypatch.setattr(
        TrainingStep,
        "__call__",
        lambda step, passes, *, lr: batches.extend(passes) or real(step, passes, lr=lr),
    )
    train(video_config(*AUGMENTED))
    assert [len(batch["video"]) for batch in batches] == [8] * 4  # 2 epochs of 2 steps
    for batch in batches:
        names = batch["video_name"]
        assert names[0::2] == names[1::2]
        assert len(set(names)) == 4
        assert torch.equal(batch["label"], batch["video_index"] % 3)
        assert not torch.equal(batch["video"][0], batch["video"][1])
    log = (Path(video_config().OUTPUT_DIR) / "stdout.log").read_text()
    assert "clips a step: 8" in log
    assert "AUG.COLOR_JITTER is not used" in log


def test_validation_uses_unmixed_labels(video_config, tmp_path):
    still = ("SOLVER.BASE_LR", "1e-12", "SOLVER.MAX_EPOCH", "1", "SOLVER.WARMUP_EPOCHS", "0")
    hard = run(video_config(*still))
    soft = run(video_config(*still, *AUGMENTED, "OUTPUT_DIR", str(tmp_path / "soft")))
    (one,), (other,) = (lines_of(lines, "val_epoch") for lines in (hard, soft))
    assert one["loss"] == pytest.approx(other["loss"], abs=1e-6)
    (one,), (other,) = (lines_of(lines, "train_epoch") for lines in (hard, soft))
    assert abs(one["loss"] - other["loss"]) > 1e-5


def test_a_finished_run_is_not_trained_again(video_config):
    cfg = video_config()
    train(cfg)
    log = Path(cfg.OUTPUT_DIR) / "json_stats.log"
    lines = log.read_text()
    train(cfg)
    assert log.read_text() == lines


def test_a_new_run_does_not_mix_with_old_checkpoints(video_config):
    cfg = video_config("SOLVER.MAX_EPOCH", "1")
    train(cfg)
    with pytest.raises(UserError, match="already holds checkpoints"):
        train(video_config("TRAIN.AUTO_RESUME", "False"))


@pytest.mark.parametrize("reset", [True, False])
def test_training_resumes_from_or_loads_another_runs_checkpoint(video_config, tmp_path, reset):
    first = video_config("SOLVER.MAX_EPOCH", "1")
    train(first)
    path = checkpoint_path(first.OUTPUT_DIR, 1)
    lines = run(
        video_config(
            *("OUTPUT_DIR", str(tmp_path / "second"), "TRAIN.CHECKPOINT_FILE_PATH", str(path)),
            *("TRAIN.CHECKPOINT_EPOCH_RESET", str(reset), "SOLVER.WARMUP_EPOCHS", "0"),
        )
    )
    epochs = [line["epoch"] for line in lines_of(lines, "train_epoch")]
    assert epochs == (["1/2", "2/2"] if reset else ["2/2"])


def test_an_error_if_nothing_is_left_to_train(video_config, tmp_path):
    first = video_config("SOLVER.MAX_EPOCH", "1")
    train(first)
    path = checkpoint_path(first.OUTPUT_DIR, 1)
    second = ("OUTPUT_DIR", str(tmp_path / "second"), "SOLVER.MAX_EPOCH", "1")
    with pytest.raises(UserError, match="nothing is left to train"):
        train(video_config(*second, "TRAIN.CHECKPOINT_FILE_PATH", str(path)))


def test_a_run_starts_from_initial_weights(video_config, tmp_path):
    model = build_model(video_config())
    with torch.no_grad():
        model.head.fc.weight.zero_()
        model.head.fc.bias.copy_(torch.tensor([9.0, 0.0, 0.0]))
    path = tmp_path / "weights.safetensors"
    save_weights(model, path)
    lines = run(video_config("TRAIN.CHECKPOINT_FILE_PATH", str(path), "SOLVER.BASE_LR", "1e-9"))
    # The weights always predict class 0, that of training videos 0, 3 and 6 of 8.
    assert lines_of(lines, "train_epoch")[0]["top1_err"] == pytest.approx(100 * 5 / 8)
    assert lines_of(lines, "val_epoch")[0]["top1_err"] == pytest.approx(100 * 3 / 5)
    log = (Path(video_config().OUTPUT_DIR) / "stdout.log").read_text()
    assert log.count("100.0% of the model's parameters filled") == 1


def test_bfloat16_parameters_are_trained_averaged_and_tested(video_config, tmp_path):
    losses = []
    for dtype in ("float32", "bfloat16"):
        cfg = video_config(
            *("MODEL.PARAM_DTYPE", dtype, "EMA.ENABLE", "True", "EMA.DECAY", "0.5"),
            *("OUTPUT_DIR", str(tmp_path / dtype), "SOLVER.MAX_EPOCH", "3"),
        )
        losses.append([line["loss"] for line in lines_of(run(cfg), "train_iter")])
    np.testing.assert_allclose(*losses, atol=0.02)
    assert losses[0] != losses[1]
    contents = read_checkpoint(checkpoint_path(cfg.OUTPUT_DIR, 3))
    assert {value.dtype for value in contents["model_state"].values()} == {torch.bfloat16}
    moments = contents["optimizer_state"]["state"].values()
    assert {moment["exp_avg"].dtype for moment in moments} == {torch.bfloat16}
    assert {value.dtype for value in contents["ema_state"].values()} == {torch.float32}
    evaluate(cfg)
    summary = json.loads((Path(cfg.OUTPUT_DIR) / "results" / "summary.json").read_text())
    assert summary["num_videos"] == 7


def test_accumulation_matches_a_larger_batch(video_config, tmp_path):
    expected = lines_of(run(video_config("TRAIN.BATCH_SIZE", "4")), "train_iter")
    small = ("TRAIN.BATCH_SIZE", "2", "TRAIN.ACCUMULATE_STEPS", "2")
    lines = run(video_config(*small, "OUTPUT_DIR", str(tmp_path / "small")))
    losses = [line["loss"] for line in lines_of(lines, "train_iter")]
    assert losses == pytest.approx([line["loss"] for line in expected], abs=1e-5)


def test_more_accumulation_steps_than_batches_are_rejected(video_config):
    with pytest.raises(UserError, match=r"TRAIN\.ACCUMULATE_STEPS is 3, but an epoch has 2"):
        train(video_config("TRAIN.ACCUMULATE_STEPS", "3"))


def test_checkpoint_and_validation_periods(video_config):
    cfg = video_config(
        *("SOLVER.MAX_EPOCH", "5", "TRAIN.CHECKPOINT_PERIOD", "3", "TRAIN.EVAL_PERIOD", "2")
    )
    lines = run(cfg)
    validated = [line["epoch"] for line in lines_of(lines, "val_epoch")]
    assert validated == ["2/5", "4/5", "5/5"]
    # Checkpoints are those of the period, the last epoch, and each best epoch so far.
    errors = [line["top1_err"] for line in lines_of(lines, "val_epoch")]
    best = {
        epoch[0]
        for index, epoch in enumerate(validated)
        if all(errors[index] < error for error in errors[:index])
    }
    written = sorted(path.stem[-1] for path in Path(cfg.OUTPUT_DIR).rglob("*.pyth"))
    assert written == sorted(best | {"3", "5"})
