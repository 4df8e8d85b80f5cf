import shutil
from pathlib import Path

import pytest

from stvit_video.engine.preflight import preflight
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
    with pytest.raises(UserError, match=r"no checkpoint .*weights\.pth"):
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


def test_class_names_are_read_before_training(video_config, tmp_path):
    path = tmp_path / "names.json"
    path.write_text('{"a": 0}')
    with pytest.raises(UserError, match=r"names\.json"):
        preflight(video_config("TENSORBOARD.CLASS_NAMES_PATH", str(path)))


def test_predictions_need_the_name_of_a_file(video_config, tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        preflight(video_config("TEST.SAVE_RESULTS_PATH", str(tmp_path)))
