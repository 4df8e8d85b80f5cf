"""Jobs on the four-node SLURM, submitted by slurm/launch.py as a user does it."""

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
from stvit_video.slurm.scontrol import JobFacts, read_job
from stvit_video.slurm.status import read_records
from stvit_video.slurm.task import endings_log, rank_log, rank_record

# The ranks' --timeout-s.
TIMEOUT_SECONDS = 60
ROOT = Path(__file__).resolve().parents[3]


class Job:
    """A job that was submitted, and its run."""

    def __init__(self, cluster: Cluster, folder: Path, output_dir: Path, job_id: str) -> None:
        self.cluster = cluster
        self.folder = folder
        self.output_dir = output_dir
        self.id = job_id

    @property
    def facts(self) -> JobFacts:
        facts = read_job(self.id)
        assert facts is not None, f"SLURM has forgotten job {self.id}"
        return facts

    @property
    def steps(self) -> int:
        """Lines of steps in the log so far, those that were made again included."""
        return sum(line["_type"] == "train_iter" for line in self.lines())

    def lines(self) -> list[dict]:
        file = self.output_dir / "json_stats.log"
        text = file.read_text() if file.exists() else ""
        lines = [json.loads(line.partition(" ")[2]) for line in text.split("\n")[:-1]]
        return [without_times(line) for line in lines]

    def wait_for_step(self, steps: int) -> None:
        """Wait until so many more steps than now are logged, by a run that goes on."""
        until = self.steps + steps

        def has_come() -> bool:
            assert not self.facts.is_over, self.told()
            self._hurry()
            return self.steps >= until

        wait_for(has_come, f"step {until} of job {self.id}", seconds=180, told=self.told)

    def wait_for_requeue(self, restarts: int) -> None:
        wait_for(lambda: self.facts.restarts == restarts, f"requeue {restarts}", told=self.told)

    def wait(self, state: str = "COMPLETED") -> None:
        """Wait for the end, which must be of this kind."""

        def is_over() -> bool:
            self._hurry()
            return self.facts.is_over

        wait_for(is_over, f"the end of job {self.id}", seconds=240, told=self.told)
        assert self.facts.state == state, self.told()

    def record(self, rank: int) -> dict:
        """What is known about a rank."""
        return json.loads(rank_record(self.folder, rank).read_text())

    def process(self, rank: int) -> int:
        """Process id of a rank."""
        return self.record(rank)["process"]

    def wait_for_rank(self, rank: int) -> None:
        """Wait until a rank notes signals."""
        wait_for(rank_record(self.folder, rank).exists, f"rank {rank}", told=self.told)

    @property
    def output(self) -> str:
        """What the batch script and rank 0 print."""
        return (self.folder / f"{self.id}_0_log.out").read_text()

    @property
    def endings(self) -> str:
        """The sentences about bad endings."""
        file = endings_log(self.folder)
        return file.read_text() if file.exists() else ""

    def log(self, rank: int = 0) -> str:
        return rank_log(self.folder, rank).read_text()

    def result(self) -> dict:
        """The last checkpoint, which holds the last 20 losses with all their digits."""
        contents = read_checkpoint(list(find_checkpoints(self.output_dir).values())[-1])
        del contents["cfg"]  # which names the folder
        return contents

    def told(self) -> str:
        """What the job left, for a failing test."""
        files = [*self.folder.glob("*_log.out"), *self.folder.glob("logs/*.log")]
        texts = [f"== {file}\n{file.read_text()[-3000:]}" for file in sorted(files)]
        return "\n".join([str(self.facts), self.endings, *texts])

    def _hurry(self) -> None:
        """After a requeue SLURM holds a job for two minutes.

        It has its reason: when srun has ended a step by force, SLURM sends it TERM again a minute
        later, by its number, which the job's next start has too. A start that is hurried must be
        over by then, or is stopped and requeued once more.
        """
        facts = self.facts
        if facts.state == "PENDING" and facts.reason == "BeginTime":
            self.cluster.run("scontrol", "update", f"jobid={self.id}", "StartTime=now", check=False)


class Launcher:
    """slurm/launch.py in this process, whose imports take seconds.

    Args:
        cluster: that runs.
        folder: for jobs and runs.
        config: the YAML file of all of them.
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
        """Submit a job; what is not said here is the same for all."""
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
        record = read_records(job_dir)[-1]
        return Job(self.cluster, record.folder, output_dir, record.job_id)


# Python imports it before all else.
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
    """A rank 1 that does not begin yet, though its interpreter has started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def process(self) -> int:
        """Its process id."""
        file = self.folder / "process"
        wait_for(file.exists, "the interpreter of rank 1")
        return int(file.read_text())

    def let_go(self) -> None:
        (self.folder / "gate").touch()


@contextmanager
def late_rank(folder: Path) -> Iterator[LateRank]:
    """Make rank 1 late in the job that is submitted in the block; after a requeue it is not."""
    (folder / "sitecustomize.py").write_text(LATE.format(folder=str(folder)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        yield LateRank(folder)


def place(line: dict) -> tuple:
    return line["_type"], line["epoch"], line.get("iter")


def assert_same_run(job: Job, whole: Job) -> None:
    """Compare two finished runs to the last bit; a step that was made twice counts twice."""
    expected = {place(line): line for line in whole.lines()}
    lines = job.lines()
    assert [line for line in lines if line != expected[place(line)]] == []
    assert {place(line) for line in lines} == expected.keys()
    assert same(job.result(), whole.result())
