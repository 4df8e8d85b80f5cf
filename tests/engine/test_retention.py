"""Test which checkpoints are kept, and that the best one has the lowest validation error."""

import json
from pathlib import Path

import pytest
import torch
from comparing import same

from stvit_video.data.build import build_loader
from stvit_video.engine import train as train_module
from stvit_video.engine.build import build_loss, build_state
from stvit_video.engine.checkpoint import Position, checkpoint_path, find_checkpoints, verify
from stvit_video.engine.evaluate import evaluate
from stvit_video.engine.precision import build_normalize, build_precision
from stvit_video.engine.resume import checkpoint_to_test, load_test_weights
from stvit_video.engine.retention import CheckpointSaver, best_epochs, obsolete_checkpoints
from stvit_video.engine.train import train
from stvit_video.engine.validate import validate
from stvit_video.errors import TransientError, UserError
from stvit_video.models import build_model
from stvit_video.runtime.atomic_files import hash_path

NUMBERS = ("loss", "top1_err", "top5_err")


def positions(text):
    """Parse positions: "1 2+4" is after one epoch, and after two epochs and four steps."""
    return [Position(*map(int, part.split("+"))) for part in text.split()]


@pytest.mark.parametrize(
    ("present", "keep_last", "best", "removed"),
    [
        ("1 2 3 4", 0, [], ""),
        ("1 2 3 4", 2, [], "1 2"),
        ("1 2 3 4", 2, [1], "2"),
        ("1 2 3 4", 2, [1, 4], "2"),
        ("1", 2, [], ""),
        # Inside an epoch, only the two newest of all checkpoints are kept.
        ("0+2 0+4 0+6", 2, [], "0+2"),
        ("0+4 0+6 1", 2, [], "0+4"),
        ("0+6 1 1+2", 2, [], "0+6"),
        ("0+6 1 1+2 1+4", 0, [], "0+6"),
        ("1 2 3 3+2 3+4", 2, [], "1"),
        ("1 1+2 2 3 4", 3, [1], "1+2"),
    ],
)
def test_obsolete_checkpoints(present, keep_last, best, removed):
    found = obsolete_checkpoints(positions(present), keep_last=keep_last, best=best)
    assert found == positions(removed)


def test_the_earlier_of_two_equal_epochs_is_better():
    validations = {e: {"top1_err": error} for e, error in {1: 50, 2: 30, 3: 40, 4: 30}.items()}
    assert best_epochs(validations, count=1) == [2]
    assert best_epochs(validations, count=3) == [2, 4, 3]
    assert best_epochs({}, count=1) == []


def saved_positions(cfg):
    return [tuple(position) for position in find_checkpoints(cfg.OUTPUT_DIR)]


def train_with_errors(cfg, monkeypatch, errors):
    """Train with given top-1 validation errors, and return the weights after each epoch."""
    weights, remaining = [], iter(errors)

    def fake_validate(model, *args, **kwargs):
        weights.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"loss": 1.0, "top1_err": next(remaining), "top5_err": 0.0}

    monkeypatch.setattr(train_module, "validate", fake_validate)
    train(cfg)
    return weights


def test_the_best_checkpoint_is_kept_with_the_validated_weights(video_config, monkeypatch):
    cfg = video_config(
        *("SOLVER.MAX_EPOCH", "7", "TRAIN.CHECKPOINT_PERIOD", "2", "TRAIN.KEEP_LAST", "2"),
        *("TEST.CHECKPOINT_FILE_PATH", "best", "EMA.ENABLE", "True", "EMA.DECAY", "0.5"),
    )
    weights = train_with_errors(cfg, monkeypatch, [50.0, 40.0, 20.0, 30.0, 20.0, 60.0, 70.0])
    # No periodic checkpoint is due after epoch 3, but it is the best when it is validated.
    assert saved_positions(cfg) == [(3, 0), (6, 0), (7, 0)]
    path = checkpoint_to_test(cfg)
    assert path == checkpoint_path(cfg.OUTPUT_DIR, 3)
    model = build_model(cfg)
    load_test_weights(cfg, model, path)
    assert same(dict(model.state_dict()), weights[2])
    evaluate(cfg)
    summary = json.loads((Path(cfg.OUTPUT_DIR) / "results" / "summary.json").read_text())
    assert summary["checkpoint"] == str(path.resolve())
    # The files of all other checkpoints are removed.
    folder = path.parent
    assert sorted(file.name for file in folder.iterdir()) == sorted(
        ["best.json", *(f"checkpoint_epoch_0000{epochs}.pyth{suffix}" for epochs in (3, 6, 7)
                        for suffix in ("", ".sha256"))]
    )  # fmt: skip


@pytest.mark.parametrize("averaged", ["True", "False"])
def test_the_recorded_error_is_that_of_the_checkpoint(video_config, averaged):
    cfg = video_config(
        *("SOLVER.MAX_EPOCH", "4", "EMA.ENABLE", "True", "EMA.DECAY", "0.5", "EMA.EVAL", averaged),
        *("SOLVER.BASE_LR", "0.01"),
    )
    train(cfg)
    measured = {}
    for position, path in find_checkpoints(cfg.OUTPUT_DIR).items():
        model = build_model(cfg)
        load_test_weights(cfg, model, path)
        measured[position.epochs] = validate(
            model,
            build_loader(cfg, "val", rank=0, world_size=1),
            normalize=build_normalize(cfg, torch.device("cpu")),
            precision=build_precision(cfg, torch.device("cpu")),
            loss_function=build_loss(cfg),
        )
    best = json.loads((Path(cfg.OUTPUT_DIR) / "checkpoints" / "best.json").read_text())
    assert best["epochs"] == best_epochs(measured, count=1)[0]
    chosen = measured[best["epochs"]]
    assert [best[key] for key in NUMBERS] == [chosen[key] for key in NUMBERS]
    # The test would pass for other epochs or weights if their losses were equal.
    assert len({each["loss"] for each in measured.values()}) == 4


