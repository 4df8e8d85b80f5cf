"""slurm/launch.py on a real SLURM."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cluster import wait_for
from PIL import Image

from stvit_video.engine.checkpoint import find_checkpoints, read_checkpoint
from stvit_video.slurm.scontrol import find_queued_jobs, read_job
from stvit_video.slurm.status import JobRecord, read_job_records

ROOT = Path(__file__).resolve().parents[3]
# Short runs of 20 steps on one rank.
SHORT = ("SOLVER.MAX_EPOCH", "1", "TRAIN.CHECKPOINT_STEPS", "0", "DATA_LOADER.NUM_WORKERS", "0")


@pytest.fixture
def start(launch, tmp_path, monkeypatch, capsys):
    """Return a function that launches, and returns the exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, cfg=("--cfg", str(launch.config)), overrides=SHORT):
        flags = ("--cpus-per-task", "1", "--time", "10", "--timeout-s", "60")
        status = launch.program.main([*cfg, *flags, *arguments, "--opts", *overrides])
        return (status, *capsys.readouterr())

    return run


@pytest.fixture
def held(cluster):
    """The id of a job that others wait for; it starts after ``scontrol release``."""
    return cluster.run("sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap=true")


def records() -> list[JobRecord]:
    return read_job_records(Path("output/jobs"))


def queue(cluster) -> str:
    """Return the pending and running jobs; SLURM also remembers rejected jobs, as FAILED."""
    return cluster.run("squeue", "--noheader", "--format=%i")


def state(record: JobRecord) -> str:
    facts = read_job(record.job_id)
    assert facts is not None
    return facts.state


def wait_for_end(record: JobRecord) -> str:
    """Wait until a job is over, and return its state."""

    def is_over() -> bool:
        facts = read_job(record.job_id)
        return facts is not None and facts.is_over

    def log_tail() -> str:
        return record.log().read_text()[-3000:] if record.log().exists() else "no log"

    wait_for(is_over, f"the end of {record.title}", seconds=180, details=log_tail)
    return state(record)


def last_weights(output_dir: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(list(find_checkpoints(output_dir).values())[-1])["model_state"]


def test_an_array_of_three_learning_rates_is_three_jobs(start):
    status, _, _ = start("--array", "SOLVER.BASE_LR=1e-3,5e-4,2e-4")
    assert status == 0
    jobs = records()
    assert len({job.job_id for job in jobs}) == 3
    assert [wait_for_end(job) for job in jobs] == ["COMPLETED"] * 3
    weights = [last_weights(job.output_dir)["head.fc.weight"] for job in jobs]
    assert not any(torch.equal(weights[i], weights[j]) for i, j in [(0, 1), (0, 2), (1, 2)])


def test_a_chain_starts_from_the_weights_of_the_previous_job(start, launch, tmp_path):
    for name in ("first", "second"):
        folder = f"_BASE_: {launch.config}\nOUTPUT_DIR: {tmp_path / name}\n"
        # With next to no learning rate the second keeps what it starts from.
        rate = "SOLVER: {BASE_LR: 1.0e-30, WARMUP_EPOCHS: 0.0}\n" if name == "second" else ""
        (tmp_path / f"{name}.yaml").write_text(folder + rate)
    status, _, _ = start(cfg=("--chain", "first.yaml", "second.yaml"))
    assert status == 0
    first, second = records()
    assert state(second) == "PENDING"
    assert wait_for_end(first) == "COMPLETED"
    assert wait_for_end(second) == "COMPLETED"
    checkpoint = tmp_path / "first" / "checkpoints" / "checkpoint_epoch_00001.pyth"
    assert f"{checkpoint} (stvit_video): 100.0%" in second.log().read_text()
    trained, kept = (last_weights(job.output_dir) for job in (first, second))
    assert all(torch.equal(trained[name], kept[name]) for name in trained)


# What makes the shipped configs small enough for a test.
_SMALL = """
NUM_GPUS: 1
DEVICE: cpu
TRAIN: {BATCH_SIZE: 4, EVAL_PERIOD: 1}
TEST: {ENABLE: False}
DATA_LOADER: {PIN_MEMORY: False}
MODEL: {NUM_CLASSES: 3}
SWIN: {EMBED_DIM: 12, NUM_HEADS: [1, 2, 4, 8]}
SOLVER: {WARMUP_EPOCHS: 0.0}
TENSORBOARD: {ENABLE: False}
"""


def test_a_video_model_starts_from_the_image_model_that_its_config_names(start, launch, tmp_path):
    """Section 4.2: pre-trained on ImageNet, with the patch embedding that can be inflated."""
    images = tmp_path / "images"
    for number in range(12):
        for split in ("train", "val"):
            folder = images / split / f"class{number % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            picture = np.random.default_rng(number).integers(0, 256, (72, 80, 3), dtype=np.uint8)
            Image.fromarray(picture).save(folder / f"{number}.png")
    data = {
        "imagenet/stvit_swin_t_patch": f"{{PATH_TO_DATA_DIR: {images}, TRAIN_CROP_SIZE: 64, "
        "VAL_SHORT_SIDE: 64, TEST_CROP_SIZE: 64}",
        "k400/stvit_swin_t": f"{{PATH_TO_DATA_DIR: {launch.config.parent / 'videos'}, "
        "NUM_FRAMES: 4, TRAIN_CROP_SIZE: 64, VAL_SHORT_SIDE: 64, TEST_CROP_SIZE: 64}",
    }
    for name, (config, keys) in zip(("first", "second"), data.items(), strict=True):
        (tmp_path / f"{name}.yaml").write_text(
            f"_BASE_: {ROOT / 'configs' / config}.yaml\n{_SMALL}DATA: {keys}\n"
            f"OUTPUT_DIR: {tmp_path / name}\n"
        )
    status, _, errors = start(cfg=("--chain", "first.yaml", "second.yaml"))
    assert status == 0, errors
    first, second = records()
    assert wait_for_end(first) == "COMPLETED"
    assert wait_for_end(second) == "COMPLETED"
    log = second.log().read_text()
    assert re.search(r"inflated .* patch_embed\.proj\.weight", log)
    assert "keeps its previous value" not in log


def test_a_chain_is_canceled_with_its_first_job(start, launch, held, cluster, tmp_path):
    for name in ("first", "second"):
        folder = f"_BASE_: {launch.config}\nOUTPUT_DIR: {tmp_path / name}\n"
        (tmp_path / f"{name}.yaml").write_text(folder)
    start("--after", held, cfg=("--chain", "first.yaml", "second.yaml"))
    first, second = records()
    cluster.run("scancel", first.job_id)
    assert wait_for_end(first) == "CANCELLED"
    assert wait_for_end(second) == "CANCELLED"
    cluster.run("scancel", held)


def test_a_job_runs_the_code_that_it_was_submitted_with(start, launch, held, cluster, tmp_path):
    checkout = tmp_path / "checkout"
    for part in ("stvit_video", "configs", "tools", "slurm"):
        shutil.copytree(ROOT / part, checkout / part)
    shutil.copy2(ROOT / "setup.py", checkout)
    subprocess.run(
        [
            *(sys.executable, "slurm/launch.py", "--cfg", launch.config, "--after", held),
            *("--cpus-per-task", "1", "--job-dir", tmp_path / "output" / "jobs"),
            *("OUTPUT_DIR", tmp_path / "run", *SHORT),
        ],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        check=True,
    )
    for file in (checkout / "stvit_video").rglob("*.py"):
        file.write_text("raise RuntimeError('the working tree has changed')\n")
    (job,) = records()
    cluster.run("scontrol", "release", held)
    assert wait_for_end(job) == "COMPLETED"


def test_a_dry_run_submits_nothing(start, cluster, tmp_path):
    before = queue(cluster)
    status, shown, _ = start("--dry-run", "--nodes", "4")
    assert status == 0
    assert "#SBATCH --nodes=4\n" in shown
    assert queue(cluster) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--partition", "gpu"], "there is no partition gpu; this cluster has low, high"),
        (["--time", "2:00:00"], "--time must be at most 01:00:00, the limit of partition low"),
        (["--nodes", "5"], "--nodes must be at most 4"),
        (["--cpus-per-task", "5"], "has 4 cores, but 1 ranks of 5 need 5"),
        (["--job-dir", "/proc/jobs"], "--job-dir must be a writable folder"),
        # The reasons in these messages are SLURM's.
        (["--constraint", "gold"], "SLURM rejected the job small: .*Invalid feature"),
        (["--mem", "900G"], "SLURM rejected the job small: .*configuration is not available"),
    ],
)
def test_invalid_jobs_are_not_queued(start, cluster, arguments, sentence):
    before = queue(cluster)
    status, _, errors = start(*arguments)
    assert status == 2
    assert errors.startswith("launch.py: ")
    assert errors.count("\n") == 1
    assert re.search(sentence, errors), errors
    assert queue(cluster) == before
    assert records() == []


