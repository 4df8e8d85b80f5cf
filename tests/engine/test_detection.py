"""Train and test a detector on one rank and on two."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_folder import content, write, write_folder
from comparing import same, without_times
from recording import lines_file, train_in_turn
from torch import nn

from stvit_video.config import load_config
from stvit_video.data.build import build_loader
from stvit_video.engine.checkpoint import find_checkpoints, read_checkpoint
from stvit_video.engine.detection import evaluate_detector
from stvit_video.engine.evaluate import evaluate
from stvit_video.engine.precision import build_normalize, build_precision
from stvit_video.engine.preflight import preflight, preflight_data
from stvit_video.engine.train import train
from stvit_video.errors import UserError
from stvit_video.models import build_model
from stvit_video.runtime import distributed
from stvit_video.runtime.distributed import run_ranks
from stvit_video.synthetic.shapes import ShapesRecipe, make_shapes_dataset

CONFIG = """
DEVICE: cpu
LOG_PERIOD: 1
TRAIN: {DATASET: coco, BATCH_SIZE: 2, CHECKPOINT_MIN_SHARE: 0.1}
TEST: {DATASET: coco, BATCH_SIZE: 2}
DATA: {NUM_FRAMES: 1}
DATA_LOADER: {NUM_WORKERS: 0, PIN_MEMORY: False}
MODEL: {ARCH: cascade_mask_rcnn, NUM_CLASSES: 3, DROPCONNECT_RATE: 0.1}
SWIN:
  PATCH_SIZE: [1, 4, 4]
  WINDOW_SIZE: [1, 4, 4]
  EMBED_DIM: 8
  DEPTHS: [1, 1, 1, 1]
  NUM_HEADS: [1, 1, 2, 2]
DETECTION:
  SPLITS: [train, val, test]
  TRAIN_SHORT_SIDES: [40, 56]
  MAX_SIZE: 96
  CROP_SHORT_SIDES: [48]
  CROP_RANGE: [32, 44]
  TEST_SHORT_SIDE: 40
  FPN_CHANNELS: 8
  ANCHOR_SIZES: [8, 12, 16, 24, 32]
  NUM_PROPOSALS: [20, 20]
  BOXES_PER_IMAGE: 16
  BOX_CONVS: 1
  BOX_FC_DIM: 16
  MASK_CONVS: 1
  SCORE_THRESH: 0.01
  MAX_DETECTIONS: 10
SOLVER: {BASE_LR: 1.0e-3, MAX_EPOCH: 2, WARMUP_EPOCHS: 0.5}
TENSORBOARD: {ENABLE: False}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("coco"))


@pytest.fixture
def config(folder, tmp_path):
    """Return a function from a run's name and overrides to its config."""
    path = tmp_path / "coco.yaml"
    path.write_text(CONFIG)
    data = ("DATA.PATH_TO_DATA_DIR", str(folder))
    return lambda name, *overrides: load_config(
        path, [*data, "OUTPUT_DIR", str(tmp_path / name), *overrides]
    )


def lines(cfg):
    return [without_times(json.loads(line)) for line in lines_file(cfg).read_text().splitlines()]


def last_checkpoint(cfg):
    contents = read_checkpoint(list(find_checkpoints(cfg.OUTPUT_DIR).values())[-1])
    del contents["cfg"]
    return contents


def test_where_a_stopped_detector_goes_on_is_compared_before(config):
    run_ranks(train_in_turn, [(config("run"), 1)], num_local_ranks=1, device="cpu")
    resumes = preflight(config("run"))
    assert resumes is not None
    assert (resumes.finished_epochs, resumes.finished_steps) == (0, 1)
    with pytest.raises(UserError, match="was written inside an epoch of"):
        preflight(config("run", "TRAIN.BATCH_SIZE", "1"))


