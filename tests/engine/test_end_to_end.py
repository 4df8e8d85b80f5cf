"""Train and test from the command line, in a separate process."""

import json
import os
import subprocess
import sys
from pathlib import Path

from stvit_video.config import load_config

PROGRAM = Path(__file__).resolve().parents[2] / "tools" / "run_net.py"


def test_a_command_trains_and_tests(config_file, video_folder, tmp_path):
    command = [sys.executable, PROGRAM, "--cfg", config_file, "--opts", "SOLVER.MAX_EPOCH", "1"]
    options = ["--init_method", "", "DATA.PATH_TO_DATA_DIR", video_folder, "LOG_MODEL_INFO", "True"]
    # The package must be importable without PYTHONPATH. More threads would slow other tests down.
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    completed = subprocess.run(
        list(map(str, command + options)),
        cwd=tmp_path,
        env={**env, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert completed.returncode == 0, completed.stderr
    assert completed.stderr == ""  # no warnings
    output = tmp_path / "output"
    assert load_config(output / "config.yaml").SOLVER.MAX_EPOCH == 1
    assert {path.name for path in output.iterdir()} == {
        "checkpoints",
        "config.yaml",
        "json_stats.log",
        "results",
        "stdout.log",
    }
    assert {path.name for path in (output / "results").iterdir()} == {
        "confusion_matrix.png",
        "left_out.csv",
        "per_class.csv",
        "predictions.csv",
        "scores.npz",
        "summary.json",
    }
    summary = json.loads((output / "results" / "summary.json").read_text())
    assert summary["checkpoint"] == str(output / "checkpoints" / "checkpoint_epoch_00001.pyth")
