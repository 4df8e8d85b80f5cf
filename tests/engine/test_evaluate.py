import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from broken_videos import ODD
from recording import test_in_turn as run_in_turn

from stvit_video.config import dump_config, load_config
from stvit_video.data.build import build_dataset
from stvit_video.engine.evaluate import evaluate
from stvit_video.engine.precision import build_normalize
from stvit_video.errors import UserError
from stvit_video.models import build_model, save_weights
from stvit_video.runtime.atomic_files import sha256
from stvit_video.runtime.distributed import run_ranks


@pytest.fixture
def weights(small_config, tmp_path):
    torch.manual_seed(5)
    model = build_model(small_config("MODEL.FC_INIT_STD", "1.0")).eval()
    path = tmp_path / "weights.safetensors"
    save_weights(model, path)
    return model, path


def results(cfg):
    folder = Path(cfg.OUTPUT_DIR) / "results"
    return np.load(folder / "scores.npz"), json.loads((folder / "summary.json").read_text())


def expected_scores(cfg, model):
    """Reference implementation: softmax of one view after another, then the mean."""
    normalize = build_normalize(cfg, torch.device("cpu"))
    scores = []
    for item in build_dataset(cfg, "test"):
        with torch.no_grad():
            views = [model(normalize(view[None])).softmax(-1) for view in item["video"]]
        scores.append(torch.cat(views))
    return torch.stack(scores).numpy()  # [videos, views, classes]


def test_without_weights_a_test_does_not_start(video_config):
    with pytest.raises(UserError, match="no weights to test"):
        evaluate(video_config())


def test_weights_of_another_model_are_refused(video_config, weights):
    path = ("TEST.CHECKPOINT_FILE_PATH", str(weights[1]))
    with pytest.raises(
        UserError, match=r"has 3 classes, but the model has 4 \(MODEL\.NUM_CLASSES\): set 3"
    ):
        evaluate(video_config(*path, "MODEL.NUM_CLASSES", "4"))


def stopped_and_whole(video_config, weights, tmp_path, *overrides):
    """Return configs for two folders with one video per batch and rank."""
    path = ("TEST.CHECKPOINT_FILE_PATH", str(weights[1]), "TEST.BATCH_SIZE", "6", *overrides)
    return (
        video_config(*path, "OUTPUT_DIR", str(tmp_path / name)) for name in ("stopped", "whole")
    )


