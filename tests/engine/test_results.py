import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from stvit_video.data.bad_videos import BadVideo
from stvit_video.engine.predict import Predictions, compute_accuracy, merge_predictions
from stvit_video.engine.results import build_class_names, format_table, write_results
from stvit_video.errors import UserError
from stvit_video.figures.confusion import draw_confusion_matrix

# Five videos and four classes, the last one without videos.
SCORES = np.array(
    [[9, 3, 2, 1], [1, 9, 3, 2], [9, 3, 2, 1], [1, 3, 9, 2], [1, 2, 3, 9]], dtype=np.float32
)
LABELS = np.array([0, 1, 1, 2, 2])
NAMES = ["a.mp4", "b c.mp4", 'd,"e".mp4', "f.mp4", "g.mp4"]


@pytest.fixture
def predictions():
    top1 = np.array([[0, 0], [0, 1], [1, 0], [0, 2], [3, 3]])
    return Predictions(np.arange(5), NAMES, LABELS, SCORES, top1)


def part(predictions, rows):
    return Predictions(
        predictions.video_index[rows],
        [NAMES[row] for row in rows],
        LABELS[rows],
        SCORES[rows],
        predictions.top1_by_clips[rows],
    )


def test_accuracies(predictions):
    accuracy = compute_accuracy(predictions)
    assert accuracy.top1 == pytest.approx(60)
    assert accuracy.top5 == 100  # with four classes, the label is always in the top 5
    assert accuracy.by_clips == pytest.approx([40, 60])
    np.testing.assert_allclose(accuracy.class_top1, [100, 50, 50, np.nan])
    assert accuracy.mean_class == pytest.approx(200 / 3)
    assert accuracy.confusion.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]


def test_top5_leaves_out_the_sixth():
    scores = np.tile(np.arange(6, dtype=np.float32), (2, 1))
    predictions = Predictions(np.arange(2), NAMES[:2], np.array([0, 1]), scores, np.full((2, 1), 5))
    accuracy = compute_accuracy(predictions)
    assert (accuracy.top1, accuracy.top5) == (0, 50)


def test_equal_scores_are_ranked_by_label():
    scores = np.zeros((1, 8), dtype=np.float32)
    accuracy = compute_accuracy(
        Predictions(np.arange(1), ["a"], np.array([7]), scores, np.zeros((1, 1), dtype=int))
    )
    assert (accuracy.top1, accuracy.top5) == (0, 0)


def test_parts_are_merged_in_the_order_of_the_data_set(predictions):
    parts = [part(predictions, [4, 1]), part(predictions, [0, 2, 3])]
    merged, left_out = merge_predictions(parts, bad=[], num_videos=5)
    assert left_out == []
    assert merged.video_names == NAMES
    np.testing.assert_array_equal(merged.scores, SCORES)
    np.testing.assert_array_equal(merged.labels, LABELS)
    np.testing.assert_array_equal(merged.top1_by_clips, predictions.top1_by_clips)


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [0, 1, 2, 3, 3], [0, 1, 2, 3, 4, 4]])
def test_a_missing_or_repeated_video_is_a_defect(predictions, rows):
    with pytest.raises(AssertionError, match="missing or repeated"):
        merge_predictions([part(predictions, rows)], bad=[], num_videos=5)


def bad(index):
    return BadVideo(index, "x.mp4", 1, "test.csv", index + 1, "it is empty, 'so' to say")


def test_bad_videos_are_left_out_and_only_they(predictions):
    parts = [part(predictions, [3, 0]), part(predictions, [4])]
    # Video 0 was bad in an earlier test but has a prediction now.
    merged, left_out = merge_predictions(parts, bad=[bad(0), bad(1), bad(2)], num_videos=5)
    assert merged.video_names == [NAMES[0], NAMES[3], NAMES[4]]
    assert left_out == [bad(1), bad(2)]
    with pytest.raises(AssertionError, match="missing or repeated"):
        merge_predictions(parts, bad=[bad(1)], num_videos=5)


