"""The whole way of a run, by the command line and in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

from stvit_video.config import load_config

PROGRAM = Path(__file__).resolve().parents[2] / "tools" / "run_net.py"


def test_a_command_trains_and_tests(config_file, video_folder, tmp_path):
    command = [sys.executable, PROGRAM, "--cfg", config_file, "--opts", "SOLVER.MAX_EPOCH", "1"]
    bare = ["--init_method", "", "DATA.PATH_TO_DATA_DIR", video_folder, "LOG_MODEL_INFO", "True"]
    # The package must be found without a path, and threads would only wait for other tests.
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ended = subprocess.run(
        list(map(str, command + bare)),
        cwd=tmp_path,
        env={**env, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""  # no warnings of ours or of others
    output = tmp_path / "output"
    assert load_config(output / "config.yaml").SOLVER.MAX_EPOCH == 1
    assert {path.name for path in output.iterdir()} == {
        *("checkpoints", "config.yaml", "json_stats.log", "results", "stdout.log")
    }
    assert {path.name for path in (output / "results").iterdir()} == {
        *("confusion_matrix.png", "left_out.csv", "per_class.csv", "predictions.csv"),
        *("scores.npz", "summary.json"),
    }
    summary = json.loads((output / "results" / "summary.json").read_text())
    assert summary["checkpoint"] == str(output / "checkpoints" / "checkpoint_epoch_00001.pyth")
