"""Which checkpoints stay, and that the best one really is the best."""

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
from stvit_video.engine.resume import checkpoint_to_test, load_tested_weights
from stvit_video.engine.retention import CheckpointKeeper, best_epochs, obsolete
from stvit_video.engine.train import train
from stvit_video.engine.validate import validate
from stvit_video.errors import TransientError, UserError
from stvit_video.models import build_model
from stvit_video.runtime.atomic_files import hash_path

NUMBERS = ("loss", "top1_err", "top5_err")


def positions(text):
    """ "1 2+4" is after one epoch, and after two and four steps."""
    return [Position(*map(int, place.split("+"))) for place in text.split()]


@pytest.mark.parametrize(
    ("present", "keep_last", "best", "removed"),
    [
        ("1 2 3 4", 0, [], ""),
        ("1 2 3 4", 2, [], "1 2"),
        ("1 2 3 4", 2, [1], "2"),
        ("1 2 3 4", 2, [1, 4], "2"),
        ("1", 2, [], ""),
        # Inside an epoch the two newest of all stay.
        ("0+2 0+4 0+6", 2, [], "0+2"),
        ("0+4 0+6 1", 2, [], "0+4"),
        ("0+6 1 1+2", 2, [], "0+6"),
        ("0+6 1 1+2 1+4", 0, [], "0+6"),
        ("1 2 3 3+2 3+4", 2, [], "1"),
        ("1 1+2 2 3 4", 3, [1], "1+2"),
    ],
)
def test_what_stays(present, keep_last, best, removed):
    found = obsolete(positions(present), keep_last=keep_last, best=best)
    assert found == positions(removed)


def test_the_earlier_of_equals_is_better():
    validations = {e: {"top1_err": error} for e, error in {1: 50, 2: 30, 3: 40, 4: 30}.items()}
    assert best_epochs(validations, count=1) == [2]
    assert best_epochs(validations, count=3) == [2, 4, 3]
    assert best_epochs({}, count=1) == []


def names(cfg):
    return [tuple(position) for position in find_checkpoints(cfg.OUTPUT_DIR)]


def train_with_errors(cfg, monkeypatch, errors):
    """Train, with these as the top-1 errors; returns the weights after each epoch."""
    weights, left = [], iter(errors)

    def measure(model, *args, **kwargs):
        weights.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"loss": 1.0, "top1_err": next(left), "top5_err": 0.0}

    monkeypatch.setattr(train_module, "validate", measure)
    train(cfg)
    return weights


def test_the_best_stays_and_is_what_was_validated(video_config, monkeypatch):
    cfg = video_config(
        *("SOLVER.MAX_EPOCH", "7", "TRAIN.CHECKPOINT_PERIOD", "2", "TRAIN.KEEP_LAST", "2"),
        *("TEST.CHECKPOINT_FILE_PATH", "best", "EMA.ENABLE", "True", "EMA.DECAY", "0.5"),
    )
    weights = train_with_errors(cfg, monkeypatch, [50.0, 40.0, 20.0, 30.0, 20.0, 60.0, 70.0])
    # Epoch 3 is no second one, but the best when it is validated.
    assert names(cfg) == [(3, 0), (6, 0), (7, 0)]
    path = checkpoint_to_test(cfg)
    assert path == checkpoint_path(cfg.OUTPUT_DIR, 3)
    model = build_model(cfg)
    load_tested_weights(cfg, model, path)
    assert same(dict(model.state_dict()), weights[2])
    evaluate(cfg)
    summary = json.loads((Path(cfg.OUTPUT_DIR) / "results" / "summary.json").read_text())
    assert summary["checkpoint"] == str(path.resolve())
    # Nothing is left of the others but what was never theirs.
    folder = path.parent
    assert sorted(file.name for file in folder.iterdir()) == sorted(
        ["best.json", *(f"checkpoint_epoch_0000{epochs}.pyth{suffix}" for epochs in (3, 6, 7)
                        for suffix in ("", ".sha256"))]
    )  # fmt: skip


@pytest.mark.parametrize("averaged", ["True", "False"])
def test_the_recorded_error_is_that_of_the_file(video_config, averaged):
    cfg = video_config(
        *("SOLVER.MAX_EPOCH", "4", "EMA.ENABLE", "True", "EMA.DECAY", "0.5", "EMA.EVAL", averaged),
        *("SOLVER.BASE_LR", "0.01"),
    )
    train(cfg)
    measured = {}
    for position, path in find_checkpoints(cfg.OUTPUT_DIR).items():
        model = build_model(cfg)
        load_tested_weights(cfg, model, path)
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
    # Else another epoch, or the other weights, would pass too.
    assert len({each["loss"] for each in measured.values()}) == 4