def test_a_job_is_followed_to_its_end_and_listed(start):
    status, shown, _ = start("--follow", "--nodes", "4")
    assert status == 0
    for words in ("RUNNING", "Training for 1 epochs of 5 steps; clips a step: 8; ranks: 4"):
        assert words in shown
    assert shown.splitlines()[-1].endswith(": COMPLETED")
    _, table, _ = start("--status")
    (job,) = records()
    cells = table.splitlines()[1].split()
    assert cells[:3] == [job.job_id, "small", "COMPLETED"]
    assert "1/1" in cells
    assert len(list(job.folder.glob(f"{job.job_id}_*_log.out"))) == 4


def test_a_job_is_found_in_the_queue_by_its_folder(start, held, cluster):
    assert start("--after", held)[0] == 0
    (job,) = records()
    assert find_queued_jobs(job.folder) == [job.job_id]
    assert find_queued_jobs(job.folder.parent) == []
    for job_id in (job.job_id, held):
        cluster.run("scancel", job_id)


def test_more_options_reach_slurm(start, cluster):
    options = ("--sbatch", "nodelist=n2", "--sbatch", "comment=first try", "--srun-arg", "label")
    assert start("--partition", "high,low", *options)[0] == 0
    (job,) = records()
    assert wait_for_end(job) == "COMPLETED"
    line = cluster.run("scontrol", "show", "job", job.job_id, "--oneliner") + " "
    assert " NodeList=n2 " in line
    assert " Comment=first try " in line
    # srun --label prefixes each line with its rank.
    assert "\n0: " in job.log().read_text()


def test_following_a_canceled_job_fails(start, launch, cluster, held):
    """The program is followed in its own process, while this one cancels the job."""
    command = [sys.executable, str(ROOT / "slurm" / "launch.py"), "--cfg", str(launch.config)]
    flags = ["--cpus-per-task", "1", "--after", held, "--follow", *SHORT]
    with subprocess.Popen([*command, *flags], env={**os.environ, "PYTHONPATH": str(ROOT)}) as shown:
        wait_for(lambda: bool(records()), "the submission", seconds=120)
        cluster.run("scancel", records()[0].job_id)
        assert shown.wait(60) == 1
    cluster.run("scancel", held)
