"""Submit jobs to the four-node SLURM with slurm/launch.py, and inspect them."""

import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from cluster import Cluster, wait_for
from comparing import same, without_times

from stvit_video.engine.checkpoint import find_checkpoints, read_checkpoint
from stvit_video.slurm.scontrol import JobInfo, read_job
from stvit_video.slurm.status import read_job_records
from stvit_video.slurm.task import endings_log, rank_log, rank_record

# --timeout-s of all jobs.
TIMEOUT_SECONDS = 60
ROOT = Path(__file__).resolve().parents[3]


class Job:
    """A submitted job and its run."""

    def __init__(self, cluster: Cluster, folder: Path, output_dir: Path, job_id: str) -> None:
        self.cluster = cluster
        self.folder = folder
        self.output_dir = output_dir
        self.id = job_id

    @property
    def info(self) -> JobInfo:
        facts = read_job(self.id)
        assert facts is not None, f"SLURM has forgotten job {self.id}"
        return facts

    @property
    def steps(self) -> int:
        """Number of steps in the log so far, including steps that were repeated after a requeue."""
        return sum(line["_type"] == "train_iter" for line in self.lines())

    def lines(self) -> list[dict]:
        file = self.output_dir / "json_stats.log"
        text = file.read_text() if file.exists() else ""
        lines = [json.loads(line.partition(" ")[2]) for line in text.split("\n")[:-1]]
        return [without_times(line) for line in lines]

    def wait_for_step(self, steps: int) -> None:
        """Wait until this many more steps are logged; the job must not end before."""
        until = self.steps + steps

        def has_come() -> bool:
            assert not self.info.is_over, self.describe()
            self._skip_hold()
            return self.steps >= until

        wait_for(has_come, f"step {until} of job {self.id}", seconds=180, details=self.describe)

    def wait_for_requeue(self, restarts: int) -> None:
        wait_for(
            lambda: self.info.restarts == restarts, f"requeue {restarts}", details=self.describe
        )

    def wait(self, state: str = "COMPLETED") -> None:
        """Wait until the job is over, and check its final state."""

        def is_over() -> bool:
            self._skip_hold()
            return self.info.is_over

        wait_for(is_over, f"the end of job {self.id}", seconds=240, details=self.describe)
        assert self.info.state == state, self.describe()

    def record(self, rank: int) -> dict:
        """Return the record of a rank."""
        return json.loads(rank_record(self.folder, rank).read_text())

    def process(self, rank: int) -> int:
        """Return the process id of a rank."""
        return self.record(rank)["process"]

    def wait_for_rank(self, rank: int) -> None:
        """Wait until a rank has installed its signal handlers."""
        wait_for(rank_record(self.folder, rank).exists, f"rank {rank}", details=self.describe)

    @property
    def output(self) -> str:
        """Output of the batch script and rank 0."""
        return (self.folder / f"{self.id}_0_log.out").read_text()

    @property
    def endings(self) -> str:
        """Reports of failures."""
        file = endings_log(self.folder)
        return file.read_text() if file.exists() else ""

    def log(self, rank: int = 0) -> str:
        return rank_log(self.folder, rank).read_text()

    def result(self) -> dict:
        """Return the last checkpoint, which contains the last 20 losses with all their digits."""
        contents = read_checkpoint(list(find_checkpoints(self.output_dir).values())[-1])
        del contents["cfg"]  # it contains OUTPUT_DIR
        return contents

    def describe(self) -> str:
        """Return the job's state and logs, for the message of a failing test."""
        files = [*self.folder.glob("*_log.out"), *self.folder.glob("logs/*.log")]
        texts = [f"== {file}\n{file.read_text()[-3000:]}" for file in sorted(files)]
        return "\n".join([str(self.info), self.endings, *texts])

    def _skip_hold(self) -> None:
        """Skip the two minutes that SLURM holds a job after a requeue.

        SLURM has a reason to wait: a minute after srun has killed a job step, SLURM sends TERM to
        the step id again, which the next start of the job shares. A start that does not wait must
        be over by then, or it is stopped and requeued once more.
        """
        facts = self.info
        if facts.state == "PENDING" and facts.reason == "BeginTime":
            self.cluster.run("scontrol", "update", f"jobid={self.id}", "StartTime=now", check=False)


class Launcher:
    """Run slurm/launch.py in this process, to import PyTorch only once.

    Args:
        cluster: the running SLURM.
        folder: where job folders and outputs go.
        config: the default config file.
    """

    def __init__(self, cluster: Cluster, folder: Path, config: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.config = config
        spec = importlib.util.spec_from_file_location("launch", ROOT / "slurm" / "launch.py")
        assert spec and spec.loader
        self.program = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.program)

    def __call__(
        self,
        name: str,
        *overrides: str,
        flags: tuple[str, ...] = (),
        nodes: int = 2,
        config: Path | None = None,
    ) -> Job:
        """Submit a job, with flags that are the same for all jobs."""
        output_dir = self.folder / "runs" / name
        job_dir = self.folder / "jobs" / name
        arguments = [
            *("--cfg", str(config or self.config), "--nodes", str(nodes), "--gpus-per-node", "0"),
            *("--cpus-per-task", "1", "--time", "10", "--job-dir", str(job_dir), "--name", name),
            *("--timeout-s", str(TIMEOUT_SECONDS), *flags),
            *("--opts", "OUTPUT_DIR", str(output_dir), *overrides),
        ]
        with redirect_stdout(StringIO()):
            status = self.program.main(arguments)
        assert status == 0
        record = read_job_records(job_dir)[-1]
        return Job(self.cluster, record.folder, output_dir, record.job_id)


# A sitecustomize.py, which Python imports first.
LATE = """
import os, time
from pathlib import Path
if os.environ.get("SLURM_PROCID") == "1" and os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
    folder = Path({folder!r})
    (folder / "process.tmp").write_text(str(os.getpid()))
    (folder / "process.tmp").rename(folder / "process")
    while not (folder / "gate").exists():
        time.sleep(0.1)
"""


class LateRank:
    """A rank 1 whose interpreter waits before it runs the program."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def process(self) -> int:
        """Process id of the rank."""
        file = self.folder / "process"
        wait_for(file.exists, "the interpreter of rank 1")
        return int(file.read_text())

    def let_go(self) -> None:
        (self.folder / "gate").touch()


@contextmanager
def late_rank(folder: Path) -> Iterator[LateRank]:
    """Make rank 1 late in the job that is submitted in the block, until its first requeue."""
    (folder / "sitecustomize.py").write_text(LATE.format(folder=str(folder)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        yield LateRank(folder)


def place(line: dict) -> tuple:
    return line["_type"], line["epoch"], line.get("iter")


def assert_same_run(job: Job, whole: Job) -> None:
    """Check that two finished runs are equal to the last bit, including repeated steps."""
    expected = {place(line): line for line in whole.lines()}
    lines = job.lines()
    assert [line for line in lines if line != expected[place(line)]] == []
    assert {place(line) for line in lines} == expected.keys()
    assert same(job.result(), whole.result())
