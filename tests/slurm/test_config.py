import re
from pathlib import Path

import pytest
import torch

from stvit_video.config import dump_config, load_config
from stvit_video.config.defaults import default_config
from stvit_video.config.keys import flatten
from stvit_video.errors import UserError
from stvit_video.slurm.build import (
    PATH_KEYS,
    array_overrides,
    chain_configs,
    load_job_config,
    parse_array,
)

# Keys with similar names that hold paths relative to OUTPUT_DIR, or no paths.
OTHER_KEYS = {"TENSORBOARD.LOG_DIR", "TEST.SAVE_RESULTS_PATH"}


def test_every_key_that_holds_a_path_is_made_absolute():
    looks = re.compile(r"(PATH|DIR|FILE|PREFIX|FOLDER)$")
    paths = {key for key in flatten(default_config()) if looks.search(key)}
    assert paths == set(PATH_KEYS) | OTHER_KEYS


def test_paths_are_relative_to_the_working_directory(config_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = ["DATA.PATH_TO_DATA_DIR", "a b/=c", "TRAIN.CHECKPOINT_FILE_PATH", "/w.pth"]
    cfg = load_job_config(config_file, [*overrides, "TEST.CHECKPOINT_FILE_PATH", "best"])
    assert str(tmp_path / "run") == cfg.OUTPUT_DIR
    assert str(tmp_path / "a b" / "=c") == cfg.DATA.PATH_TO_DATA_DIR
    assert cfg.DATA.PATH_PREFIX == ""
    assert cfg.TRAIN.CHECKPOINT_FILE_PATH == "/w.pth"
    assert cfg.TEST.CHECKPOINT_FILE_PATH == "best"
    dump_config(cfg, tmp_path / "merged.yaml")
    monkeypatch.chdir("/")
    assert load_config(tmp_path / "merged.yaml") == cfg


def test_nodes_and_gpus_become_shards_and_ranks(config_file):
    cfg = load_job_config(config_file, ["DEVICE", "cuda"], nodes=4, gpus_per_node=2)
    assert (cfg.NUM_SHARDS, cfg.NUM_GPUS, cfg.DEVICE) == (4, 2, "cuda")
    cfg = load_job_config(config_file, ["DEVICE", "cuda", "NUM_GPUS", "2"], gpus_per_node=0)
    assert (cfg.NUM_SHARDS, cfg.NUM_GPUS, cfg.DEVICE) == (1, 2, "cpu")
    cfg = load_job_config(config_file, ["NUM_SHARDS=3"])
    assert (cfg.NUM_SHARDS, cfg.NUM_GPUS, cfg.DEVICE) == (3, 1, "cpu")


def test_requested_gpus_are_used(config_file):
    """With DEVICE auto, a node without a working GPU would train on its CPU unnoticed."""
    assert load_job_config(config_file, ["DEVICE", "auto"]).DEVICE == "cuda"


def test_device_auto_is_resolved_on_this_machine(config_file):
    here = "cuda" if torch.cuda.is_available() else "cpu"
    assert here == load_job_config(config_file, ["DEVICE", "auto"], is_local=True).DEVICE


@pytest.mark.parametrize(
    ("overrides", "flags", "sentence"),
    [
        (["NUM_SHARDS", "2"], {"nodes": 4}, "NUM_SHARDS and --nodes set the same number"),
        (["NUM_GPUS=2"], {"gpus_per_node": 4}, "NUM_GPUS and --gpus-per-node set the same number"),
        ([], {"gpus_per_node": 4}, "DEVICE is cpu"),
        (["DEVICE", "cuda"], {"gpus_per_node": 3}, "TRAIN.BATCH_SIZE must be a multiple of NUM_G"),
        ([], {"nodes": 0}, "NUM_SHARDS must be at least 1"),
        (["TRAIN.BATCHSIZE", "2"], {}, "did you mean TRAIN.BATCH_SIZE"),
    ],
)
def test_flags_and_overrides_that_conflict(config_file, overrides, flags, sentence):
    with pytest.raises(UserError, match=sentence):
        load_job_config(config_file, overrides, **flags)


def test_an_array_is_split_at_commas_outside_of_brackets():
    assert parse_array("SOLVER.BASE_LR=1e-3,5e-4, 2e-4") == (
        "SOLVER.BASE_LR",
        ["1e-3", "5e-4", "2e-4"],
    )
    assert parse_array("STVIT.KEY_WINDOWS=(10,14),[7,7]") == (
        "STVIT.KEY_WINDOWS",
        ["(10,14)", "[7,7]"],
    )


@pytest.mark.parametrize("text", ["SOLVER.BASE_LR", "A=", "A=1", "A=1,", "A=1,1", "=1,2"])
def test_an_array_needs_a_key_and_different_values(text):
    with pytest.raises(UserError, match="KEY=VALUE,VALUE"):
        parse_array(text)


def test_the_jobs_of_an_array_have_folders_of_their_own():
    assert array_overrides("STVIT.KEY_WINDOWS", "(10, 14)", output_dir="/out") == [
        *("STVIT.KEY_WINDOWS", "(10, 14)"),
        *("OUTPUT_DIR", "/out/STVIT.KEY_WINDOWS=_10,_14_"),
    ]
    assert array_overrides("OUTPUT_DIR", "b", output_dir="/out") == ["OUTPUT_DIR", "b"]


@pytest.fixture
def configs(config_file):
    """Two configs of 2 epochs, with OUTPUT_DIR /a and /b."""
    return [load_job_config(config_file, ["OUTPUT_DIR", folder]) for folder in ("/a", "/b")]


def test_a_chain_takes_the_weights_of_the_last_checkpoint(configs):
    first, second = chain_configs(configs)
    assert first == configs[0]
    path = Path(second.TRAIN.CHECKPOINT_FILE_PATH)
    assert path == Path("/a/checkpoints/checkpoint_epoch_00002.pyth")
    assert second.TRAIN.CHECKPOINT_EPOCH_RESET


def test_a_chain_may_end_with_a_test(config_file, configs):
    tested = load_job_config(config_file, ["TRAIN.ENABLE", "False"])
    _, second = chain_configs([configs[0], tested])
    assert second.TEST.CHECKPOINT_FILE_PATH == "/a/checkpoints/checkpoint_epoch_00002.pyth"
    assert second.TRAIN.CHECKPOINT_FILE_PATH == ""


def test_invalid_chains(config_file, configs):
    tested = load_job_config(config_file, ["TRAIN.ENABLE", "False"])
    with pytest.raises(UserError, match="must train"):
        chain_configs([tested, configs[0]])
    with pytest.raises(UserError, match="OUTPUT_DIR of its own, but /a "):
        chain_configs([configs[0], configs[0]])
