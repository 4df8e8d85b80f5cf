"""A SLURM for all tests of a process, and an uninterrupted run to compare others with."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, missing_programs
from jobs import Job, Launcher
from small_run import SMALL_CONFIG, write_data_set

# A run whose steps depend on all of its state: random numbers, moving average and loader workers.
# 30 steps on two ranks.
CONFIG = (
    SMALL_CONFIG.replace("NUM_WORKERS: 0", "NUM_WORKERS: 2")
    .replace("DROPOUT_RATE: 0.0", "DROPOUT_RATE: 0.5")
    .replace("TRAIN: {BATCH_SIZE: 4}", "TRAIN: {BATCH_SIZE: 2, CHECKPOINT_STEPS: 2}")
    .replace("TEST: {", "TEST: {ENABLE: False, ")
    .replace("MAX_EPOCH: 2", "MAX_EPOCH: 3")
    + "EMA: {ENABLE: True, DECAY: 0.9}\n"
)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Start SLURM, with its commands in PATH and SLURM_CONF set."""
    missing = missing_programs()
    if missing:
        pytest.skip(
            f"no SLURM here ({missing[0]} is missing): make test-slurm installs it where it may"
        )
    # The path of pytest's folder is too long for a socket, and munge cannot access it.
    with (
        tempfile.TemporaryDirectory(prefix="slurm-") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        cluster = Cluster(Path(folder))
        for name in ("PATH", "SLURM_CONF"):
            patch.setenv(name, cluster.env[name])
        patch.setenv("OMP_NUM_THREADS", "1")
        # A job that is requeued can reuse the compiled files of its copy of the code.
        patch.setenv("PYTHONDONTWRITEBYTECODE", "")
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture(scope="session")
def launch(cluster, tmp_path_factory) -> Launcher:
    folder = tmp_path_factory.mktemp("launched")
    videos = folder / "videos"
    videos.mkdir()
    write_data_set(videos)
    train = videos / "train.csv"
    train.write_text(train.read_text() * 5)
    config = folder / "small.yaml"
    config.write_text(CONFIG.replace("DATA:", f"DATA:\n  PATH_TO_DATA_DIR: {videos}"))
    return Launcher(cluster, folder, config)


@pytest.fixture(scope="session")
def whole(launch) -> Job:
    """An uninterrupted run on two nodes."""
    job = launch("whole")
    job.wait()
    return job
