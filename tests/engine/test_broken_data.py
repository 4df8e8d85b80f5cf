"""Train and test on a folder in which a tenth of the files are broken, in every known way."""

import json
import logging
import os
import random
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
from broken_videos import BROKEN, make_broken_videos

from stvit_video.data import labeled_videos
from stvit_video.engine.checkpoint import find_checkpoints
from stvit_video.engine.evaluate import evaluate
from stvit_video.engine.train import train
from stvit_video.errors import UserError
from stvit_video.models import build_model, save_weights
from stvit_video.runtime.distributed import run_ranks

# Files that crash or hang their worker. No encoder writes such files, so the crash is simulated.
FATAL = {"kills.mp4": "SIGKILL", "crashes.mp4": "SIGSEGV", "hangs.mp4": "longer than 2 s"}
BAD = [*BROKEN, *FATAL]
GOOD = 9 * len(BAD)


@pytest.fixture(scope="module")
def broken_folder(video_folder, tmp_path_factory):
    """Return a folder with a tenth of broken files in train.csv and test.csv, none in val.csv."""
    folder = tmp_path_factory.mktemp("tenth broken")
    make_broken_videos(folder)
    for name in FATAL:
        (folder / name).touch()
    names = [f"good {number}.mp4" for number in range(GOOD)]
    for number, name in enumerate(names):
        os.link(video_folder / f"{number % 8}.mp4", folder / name)
    (folder / "val.csv").write_text("good 0.mp4 0\ngood 1.mp4 1\n")
    names += BAD
    random.Random(0).shuffle(names)
    lines = "".join(f"{name} {number % 3}\n" for number, name in enumerate(names))
    (folder / "train.csv").write_text(lines)
    (folder / "test.csv").write_text(lines)
    return folder


@pytest.fixture
def config(small_config, broken_folder, monkeypatch):
    """Return a function from overrides to a config; some files crash or hang the workers."""
    real = labeled_videos.open_video

    def open_video(path, **options):
        match Path(path).name:
            case "kills.mp4":
                os.kill(os.getpid(), signal.SIGKILL)
            case "crashes.mp4":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hangs.mp4":
                time.sleep(1000)
        return real(path, **options)

    monkeypatch.setattr(labeled_videos, "open_video", open_video)
    return lambda *overrides: small_config(
        *("DATA.PATH_TO_DATA_DIR", str(broken_folder), "DATA_LOADER.NUM_WORKERS", "2"),
        *("TRAIN.BATCH_SIZE", "10", "TEST.BATCH_SIZE", "20", "TEST.NUM_ENSEMBLE_VIEWS", "1"),
        *("TEST.NUM_SPATIAL_CROPS", "1", "SOLVER.MAX_EPOCH", "1", "LOG_PERIOD", "100"),
        *("DATA.DECODE_TIMEOUT", "2", *overrides),
    )


def write_lists(where, *, folder, **splits):
    for split, names in splits.items():
        (where / f"{split}.csv").write_text("".join(f"{folder}/{name} 0\n" for name in names))


def quarantined(cfg, file="quarantine.csv"):
    return pd.read_csv(Path(cfg.OUTPUT_DIR) / file).set_index("path")


