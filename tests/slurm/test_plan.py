import re
from pathlib import Path

import pytest

from stvit_video.errors import UserError
from stvit_video.slurm.build import LaunchOptions, build_plans

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def plans(config_file, tmp_path, monkeypatch):
    """Return a function from overrides and options to the plans of the small config."""
    monkeypatch.chdir(tmp_path)

    def build(*overrides, **changes):
        defaults = {
            **dict.fromkeys(("nodes", "gpus_per_node", "cpus_per_task")),
            **dict.fromkeys(("mem", "partition", "account", "qos", "constraint"), ""),
            **dict.fromkeys(("exclude", "mail", "name", "array"), ""),
            **{"cfg_files": [config_file], "overrides": overrides, "own_overrides": [[]]},
            "is_chain": False,
            **{"time": "90", "job_dir": Path("jobs"), "max_requeues": 3},
            **{"requeue_on_failure": False, "timeout_s": 60.0, "local": False},
        }
        return build_plans(LaunchOptions(**{**defaults, **changes}))

    return build


def test_four_nodes_of_eight_gpus(plans):
    gpus = ("DEVICE", "cuda", "TRAIN.BATCH_SIZE", "64", "SOLVER.BASE_LR_SCALE_NUM_SHARDS", "True")
    (plan,) = plans(*gpus, "TEST.BATCH_SIZE", "96", nodes=4, gpus_per_node=8, cpus_per_task=9)
    text = plan.describe()
    assert "4 (nodes) x 8 (GPUs per node) = 32" in text
    assert re.search(r"batch per rank +8 clips", text)
    assert "64 per node (TRAIN.BATCH_SIZE) x 4 nodes = 256 clips per step" in text
    assert "0.001 (SOLVER.BASE_LR) x 4 nodes = 0.004" in text
    assert "12 at a time per rank" in text
    assert "01:30:00 per start, at most 3 requeues" in text
    request = plan.request
    assert (request.nodes, request.gpus_per_node, request.tasks_per_node) == (4, 8, 8)
    assert (request.cpus_per_task, request.minutes) == (9, 90)


def test_every_factor_of_the_batch_size_is_counted(plans):
    (plan,) = plans("TRAIN.ACCUMULATE_STEPS", "2", "AUG.NUM_SAMPLE", "3", "AUG.ENABLE", "True")
    product = "2 passes (TRAIN.ACCUMULATE_STEPS) x 3 samples per clip (AUG.NUM_SAMPLE) = 24 clips"
    assert product in plan.describe()


def test_the_views_of_a_test(plans):
    (plan,) = plans("TEST.BATCH_SIZE", "6")
    assert "2 clips x 3 crops, 6 at a time per rank, with the last checkpoint" in plan.describe()
    (plan,) = plans("TEST.CHECKPOINT_FILE_PATH", "best")
    assert ", with the best checkpoint" in plan.describe()
    (plan,) = plans("TEST.CHECKPOINT_FILE_PATH", "/a/w.pth")
    assert ", with /a/w.pth" in plan.describe()


@pytest.mark.parametrize(
    ("name", "test", "sample"),
    [
        ("imagenet/deit_s.yaml", "1 view of each image, 128 at a time per rank", " per image "),
        ("coco/cascade_mask_rcnn_swin_s.yaml", "whole images, one at a time per rank", ""),
    ],
)
def test_images_are_not_called_clips(plans, name, test, sample):
    (plan,) = plans(cfg_files=[ROOT / "configs" / name])
    text = plan.describe()
    assert re.search(rf"^test +{test}", text, re.MULTILINE)
    assert re.search(r"^batch per rank +\d+ images per pass$", text, re.MULTILINE)
    assert re.search(r"^total batch .* images per step$", text, re.MULTILINE)
    assert not re.search(r"\bclips?\b", text)
    assert sample in text


def test_a_rate_that_is_not_scaled_is_pointed_out(plans):
    (plan,) = plans(nodes=4)
    assert "not scaled, although the batch is that of 4 nodes" in plan.describe()
    (plan,) = plans()
    assert "not scaled" not in plan.describe()


def test_a_rank_has_a_core_for_itself_and_each_worker(plans):
    (plan,) = plans("DATA_LOADER.NUM_WORKERS", "7")
    assert plan.request.cpus_per_task == 8


def test_an_array_is_a_job_for_each_value(plans):
    found = plans(array="SOLVER.BASE_LR=1e-3,5e-4,2e-4")
    assert [plan.cfg.SOLVER.BASE_LR for plan in found] == [1e-3, 5e-4, 2e-4]
    assert len({plan.cfg.OUTPUT_DIR for plan in found}) == 3
    assert len({plan.folder for plan in found}) == 3
    assert found[0].name == "small-SOLVER.BASE_LR=1e-3"


def test_every_value_of_an_array_is_validated(plans):
    with pytest.raises(UserError, match=r"SOLVER\.BASE_LR must be a finite number, not 'fast'"):
        plans(array="SOLVER.BASE_LR=1e-3,fast")


def test_jobs_of_one_name_have_folders_of_their_own(plans, tmp_path):
    (first,) = plans()
    first.folder.mkdir(parents=True)
    again = plans(name="small")[0].folder
    assert again != first.folder
    assert again.parent == tmp_path / "jobs"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"time": "UNLIMITED"}, "--time must be above 0 and limited"),
        ({"time": "0"}, "--time must be above 0"),
        ({"time": "soon"}, "a time limit must have one of SLURM's formats"),
        ({"sbatch": ["time=5"]}, "--sbatch cannot set time, because .*: use --time"),
        ({"job_dir": Path("jobs%j")}, "--job-dir must not contain %"),
    ],
)
def test_invalid_options(plans, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        plans(**changes)