def test_a_last_validation_that_was_cut_off_is_done_again(video_config, monkeypatch):
    cfg = video_config()
    with pytest.raises(StopIteration):
        train_with_errors(cfg, monkeypatch, [40.0])
    assert names(cfg) == [(1, 0), (2, 0)]
    assert checkpoint_to_test(video_config("TEST.CHECKPOINT_FILE_PATH", "best")).name[-6] == "1"
    assert len(train_with_errors(cfg, monkeypatch, [30.0])) == 1
    assert checkpoint_to_test(video_config("TEST.CHECKPOINT_FILE_PATH", "best")).name[-6] == "2"
    assert train_with_errors(cfg, monkeypatch, []) == []


def test_without_a_best_one_there_is_none_to_test(video_config, monkeypatch):
    tested = video_config("TEST.CHECKPOINT_FILE_PATH", "best")
    with pytest.raises(UserError, match="holds no best checkpoint"):
        checkpoint_to_test(tested)
    cfg = video_config("TRAIN.KEEP_BEST", "0", "TRAIN.KEEP_LAST", "2", "SOLVER.MAX_EPOCH", "3")
    train_with_errors(cfg, monkeypatch, [1.0, 2.0, 3.0])
    with pytest.raises(UserError, match="holds no best checkpoint"):
        checkpoint_to_test(tested)


def test_nothing_is_removed_unless_the_new_file_reads_back(small_config, monkeypatch):
    cfg = small_config()
    state = build_state(cfg, steps_per_epoch=4)
    keeper = CheckpointKeeper(cfg.OUTPUT_DIR, keep_last=2, keep_best=0)
    for epochs in (1, 2):
        state.finished_epochs = epochs
        keeper.save(state)
    save = torch.save

    class DamagingFile:
        """A disk that flips a bit of what is written, and notices nothing."""

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
        keeper.save(state)
    assert names(cfg) == [(1, 0), (2, 0), (3, 0)]
    monkeypatch.undo()
    keeper.save(state)
    assert names(cfg) == [(2, 0), (3, 0)]
    assert not hash_path(checkpoint_path(cfg.OUTPUT_DIR, 1)).exists()


def test_damaged_files_of_the_future_do_not_count(small_config):
    cfg = small_config()
    state = build_state(cfg, steps_per_epoch=4)
    keeper = CheckpointKeeper(cfg.OUTPUT_DIR, keep_last=2, keep_best=0)
    for epochs in (1, 2):
        state.finished_epochs = epochs
        keeper.save(state)
    for epochs in (8, 9):
        checkpoint_path(cfg.OUTPUT_DIR, epochs).write_bytes(b"damaged")
    state.finished_steps = 2
    keeper.save(state)
    assert names(cfg) == [(1, 0), (2, 0), (2, 2), (8, 0), (9, 0)]


def test_a_damaged_file_at_its_place_is_written_anew(small_config):
    cfg = small_config()
    state = build_state(cfg, steps_per_epoch=4)
    keeper = CheckpointKeeper(cfg.OUTPUT_DIR)
    state.finished_epochs = 2
    keeper.save(state)
    path = checkpoint_path(cfg.OUTPUT_DIR, 2)
    written = path.stat().st_mtime_ns
    keeper.save_unless_written(state)
    assert path.stat().st_mtime_ns == written
    path.write_bytes(b"damaged")
    keeper.save_unless_written(state)
    assert verify(path)


def test_the_best_of_another_run_is_not_the_best_of_this_one(video_config, monkeypatch, tmp_path):
    two = ("SOLVER.MAX_EPOCH", "2", "TRAIN.CHECKPOINT_PERIOD", "1")
    before = video_config(*two)
    train_with_errors(before, monkeypatch, [10.0, 20.0])
    cfg = video_config(
        *("OUTPUT_DIR", str(tmp_path / "next"), "SOLVER.MAX_EPOCH", "5"),
        *("TRAIN.CHECKPOINT_FILE_PATH", str(checkpoint_path(before.OUTPUT_DIR, 2))),
        *("TRAIN.KEEP_LAST", "2", "TEST.CHECKPOINT_FILE_PATH", "best"),
    )
    # The epoch that it begins with is validated here too, and so may be the best with a file.
    train_with_errors(cfg, monkeypatch, [25.0, 15.0, 30.0, 40.0])
    assert checkpoint_to_test(cfg) == checkpoint_path(cfg.OUTPUT_DIR, 3)