def log_of(cfg):
    return (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()


def assert_every_fault_is_listed(table):
    assert sorted(table.index) == sorted(BAD)
    for name, (_, reason) in BROKEN.items():
        assert pd.Series(table.error[name]).str.contains(reason).all(), name
    for name, reason in FATAL.items():
        assert reason in table.error[name]
    assert set(table.index[table.kills]) == set(FATAL)


def test_training_continues_and_lists_broken_videos(config):
    cfg = config()
    train(cfg)
    table = quarantined(cfg)
    assert_every_fault_is_listed(table)
    lines = (Path(cfg.DATA.PATH_TO_DATA_DIR) / "train.csv").read_text().splitlines()
    for name, row in table.iterrows():
        assert lines[row.line - 1] == f"{name} {row.label}"
    assert list(Path(cfg.OUTPUT_DIR).rglob("checkpoint_epoch_00001.pyth"))
    log = log_of(cfg)
    assert all(log.count(f"cannot read the video {name}:") == 1 for name in BAD)
    assert f"{len(BAD)} of the {10 * len(BAD)} videos of" in log


def test_a_test_reports_the_videos_it_read(config, tmp_path):
    cfg = config(
        "TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", str(tmp_path / "w.safetensors")
    )
    save_weights(build_model(cfg), tmp_path / "w.safetensors")
    evaluate(cfg)
    folder = Path(cfg.OUTPUT_DIR) / "results"
    assert_every_fault_is_listed(quarantined(cfg, "results/left_out.csv"))
    predictions = pd.read_csv(folder / "predictions.csv")
    assert set(predictions.video_name) == {f"good {number}.mp4" for number in range(GOOD)}
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["num_videos_expected"] == 10 * len(BAD)
    assert summary["num_videos"] == GOOD
    assert summary["num_left_out"] == len(BAD)
    assert summary["top1_acc"] == pytest.approx(100 * predictions.correct.mean())
    assert len(summary["dataset_fingerprint"]) == 16
    sentence = f"The test covers {GOOD} of {10 * len(BAD)} videos: {len(BAD)} could not be read"
    assert sentence in log_of(cfg)


def test_an_epoch_without_readable_videos_is_an_error(config, broken_folder, tmp_path):
    """All videos are bad, but not more than DATA.MAX_BAD_VIDEOS."""
    write_lists(tmp_path, folder=broken_folder, train=list(BROKEN)[:4] * 5, val=["good 0.mp4"])
    cfg = config("DATA.PATH_TO_DATA_DIR", str(tmp_path), "DATA.MAX_BAD_VIDEOS", "20")
    with pytest.raises(UserError, match=r"Epoch 1 ended after 0 of 2 steps, .*quarantine\.csv"):
        train(cfg)
    assert len(quarantined(cfg)) == 20


@pytest.mark.parametrize("ranks", [1, 2])
def test_too_many_bad_videos_stop_the_run(config, tmp_path, ranks):
    names = [*BROKEN, *(f"good {number}.mp4" for number in range(30))]
    write_lists(tmp_path, train=names, val=names[-1:], folder=config().DATA.PATH_TO_DATA_DIR)
    cfg = config(
        *("DATA.PATH_TO_DATA_DIR", str(tmp_path), "DATA_LOADER.NUM_WORKERS", "0"),
        *("DATA.MAX_BAD_VIDEOS", "1", "NUM_GPUS", str(ranks)),
    )
    began = time.perf_counter()
    with pytest.raises(UserError, match=r"of the 46 videos .* is 1: .*check_data\.py") as ended:
        run_ranks(train, cfg, num_local_ranks=ranks, device="cpu")
    assert str(ended.value).count("\n") == 0
    assert time.perf_counter() - began < 60
    lists = pd.concat(pd.read_csv(file) for file in Path(cfg.OUTPUT_DIR).glob("quarantine*.csv"))
    assert 2 <= len(set(map(os.path.basename, lists.path))) <= len(BROKEN)


def test_an_epoch_is_saved_if_only_the_ranks_together_exceed_the_limit(config, tmp_path):
    names = [*list(BROKEN)[:4], *(f"good {number}.mp4" for number in range(30))]
    write_lists(tmp_path, train=names, val=names[-1:], folder=config().DATA.PATH_TO_DATA_DIR)
    cfg = config(
        *("DATA.PATH_TO_DATA_DIR", str(tmp_path), "DATA_LOADER.NUM_WORKERS", "0", "NUM_GPUS", "2"),
        *("DATA.MAX_BAD_VIDEOS", "3", "SOLVER.MAX_EPOCH", "9", "TRAIN.CHECKPOINT_PERIOD", "9"),
    )
    with pytest.raises(UserError, match=r"4 of the 34 videos .* is 3: ") as ended:
        run_ranks(train, cfg, num_local_ranks=2, device="cpu")
    assert f"({cfg.OUTPUT_DIR}/quarantine*.csv lists all)" in str(ended.value)
    assert len(quarantined(cfg)) == 4
    (checkpoint,) = find_checkpoints(cfg.OUTPUT_DIR)
    assert checkpoint == (1, 0)


def test_validation_reports_the_videos_it_read(config, tmp_path, caplog):
    names = [f"good {number}.mp4" for number in range(10)]
    folder = config().DATA.PATH_TO_DATA_DIR
    write_lists(tmp_path, train=names, val=[*names, "empty.mp4"], folder=folder)
    with caplog.at_level(logging.INFO):
        train(config("DATA.PATH_TO_DATA_DIR", str(tmp_path), "DATA_LOADER.NUM_WORKERS", "0"))
    assert "Validation covers 10 of 11 videos: 1 could not be read" in caplog.text
    line = next(r.message for r in caplog.records if "val_epoch" in r.message)
    assert json.loads(line.removeprefix("json_stats: "))["num_videos"] == 10


def test_nothing_to_measure_is_an_error(config, tmp_path):
    names = ["empty.mp4", "text.mp4"]
    write_lists(tmp_path, test=names, folder=config().DATA.PATH_TO_DATA_DIR)
    cfg = config(
        *("DATA.PATH_TO_DATA_DIR", str(tmp_path), "DATA_LOADER.NUM_WORKERS", "0"),
        *("TEST.CHECKPOINT_FILE_PATH", str(tmp_path / "w.safetensors")),
    )
    save_weights(build_model(cfg), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="none of its 2 could be read"):
        evaluate(cfg)