def test_an_interrupted_last_validation_is_repeated(video_config, monkeypatch):
    cfg = video_config()
    with pytest.raises(StopIteration):
        train_with_errors(cfg, monkeypatch, [40.0])
    assert saved_positions(cfg) == [(1, 0), (2, 0)]
    assert checkpoint_to_test(video_config("TEST.CHECKPOINT_FILE_PATH", "best")).name[-6] == "1"
    assert len(train_with_errors(cfg, monkeypatch, [30.0])) == 1
    assert checkpoint_to_test(video_config("TEST.CHECKPOINT_FILE_PATH", "best")).name[-6] == "2"
    assert train_with_errors(cfg, monkeypatch, []) == []


def test_an_error_without_a_best_checkpoint(video_config, monkeypatch):
    tested = video_config("TEST.CHECKPOINT_FILE_PATH", "best")
    with pytest.raises(UserError, match="holds no best checkpoint"):
        checkpoint_to_test(tested)
    cfg = video_config("TRAIN.KEEP_BEST", "0", "TRAIN.KEEP_LAST", "2", "SOLVER.MAX_EPOCH", "3")
    train_with_errors(cfg, monkeypatch, [1.0, 2.0, 3.0])
    with pytest.raises(UserError, match="holds no best checkpoint"):
        checkpoint_to_test(tested)


def test_nothing_is_removed_unless_the_new_file_is_valid(small_config, monkeypatch):
    cfg = small_config()
    state = build_state(cfg, steps_per_epoch=4)
    saver = CheckpointSaver(cfg.OUTPUT_DIR, keep_last=2, keep_best=0)
    for epochs in (1, 2):
        state.finished_epochs = epochs
        saver.save(state)
    save = torch.save

    class DamagingFile:
        """A disk that silently flips a bit of all written data."""

        def __init__(self, file):
            self.file = file

        def write(self, data):
            return self.file.write(bytes([data[0] ^ 1]) + bytes(data[1:]))

        def flush(self):
            self.file.flush()

    def save_damaged(contents, file):
        file.file = DamagingFile(file.file)
        save(contents, file)

    state.finished_epochs = 3
    monkeypatch.setattr(torch, "save", save_damaged)
    with pytest.raises(TransientError, match=r"00003\.pyth is damaged"):
        saver.save(state)
    assert saved_positions(cfg) == [(1, 0), (2, 0), (3, 0)]
    monkeypatch.undo()
    saver.save(state)
    assert saved_positions(cfg) == [(2, 0), (3, 0)]
    assert not hash_path(checkpoint_path(cfg.OUTPUT_DIR, 1)).exists()


def test_damaged_newer_checkpoints_are_not_counted(small_config):
    cfg = small_config()
    state = build_state(cfg, steps_per_epoch=4)
    saver = CheckpointSaver(cfg.OUTPUT_DIR, keep_last=2, keep_best=0)
    for epochs in (1, 2):
        state.finished_epochs = epochs
        saver.save(state)
    for epochs in (8, 9):
        checkpoint_path(cfg.OUTPUT_DIR, epochs).write_bytes(b"damaged")
    state.finished_steps = 2
    saver.save(state)
    assert saved_positions(cfg) == [(1, 0), (2, 0), (2, 2), (8, 0), (9, 0)]


def test_a_damaged_checkpoint_is_replaced(small_config):
    cfg = small_config()
    state = build_state(cfg, steps_per_epoch=4)
    saver = CheckpointSaver(cfg.OUTPUT_DIR)
    state.finished_epochs = 2
    saver.save(state)
    path = checkpoint_path(cfg.OUTPUT_DIR, 2)
    written = path.stat().st_mtime_ns
    saver.save_if_missing(state)
    assert path.stat().st_mtime_ns == written
    path.write_bytes(b"damaged")
    saver.save_if_missing(state)
    assert verify(path)


def test_the_best_checkpoint_of_another_run_is_ignored(video_config, monkeypatch, tmp_path):
    two = ("SOLVER.MAX_EPOCH", "2", "TRAIN.CHECKPOINT_PERIOD", "1")
    before = video_config(*two)
    train_with_errors(before, monkeypatch, [10.0, 20.0])
    cfg = video_config(
        *("OUTPUT_DIR", str(tmp_path / "next"), "SOLVER.MAX_EPOCH", "5"),
        *("TRAIN.CHECKPOINT_FILE_PATH", str(checkpoint_path(before.OUTPUT_DIR, 2))),
        *("TRAIN.KEEP_LAST", "2", "TEST.CHECKPOINT_FILE_PATH", "best"),
    )
    # The epoch it resumes from is validated in this run too, so it can become the best.
    train_with_errors(cfg, monkeypatch, [25.0, 15.0, 30.0, 40.0])
    assert checkpoint_to_test(cfg) == checkpoint_path(cfg.OUTPUT_DIR, 3)
