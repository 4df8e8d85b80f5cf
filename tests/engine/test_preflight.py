import shutil
from pathlib import Path

import pytest

from stvit_video.engine.checkpoint import checkpoint_path
from stvit_video.engine.preflight import preflight
from stvit_video.engine.train import train
from stvit_video.errors import UserError


@pytest.fixture
def own_folder(video_folder, tmp_path):
    """A copy of the data set that a test may spoil."""
    return Path(shutil.copytree(video_folder, tmp_path / "videos"))


def test_a_run_that_can_start_leaves_nothing_behind(video_config):
    cfg = video_config()
    preflight(cfg)
    assert not Path(cfg.OUTPUT_DIR).exists()


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_split_is_read_before_training(video_config, own_folder, split):
    (own_folder / f"{split}.csv").unlink()
    cfg = video_config("DATA.PATH_TO_DATA_DIR", str(own_folder))
    with pytest.raises(UserError, match=f"{split}.csv"):
        preflight(cfg)
    assert not Path(cfg.OUTPUT_DIR).exists()


def test_splits_that_are_not_used_are_not_needed(video_config, own_folder):
    (own_folder / "test.csv").unlink()
    folder = ("DATA.PATH_TO_DATA_DIR", str(own_folder))
    preflight(video_config(*folder, "TEST.ENABLE", "False"))


@pytest.mark.parametrize("key", ["TRAIN.CHECKPOINT_FILE_PATH", "TEST.CHECKPOINT_FILE_PATH"])
def test_weights_are_read_before_training(video_config, tmp_path, key):
    path = tmp_path / "weights.pth"
    with pytest.raises(UserError, match=r"Checkpoint .*weights\.pth does not exist"):
        preflight(video_config(key, str(path)))
    path.write_bytes(b"not weights")
    with pytest.raises(UserError, match=r"weights\.pth"):
        preflight(video_config(key, str(path)))


def test_a_test_alone_needs_weights(video_config):
    with pytest.raises(UserError, match="no weights to test"):
        preflight(video_config("TRAIN.ENABLE", "False"))


def test_a_checkpoint_that_training_will_write_may_be_tested(video_config):
    cfg = video_config()
    path = Path(cfg.OUTPUT_DIR) / "checkpoints" / "checkpoint_epoch_00001.pyth"
    preflight(video_config("TEST.CHECKPOINT_FILE_PATH", str(path)))


def stopping_after(steps):
    """A question that is answered with yes from the so-manieth time on."""
    asked = iter(range(1, 99))
    return lambda: next(asked) >= steps


def test_where_a_run_will_go_on_is_known_before(video_config):
    assert preflight(video_config()) is None
    cfg = video_config("TRAIN.BATCH_SIZE", "2")
    train(cfg, should_stop=stopping_after(2))
    resumes = preflight(cfg)
    assert resumes is not None
    assert resumes.is_own
    assert resumes.path == checkpoint_path(cfg.OUTPUT_DIR, 0, 2)
    assert (resumes.finished_epochs, resumes.finished_steps) == (0, 2)
    assert "BATCH_SIZE: 2" in resumes.config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("TRAIN.BATCH_SIZE", "4"), "epoch of 4 steps, but this run has 2"),
        (("NUM_SHARDS", "2"), "epoch of 4 steps, but this run has 2"),
        (("MODEL.NUM_CLASSES", "4"), "is of another model"),
        (("SOLVER.OPTIMIZING_METHOD", "sgd"), "another optimizer"),
    ],
)
@pytest.mark.parametrize("is_own", [True, False])
def test_what_a_run_goes_on_from_is_compared_with_it(
    video_config, tmp_path, overrides, message, is_own
):
    first = video_config("TRAIN.BATCH_SIZE", "2")
    train(first, should_stop=stopping_after(2))
    path = checkpoint_path(first.OUTPUT_DIR, 0, 2)
    elsewhere = ("OUTPUT_DIR", str(tmp_path / "b"), "TRAIN.CHECKPOINT_FILE_PATH", str(path))
    cfg = video_config("TRAIN.BATCH_SIZE", "2", *overrides, *(() if is_own else elsewhere))
    with pytest.raises(UserError, match=message):
        preflight(cfg)


def test_a_run_behind_another_in_its_folder_may_divide_epochs_anew(video_config):
    train(video_config("TRAIN.BATCH_SIZE", "2"), should_stop=stopping_after(2))
    assert preflight(video_config(), is_in_use=True)
    with pytest.raises(UserError, match="is of another model"):
        preflight(video_config("MODEL.NUM_CLASSES", "4"), is_in_use=True)


def test_a_finished_checkpoint_of_another_run_is_found_before(video_config, tmp_path):
    first = video_config("SOLVER.MAX_EPOCH", "1")
    train(first)
    path = ("TRAIN.CHECKPOINT_FILE_PATH", str(checkpoint_path(first.OUTPUT_DIR, 1)))
    second = (*path, "OUTPUT_DIR", str(tmp_path / "second"))
    with pytest.raises(UserError, match="nothing is left to train"):
        preflight(video_config(*second, "SOLVER.MAX_EPOCH", "1"))
    resumes = preflight(video_config(*second))
    assert resumes is not None
    assert not resumes.is_own
    assert preflight(video_config(*second, "TRAIN.CHECKPOINT_EPOCH_RESET", "True")) is None


def test_class_names_are_read_before_training(video_config, tmp_path):
    path = tmp_path / "names.json"
    path.write_text('{"a": 0}')
    with pytest.raises(UserError, match=r"names\.json"):
        preflight(video_config("TENSORBOARD.CLASS_NAMES_PATH", str(path)))


def test_predictions_need_the_name_of_a_file(video_config, tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        preflight(video_config("TEST.SAVE_RESULTS_PATH", str(tmp_path)))