def batches_of(cfg):
    """Return the batches that a test logged."""
    log = (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()
    return re.findall(r'"iter": "(\d/\d)"', log)


def assert_same_results(cfg, other):
    folder, expected = (Path(each.OUTPUT_DIR) / "results" for each in (cfg, other))
    names = sorted(path.name for path in expected.iterdir())
    assert sorted(path.name for path in folder.iterdir()) == names
    for name in names:
        if name != "scores.npz":
            assert (folder / name).read_bytes() == (expected / name).read_bytes(), name
    arrays, expected_arrays = results(cfg)[0], results(other)[0]
    for name in expected_arrays.files:
        np.testing.assert_array_equal(arrays[name], expected_arrays[name])
        assert arrays[name].dtype == expected_arrays[name].dtype
    assert not (Path(cfg.OUTPUT_DIR) / "stopped_test").exists()


def test_a_stopped_test_resumes_with_the_remaining_videos(video_config, weights, tmp_path):
    stopped, whole = stopped_and_whole(video_config, weights, tmp_path)
    run_in_turn([(stopped, 2), (stopped, 3)])
    assert not (Path(stopped.OUTPUT_DIR) / "results").exists()
    run_in_turn([(stopped, None), (whole, None)])
    assert batches_of(stopped) == ["1/7", "2/7", "1/5", "2/5", "3/5", "1/2", "2/2"]
    assert_same_results(stopped, whole)
    log = (Path(stopped.OUTPUT_DIR) / "stdout.log").read_text()
    assert "Resuming a stopped test: 5 videos are done" in log
    # The next test starts from the beginning.
    evaluate(stopped)
    assert batches_of(stopped)[7:] == batches_of(whole)


def test_a_stop_after_the_last_video_leaves_nothing_to_test(video_config, weights, tmp_path):
    stopped, whole = stopped_and_whole(video_config, weights, tmp_path)
    run_in_turn([(stopped, 7), (stopped, None), (whole, None)])
    assert batches_of(stopped) == batches_of(whole)
    assert_same_results(stopped, whole)


def test_remaining_videos_are_spread_evenly_over_ranks(video_config, weights, tmp_path, capfd):
    two = ("NUM_GPUS", "2", "TEST.BATCH_SIZE", "12")
    stopped, whole = stopped_and_whole(video_config, weights, tmp_path, *two)
    runs = [(stopped, 1), (stopped, None), (whole, None)]
    run_ranks(run_in_turn, runs, num_local_ranks=2, device="cpu")
    # The log is rank 0's, which was not asked to stop; rank 1 left both remaining videos.
    assert batches_of(stopped) == ["1/4", "2/4", "3/4", "4/4", "1/1"]
    log = (Path(stopped.OUTPUT_DIR) / "stdout.log").read_text()
    assert log.count("Resuming a stopped test: 5 videos are done") == 1
    assert_same_results(stopped, whole)
    assert "could not be read" not in "".join(capfd.readouterr())


def test_lost_predictions_of_a_rank_are_computed_again(video_config, weights, tmp_path):
    """Test with two ranks, lose the file of one, then resume with one rank and other limits."""
    two = ("NUM_SHARDS", "2")
    stopped, whole = stopped_and_whole(video_config, weights, tmp_path, *two)
    # Rank 1 stops after two of its own batches; rank 0 has finished four by then.
    run_ranks(run_in_turn, [(stopped, 2)], num_local_ranks=2, device="cpu")
    files = sorted((Path(stopped.OUTPUT_DIR) / "stopped_test").glob("*.npz"))
    assert [file.name for file in files] == [f"start_001_rank_0000{rank}.npz" for rank in (0, 1)]
    files[0].unlink()
    run_ranks(run_in_turn, [(stopped, 2)], num_local_ranks=2, device="cpu")
    one = with_overrides(
        stopped, tmp_path, "NUM_SHARDS", "1", "DATA.MAX_BAD_VIDEOS", "9", "LOG_PERIOD", "1"
    )
    run_in_turn([(one, None), (whole, None)])
    # Rank 0 tests four of seven videos, then three of the remaining five, then none.
    assert batches_of(stopped) == ["1/4", "2/4", "3/4", "4/4", "1/3", "2/3", "3/3"]
    log = (Path(stopped.OUTPUT_DIR) / "stdout.log").read_text()
    assert "2 videos are done" in log
    assert "7 videos are done" in log
    assert_same_results(one, whole)


def test_a_failed_test_keeps_its_finished_predictions(
    video_config, weights, tmp_path, video_folder
):
    """Exceed the limit of bad videos at the fourth video, then fix it and resume.

    With two videos per batch, the other video of its batch is tested again too.
    """
    folder = tmp_path / "videos"
    shutil.copytree(video_folder, folder)
    good = (folder / "3.mp4").read_bytes()
    data = ("DATA.PATH_TO_DATA_DIR", str(folder), "TEST.BATCH_SIZE", "12")
    stopped, whole = stopped_and_whole(video_config, weights, tmp_path, *data)
    (folder / "3.mp4").write_bytes(b"no video")
    strict = with_overrides(stopped, tmp_path, "DATA.MAX_BAD_VIDEOS", "0")
    with pytest.raises(UserError, match=r"1 of the 7 videos .* cannot be read .*3\.mp4"):
        evaluate(strict)
    assert batches_of(strict) == ["1/4"]
    run_in_turn([(stopped, 2)])
    (folder / "3.mp4").write_bytes(good)
    run_in_turn([(stopped, None), (whole, None)])
    assert batches_of(stopped) == ["1/4", "1/3", "2/3", "1/2", "2/2"]
    assert_same_results(stopped, whole)


def test_bad_videos_of_a_stopped_test_are_counted_once(
    video_config, weights, tmp_path, video_folder
):
    folder = tmp_path / "videos"
    shutil.copytree(video_folder, folder)
    # Bad and odd videos in finished batches, and in the batch that is read during the stop.
    for name in ("0.mp4", "3.mp4", "5.mp4"):
        (folder / name).write_bytes(b"no video")
    for name in ("1.mp4", "4.mp4"):
        ODD["av1.mp4"][0](folder / name)
    data = ("DATA.PATH_TO_DATA_DIR", str(folder), "TEST.BATCH_SIZE", "12")
    data = (*data, "DATA.DECODING_BACKEND", "decord")
    stopped, whole = stopped_and_whole(video_config, weights, tmp_path, *data)
    run_in_turn([(stopped, 2), (stopped, None), (whole, None)])
    # The first two batches of two videos were finished except for bad videos, which are retried.
    assert batches_of(stopped) == ["1/4", "2/4", *(f"{batch}/4" for batch in range(1, 5))]
    assert results(stopped)[1]["num_left_out"] == 3
    # At least two, because decord may reject others.
    assert results(stopped)[1]["num_second_tries"] >= 2
    assert_same_results(stopped, whole)


@pytest.mark.parametrize("change", ["weights", "config", "videos", "code", "damaged"])
def test_predictions_of_another_test_are_ignored(
    video_config, weights, tmp_path, video_folder, monkeypatch, change
):
    folder = tmp_path / "videos"
    shutil.copytree(video_folder, folder)
    cfg, _ = stopped_and_whole(
        video_config, weights, tmp_path, "DATA.PATH_TO_DATA_DIR", str(folder)
    )
    run_in_turn([(cfg, 2)])
    (file,) = (Path(cfg.OUTPUT_DIR) / "stopped_test").glob("*.npz")
    if change == "weights":
        save_weights(build_model(cfg), weights[1])
    elif change == "config":
        cfg = with_overrides(cfg, tmp_path, "DATA.ENSEMBLE_METHOD", "max")
    elif change == "code":
        monkeypatch.setattr(torch, "__version__", "0.4.1")
    elif change == "videos":
        lines = (folder / "test.csv").read_text().splitlines()
        (folder / "test.csv").write_text("\n".join(reversed(lines)))
    else:
        file.write_bytes(file.read_bytes()[:-1])
    evaluate(cfg)
    assert batches_of(cfg)[2:] == [f"{batch}/7" for batch in range(1, 8)]
    assert len(results(cfg)[0]["labels"]) == 7


def with_overrides(cfg, tmp_path, *overrides):
    dump_config(cfg, tmp_path / "merged.yaml")
    return load_config(tmp_path / "merged.yaml", overrides)


@pytest.mark.parametrize("batch", ["1", "4", "100"])
def test_scores_are_the_mean_over_the_views(video_config, weights, batch):
    model, path = weights
    cfg = video_config("TEST.CHECKPOINT_FILE_PATH", str(path), "TEST.BATCH_SIZE", batch)
    evaluate(cfg)
    scores, summary = results(cfg)
    expected = expected_scores(cfg, model)
    np.testing.assert_allclose(scores["scores"], expected.mean(axis=1), atol=1e-6)
    np.testing.assert_array_equal(scores["labels"], np.arange(7) % 3)
    right = expected.mean(axis=1).argmax(axis=1) == scores["labels"]
    assert summary["top1_acc"] == pytest.approx(100 * right.mean())
    assert summary["num_videos"] == 7
    # The single clip chosen out of two is the second, whose crops are the last three views.
    one_clip = expected[:, 3:].mean(axis=1).argmax(axis=1) == scores["labels"]
    assert summary["top1_acc_by_clips"]["1"] == pytest.approx(100 * one_clip.mean())


def test_ensembles_and_activations(video_config, weights):
    model, path = weights
    head = ("MODEL.HEAD_ACT", "none", "DATA.ENSEMBLE_METHOD", "max")
    cfg = video_config("TEST.CHECKPOINT_FILE_PATH", str(path), *head)
    evaluate(cfg)
    normalize = build_normalize(cfg, torch.device("cpu"))
    item = build_dataset(cfg, "test")[2]
    with torch.no_grad():
        logits = model(normalize(item["video"]))
    np.testing.assert_allclose(results(cfg)[0]["scores"][2], logits.amax(0), atol=1e-5)


def test_results_name_their_sources(video_config, weights):
    cfg = video_config(
        *(
            "TEST.CHECKPOINT_FILE_PATH",
            str(weights[1]),
            "TEST.SAVE_RESULTS_PATH",
            "elsewhere/mine.csv",
        )
    )
    evaluate(cfg)
    _, summary = results(cfg)
    assert summary["checkpoint_sha256"] == sha256(weights[1])
    assert summary["views"] == {"clips": 2, "crops": 3}
    assert [
        Path(name).name
        for name in pd.read_csv(f"{cfg.OUTPUT_DIR}/elsewhere/mine.csv")["video_name"]
    ] == [f"{index}.mp4" for index in range(7)]
    last = (Path(cfg.OUTPUT_DIR) / "json_stats.log").read_text().splitlines()[-1]
    line = json.loads(last.removeprefix("json_stats: "))
    assert line["_type"] == "test_final"
    assert line["top1_acc"] == pytest.approx(summary["top1_acc"], rel=1e-4)
    assert line["top5_acc"] == 100
    assert "mean class accuracy" in (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()


def test_scores_that_are_not_finite_are_an_error(video_config, weights, monkeypatch):
    model, path = weights
    monkeypatch.setattr(type(model), "forward", lambda self, x: x.new_full((len(x), 3), np.nan))
    with pytest.raises(UserError, match=r"0\.mp4 are not finite"):
        evaluate(video_config("TEST.CHECKPOINT_FILE_PATH", str(path)))