def test_a_detector_is_trained_validated_and_tested(config):
    cfg = config("run")
    preflight(cfg)
    run_ranks(train_in_turn, [(cfg, None)], num_local_ranks=1, device="cpu")
    written = lines(cfg)
    assert [line["_type"] for line in written] == (
        [*["train_iter"] * 3, "train_epoch", "val_epoch"] * 2
    )
    iteration, validation = written[0], written[4]
    parts = [name for name in iteration if name.startswith(("rpn_", "stage"))]
    assert len(parts) == 2 + 3 * 3
    assert sum(iteration[name] for name in parts) == pytest.approx(iteration["loss"], rel=1e-5)
    assert validation["num_videos"] == 5
    assert validation["box_AP_err"] == pytest.approx(100 - validation["box_AP"])
    assert validation["min_box_AP_err"] == validation["box_AP_err"]
    log = (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()
    assert "1 images of" in log and "are left out because they have no objects" in log
    assert "G FLOPs (multiply-adds) in its backbone for an image of 64 x 96" in log

    evaluate(cfg)
    results = Path(cfg.OUTPUT_DIR) / "results"
    summary = json.loads((results / "summary.json").read_text())
    assert summary["num_videos"] == summary["num_videos_expected"] == 7
    assert {"box_AP", "box_AP50", "mask_AP", "mask_AP75"} <= summary.keys()
    found = json.loads((results / "predictions.json").read_text())
    assert {each["category_id"] for each in found} <= {1, 7, 90}
    assert {each["image_id"] for each in found} <= set(range(10, 17))


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_that_was_stopped_goes_on_at_its_step(config, ranks):
    gpus = ("NUM_GPUS", str(ranks))
    whole, stopped = (config(name, *gpus) for name in ("whole", "stopped"))
    runs = [(whole, None), (stopped, 2), (stopped, None)]
    run_ranks(train_in_turn, runs, num_local_ranks=ranks, device="cpu")
    log = (Path(stopped.OUTPUT_DIR) / "stdout.log").read_text()
    assert "checkpoint_epoch_00000_step_000002.pyth, after epoch 0 and 2 steps\n" in log
    assert lines(stopped) == lines(whole)
    assert same(last_checkpoint(stopped), last_checkpoint(whole))


class FakeDetector(nn.Module):
    """Detect an object of every class near the left, shifted depending on the image's pixels."""

    def forward(self, images, sizes):
        found = []
        for image, (height, width) in zip(images, sizes, strict=True):
            shift = float(image[:, :height, :width].double().mean().abs()) * 50 % 4
            left = 8 + shift
            found.append(
                {
                    "boxes": torch.tensor([[left, 6.0, left + 16, 22.0]] * 3),
                    "scores": torch.tensor([0.9, 0.5, 0.3]) - shift / 20,
                    "labels": torch.tensor([1, 2, 3]),
                    "masks": torch.ones(3, 1, 28, 28).tril(),
                }
            )
        return found


def evaluate_on_rank(cfg, model):
    """Write the metrics that a rank gets, and its results, which only rank 0 has."""
    cpu, rank = torch.device("cpu"), distributed.get_rank()
    evaluation = evaluate_detector(
        model,
        build_loader(cfg, "test", rank=rank, world_size=distributed.get_world_size()),
        normalize=build_normalize(cfg, cpu),
        precision=build_precision(cfg, cpu),
    )
    file = Path(cfg.OUTPUT_DIR) / f"{rank}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps([evaluation.metrics, evaluation.results]))


def evaluate_fake_and_cascade(configs):
    fake, cascade = configs
    evaluate_on_rank(fake, FakeDetector())
    torch.manual_seed(0)
    evaluate_on_rank(cascade, build_model(cascade))


@pytest.fixture
def four_threads():
    torch.set_num_threads(4)
    yield
    assert torch.get_num_threads() == 4
    torch.set_num_threads(1)


def test_one_rank_of_many_threads_and_two_ranks_measure_the_same(config, tmp_path, four_threads):
    make_shapes_dataset(tmp_path / "shapes", ShapesRecipe(train=1, val=1, test=9), num_workers=1)
    shapes = (
        *("DATA.PATH_TO_DATA_DIR", str(tmp_path / "shapes"), "MODEL.NUM_CLASSES", "4"),
        # Large enough for kernels that split a sum among threads.
        *("SWIN.EMBED_DIM", "32", "DETECTION.FPN_CHANNELS", "256"),
        *("DETECTION.TEST_SHORT_SIDE", "96", "DETECTION.MAX_SIZE", "128"),
        *("DETECTION.SCORE_THRESH", "0.0"),
    )
    written = []
    for ranks in (1, 2):
        gpus = ("NUM_GPUS", str(ranks))
        configs = config(f"fake {ranks}", *gpus), config(f"cascade {ranks}", *shapes, *gpus)
        run_ranks(evaluate_fake_and_cascade, configs, num_local_ranks=ranks, device="cpu")
        written.append([(Path(cfg.OUTPUT_DIR) / "0.json").read_bytes() for cfg in configs])
        # The other ranks need the metrics too, to keep the best checkpoint.
        last = Path(configs[0].OUTPUT_DIR) / f"{ranks - 1}.json"
        assert json.loads(last.read_text())[0] == json.loads(written[0][0])[0]
    assert written[0] == written[1]
    measured, results = json.loads(written[0][0])
    assert len(results) == 7 * 3
    assert measured["num_videos"] == 7
    assert 5 < measured["box_AP"] < measured["box_AP50"] < 95
    assert 0.5 < measured["mask_AP"] < measured["mask_AP50"] < 95
    _, results = json.loads(written[0][1])
    assert len({each["image_id"] for each in results}) == 9
    assert len({each["score"] for each in results}) > 0.9 * len(results)


def test_an_image_that_cannot_be_read_is_left_out_and_listed(config, tmp_path, folder):
    data = write_folder(tmp_path / "data")
    (data / "test" / "12.png").unlink()
    trained = config("run", "SOLVER.MAX_EPOCH", "1", "DATA.PATH_TO_DATA_DIR", str(data))
    train(trained)
    evaluate(trained)
    results = Path(trained.OUTPUT_DIR) / "results"
    summary = json.loads((results / "summary.json").read_text())
    assert (summary["num_videos"], summary["num_left_out"]) == (6, 1)
    assert "12.png" in (results / "left_out.csv").read_text()


def test_a_bad_annotation_file_is_one_sentence_before_anything_starts(config, tmp_path):
    data = write_folder(tmp_path / "data")
    what = content()
    what["annotations"][3]["category_id"] = 5
    path = write(data, "val", what)
    annotation_id = what["annotations"][3]["id"]
    with pytest.raises(UserError, match=rf"annotations\[3\] \(id {annotation_id}\)"):
        preflight(config("run", "DATA.PATH_TO_DATA_DIR", str(data)))
    path.write_text("{")
    with pytest.raises(UserError, match=r"instances_val\.json, line 1, column 2: invalid JSON"):
        preflight(config("run", "DATA.PATH_TO_DATA_DIR", str(data)))


def test_images_are_tried_before_a_job_is_queued(config, tmp_path):
    assert preflight_data(config("run")) == []
    data = write_folder(tmp_path / "data")
    for image in (data / "val").iterdir():
        image.write_bytes(b"no image")
    with pytest.raises(
        UserError, match=r"4 of 4 images sampled from .*instances_val\.json cannot be"
    ):
        preflight_data(config("run", "DATA.PATH_TO_DATA_DIR", str(data)))


def test_mixed_precision_trains(config):
    cfg = config("run", "TRAIN.MIXED_PRECISION", "True", "SOLVER.MAX_EPOCH", "1")
    run_ranks(train_in_turn, [(cfg, None)], num_local_ranks=1, device="cpu")
    assert all(np.isfinite(line["loss"]) for line in lines(cfg) if "loss" in line)
    state = last_checkpoint(cfg)["model_state"]
    assert all(value.dtype == torch.float32 for value in state.values() if value.ndim)
