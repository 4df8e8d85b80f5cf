"""Test the command line, in a subprocess if the exit status and the output matter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import run_net

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "tools" / "run_net.py"


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("DEVICE: cpu\n")
    return path


def start(*arguments, folder):
    return subprocess.run(
        [sys.executable, str(PROGRAM), *map(str, arguments)],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_wrong_key_is_one_line_and_status_2(config_file, tmp_path):
    # Run in another folder, without PYTHONPATH.
    ended = start("--cfg", config_file, "--opts", "TRAIN.BATCHSIZE", "8", folder=tmp_path)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert "TRAIN.BATCHSIZE" in ended.stderr
    assert "TRAIN.BATCH_SIZE" in ended.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.yaml"]


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit) as ended:
        run_net.main(["--help"])
    assert ended.value.code == 0
    assert "configs/demo/stvit_swin_motion.yaml" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    [
        "--cfg a.yaml --opts NUM_GPUS 2 TRAIN.BATCH_SIZE -8",
        "--cfg a.yaml NUM_GPUS 2 TRAIN.BATCH_SIZE -8",
        "--cfg a.yaml --init_method tcp://h:1 NUM_GPUS 2 TRAIN.BATCH_SIZE -8",
        "--cfg a.yaml --opts NUM_GPUS 2 --init_method tcp://h:1 TRAIN.BATCH_SIZE -8",
        "NUM_GPUS 2 TRAIN.BATCH_SIZE -8 --cfg a.yaml",
    ],
)
def test_overrides_follow_opts_or_stand_alone(line):
    parsed = run_net.parse_arguments(line.split())
    assert parsed.cfg_files == ["a.yaml"]
    assert parsed.overrides == ["NUM_GPUS", "2", "TRAIN.BATCH_SIZE", "-8"]


def test_several_configs():
    parsed = run_net.parse_arguments(["--cfg", "a.yaml", "b.yml", "TEST.CHECKPOINT_FILE_PATH", "x"])
    assert parsed.cfg_files == ["a.yaml", "b.yml"]
    assert parsed.overrides == ["TEST.CHECKPOINT_FILE_PATH", "x"]


def test_shards_are_overrides():
    arguments = ["--cfg", "a.yaml", "--num_shards", "2", "--shard_id", "1"]
    parsed = run_net.parse_arguments([*arguments, "--init_method", "tcp://host:1"])
    assert parsed.overrides == ["NUM_SHARDS", "2", "SHARD_ID", "1"]
    assert parsed.init_method == "tcp://host:1"


def test_all_configs_are_read_before_the_first_runs(config_file, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(run_net, "run", lambda cfg, init_method: ran.append(cfg.OUTPUT_DIR))
    second = tmp_path / "b.yaml"
    second.write_text("OUTPUT_DIR: elsewhere\n")
    assert run_net.main(["--cfg", str(config_file), str(second), "DEVICE", "cpu"]) == 0
    assert ran == ["output", "elsewhere"]
    second.write_text("OUTPUT: elsewhere\n")
    assert run_net.main(["--cfg", str(config_file), str(second)]) == 2
    assert ran == ["output", "elsewhere"]


def test_a_run_is_one_process_group(config_file, tmp_path, monkeypatch):
    """Under torchrun, two process groups would use the same store."""
    ran, groups = [], []

    def run_ranks(function, cfg, **options):
        groups.append(options)
        function(cfg)

    monkeypatch.setattr("stvit_video.engine.preflight.preflight", lambda cfg: None)
    monkeypatch.setattr("stvit_video.runtime.distributed.run_ranks", run_ranks)
    monkeypatch.setattr("stvit_video.engine.run.train", lambda cfg: ran.append("train"))
    monkeypatch.setattr("stvit_video.engine.run.evaluate", lambda cfg: ran.append("test"))
    arguments = ["--cfg", str(config_file), "OUTPUT_DIR", str(tmp_path / "run")]
    assert run_net.main(arguments) == 0
    assert (ran, len(groups)) == (["train", "test"], 1)
    assert run_net.main([*arguments, "TRAIN.ENABLE", "False"]) == 0
    assert (ran, len(groups)) == (["train", "test", "test"], 2)
    assert run_net.main([*arguments, "TRAIN.ENABLE", "False", "TEST.ENABLE", "False"]) == 0
    assert len(groups) == 2


def test_two_trainings_in_one_folder_are_refused(config_file, tmp_path, capsys):
    second = tmp_path / "b.yaml"
    second.write_text("RNG_SEED: 2\n")
    assert run_net.main(["--cfg", str(config_file), str(second)]) == 2
    assert "OUTPUT_DIR of its own" in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_written_is_an_error(config_file, monkeypatch, capsys):
    monkeypatch.setattr("stvit_video.engine.preflight.preflight", lambda cfg: None)
    folder = str(config_file / "run")  # cannot be created inside of a file
    assert run_net.main(["--cfg", str(config_file), "OUTPUT_DIR", folder]) == 2
    assert "cannot be written (Not a directory)" in capsys.readouterr().err