def test_files_are_read_back_by_pandas(predictions, tmp_path):
    csv = tmp_path / "elsewhere" / "predictions.csv"
    write_results(
        tmp_path,
        predictions,
        compute_accuracy(predictions),
        left_out=[bad(1)],
        class_names=["up", "down", "left", "right"],
        predictions_path=csv,
        facts={"checkpoint": "x.pyth"},
    )
    table = pd.read_csv(csv)
    assert table["video_name"].tolist() == NAMES
    assert table["correct"].tolist() == [True, True, False, True, False]
    assert table["top5"][0] == "0 1 2 3"
    np.testing.assert_array_equal(table["score"].to_numpy(np.float32), SCORES.max(axis=1))
    scores = np.load(tmp_path / "scores.npz")
    np.testing.assert_array_equal(scores["scores"], SCORES)
    classes = pd.read_csv(tmp_path / "per_class.csv")
    assert classes["class"].tolist() == ["up", "down", "left", "right"]
    assert classes["top1"].isna().tolist() == [False, False, False, True]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["top1_acc"] == pytest.approx(60)
    assert summary["top1_acc_by_clips"] == {"1": pytest.approx(40), "2": pytest.approx(60)}
    assert summary["checkpoint"] == "x.pyth"
    assert summary["num_videos"] == 5
    assert (summary["num_left_out"], summary["num_videos_expected"]) == (1, 6)
    assert pd.read_csv(tmp_path / "left_out.csv")["error"].tolist() == ["it is empty, 'so' to say"]


def test_scores_keep_all_their_digits(predictions, tmp_path):
    scores = np.random.default_rng(0).random((5, 4), dtype=np.float32)
    thirds = Predictions(np.arange(5), NAMES, LABELS, scores, predictions.top1_by_clips)
    write_results(
        tmp_path,
        thirds,
        compute_accuracy(thirds),
        left_out=[],
        class_names=list("abcd"),
        predictions_path=tmp_path / "predictions.csv",
        facts={},
    )
    table = pd.read_csv(tmp_path / "predictions.csv", dtype={"score": np.float32})
    np.testing.assert_array_equal(table["score"], scores.max(axis=1))


def test_the_table_of_many_classes_shows_the_best_and_the_worst():
    labels = np.arange(100)
    scores = np.eye(100, dtype=np.float32)
    scores[50:] = np.roll(scores[50:], 1, axis=1)
    accuracy = compute_accuracy(
        Predictions(labels, [str(n) for n in labels], labels, scores, np.zeros((100, 1), dtype=int))
    )
    lines = format_table(accuracy, class_names=[f"class {n}" for n in labels]).splitlines()
    assert len(lines) == 1 + 20 + 1 + 20 + 1
    assert lines[1].startswith("class 0 ")
    assert "60 more classes" in lines[21]
    assert lines[-2].startswith("class 99 ")


@pytest.mark.parametrize("num_classes", [2, 8, 400])
def test_confusion_matrices_of_any_size_are_drawn(tmp_path, num_classes):
    counts = np.eye(num_classes, dtype=np.int64) * 3
    counts[0] = 0
    path = tmp_path / "matrix.png"
    draw_confusion_matrix(path, counts, class_names=[f"class {n}" for n in range(num_classes)])
    with Image.open(path) as picture:
        assert min(picture.size) >= 700
        assert len(picture.convert("L").getcolors()) > 10  # not a blank image


def test_class_names(small_config, tmp_path):
    assert build_class_names(small_config("DATA.PATH_TO_DATA_DIR", str(tmp_path))) == [
        "0",
        "1",
        "2",
    ]
    (tmp_path / "classes.json").write_text('{"down": 1, "\\"up\\"": 0, "left": 2}')
    cfg = small_config("DATA.PATH_TO_DATA_DIR", str(tmp_path))
    assert build_class_names(cfg) == ["up", "down", "left"]


def test_class_names_of_images_are_their_folders(small_config, tmp_path):
    images = (
        *("TEST.DATASET", "imagenet", "TRAIN.DATASET", "imagenet", "DATA.NUM_FRAMES", "1"),
        *("SWIN.PATCH_SIZE", "(1, 4, 4)", "SWIN.WINDOW_SIZE", "(1, 4, 4)"),
        *("TEST.NUM_ENSEMBLE_VIEWS", "1"),
    )
    place = ("DATA.PATH_TO_DATA_DIR", str(tmp_path))
    numbers = ["0", "1", "2"]
    assert build_class_names(small_config(*images, *place)) == numbers
    for name in ("wolf", "ant", "bee"):
        (tmp_path / "train" / name).mkdir(parents=True)
    (tmp_path / "val" / "odd").mkdir(parents=True)
    assert build_class_names(small_config(*images, *place)) == ["ant", "bee", "wolf"]
    assert build_class_names(small_config(*place)) == numbers
    (tmp_path / "classes.json").write_text('{"Bee": 1, "Wolf": 2, "Ant": 0}')
    assert build_class_names(small_config(*images, *place)) == ["Ant", "Bee", "Wolf"]


@pytest.mark.parametrize(
    "content", ['{"a": 0, "b": 1}', '{"a": 0, "b": 1, "c": 3}', '["a", "b", "c"]', "{", '{"a": []}']
)
def test_wrong_class_names_are_refused(small_config, tmp_path, content):
    path = tmp_path / "names.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"names\.json"):
        build_class_names(small_config("TENSORBOARD.CLASS_NAMES_PATH", str(path)))
