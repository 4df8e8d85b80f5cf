import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from stvit_video.data.build import build_dataset
from stvit_video.engine.durable import sha256
from stvit_video.engine.evaluate import test as run_test
from stvit_video.engine.precision import build_normalise
from stvit_video.errors import UserError
from stvit_video.models import build_model, save_weights


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
    """The plain definition: one view after another, softmax, mean."""
    normalise = build_normalise(cfg, torch.device("cpu"))
    scores = []
    for item in build_dataset(cfg, "test"):
        with torch.no_grad():
            views = [model(normalise(view[None])).softmax(-1) for view in item["video"]]
        scores.append(torch.cat(views))
    return torch.stack(scores).numpy()  # [videos, views, classes]


def test_without_weights_a_test_does_not_start(video_config):
    with pytest.raises(UserError, match="no weights to test"):
        run_test(video_config())


def test_weights_of_another_model_are_refused(video_config, weights):
    path = ("TEST.CHECKPOINT_FILE_PATH", str(weights[1]))
    with pytest.raises(UserError, match="at least 100% are asked for"):
        run_test(video_config(*path, "MODEL.NUM_CLASSES", "4"))


def test_a_test_that_is_stopped_leaves_no_results(video_config, weights):
    cfg = video_config("TEST.CHECKPOINT_FILE_PATH", str(weights[1]), "TEST.BATCH_SIZE", "6")
    asked = iter([False, False, *[True] * 9])
    run_test(cfg, should_stop=lambda: next(asked))
    assert not (Path(cfg.OUTPUT_DIR) / "results").exists()
    run_test(cfg)
    assert len(results(cfg)[0]["labels"]) == 7


@pytest.mark.parametrize("batch", ["1", "4", "100"])
def test_scores_are_the_mean_over_the_views(video_config, weights, batch):
    model, path = weights
    cfg = video_config("TEST.CHECKPOINT_FILE_PATH", str(path), "TEST.BATCH_SIZE", batch)
    run_test(cfg)
    scores, summary = results(cfg)
    expected = expected_scores(cfg, model)
    np.testing.assert_allclose(scores["scores"], expected.mean(axis=1), atol=1e-6)
    np.testing.assert_array_equal(scores["labels"], np.arange(7) % 3)
    right = expected.mean(axis=1).argmax(axis=1) == scores["labels"]
    assert summary["top1_acc"] == pytest.approx(100 * right.mean())
    assert summary["num_videos"] == 7
    # With one clip of two, its three crops are the last three views.
    one_clip = expected[:, 3:].mean(axis=1).argmax(axis=1) == scores["labels"]
    assert summary["top1_acc_by_clips"]["1"] == pytest.approx(100 * one_clip.mean())


def test_ensembles_and_activations(video_config, weights):
    model, path = weights
    head = ("MODEL.HEAD_ACT", "none", "DATA.ENSEMBLE_METHOD", "max")
    cfg = video_config("TEST.CHECKPOINT_FILE_PATH", str(path), *head)
    run_test(cfg)
    normalise = build_normalise(cfg, torch.device("cpu"))
    item = build_dataset(cfg, "test")[2]
    with torch.no_grad():
        logits = model(normalise(item["video"]))
    np.testing.assert_allclose(results(cfg)[0]["scores"][2], logits.amax(0), atol=1e-5)


def test_results_name_their_sources(video_config, weights):
    cfg = video_config(
        *("TEST.CHECKPOINT_FILE_PATH", str(weights[1]), "TEST.SAVE_RESULTS_PATH", "there/mine.csv")
    )
    run_test(cfg)
    _, summary = results(cfg)
    assert summary["checkpoint_sha256"] == sha256(weights[1])
    assert summary["views"] == {"clips": 2, "crops": 3}
    assert [
        Path(name).name for name in pd.read_csv(f"{cfg.OUTPUT_DIR}/there/mine.csv")["video_name"]
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
        run_test(video_config("TEST.CHECKPOINT_FILE_PATH", str(path)))
