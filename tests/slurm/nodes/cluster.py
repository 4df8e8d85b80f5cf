"""A SLURM of four nodes on this machine: its own daemons, in a folder, on loopback.

It installs nothing, and only touches processes that it has started.
"""

import getpass
import os
import re
import shutil
import socket
import subprocess
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

from stvit_video.runtime.process import die_with_parent

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
NODES = ("n1", "n2", "n3", "n4")
# Debian's folders of daemons are not in every user's PATH.
DAEMON_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))

CONFIG = """
ClusterName=four
FirstJobId={first_job}
SlurmctldHost=localhost(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdSpoolDir={folder}/spool.%n
StateSaveLocation={folder}/state
SlurmdParameters=config_overrides
SlurmctldParameters={controller}
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=1
KillWait=10
SlurmdTimeout=10
NodeName=n[1-4] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[4]}] CPUs=4
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=60 MaxTime=60
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=60
"""


class Cluster:
    """The daemons of a SLURM, and the commands that tests run on it.

    Args:
        folder: where the daemons write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = _free_ports(1 + len(NODES))
        # Jobs identify each other by their ids, which must differ between the clusters of several
        # test processes on this machine.
        self.first_job = 100 * self.ports[0]
        self.env = {
            **os.environ,
            "PATH": DAEMON_PATH,
            "SLURM_CONF": str(folder / "slurm.conf"),
        }
        self.daemons: dict[str, subprocess.Popen] = {}

    def start(self) -> None:
        self.folder.chmod(0o711)  # munge requires it of the folder of its socket
        (self.folder / "state").mkdir()
        self.configure()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        munge = {"socket": "munge.socket", "key-file": key.name, "log-file": "munge.log"}
        files = {**munge, "pid-file": "munge.pid", "seed-file": "munge.seed"}
        options = [f"--{option}={self.folder / file}" for option, file in files.items()]
        self._run_daemon("munged", "--foreground", *options)
        wait_for(lambda: (self.folder / "munge.socket").exists(), "munged")
        self._run_daemon("slurmctld", "-D")
        for node in NODES:
            self.start_node(node)
        wait_for(self.is_idle, "four idle nodes", details=(self.folder / "slurmctld.log").read_text)

    def start_node(self, node: str) -> None:
        (self.folder / f"spool.{node}").mkdir(exist_ok=True)
        self._run_daemon("slurmd", "-D", "-N", node, name=node)

    def kill_node(self, node: str) -> None:
        """Kill a node's slurmd, like a crash; the tasks that it started keep running."""
        self.daemons[node].kill()
        self.daemons.pop(node).wait()

    def stop(self) -> None:
        if "slurmctld" in self.daemons:
            self._cancel_all()
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _cancel_all(self) -> None:
        """Cancel all jobs, whose tasks are not children of this process."""
        user = f"--user={getpass.getuser()}"
        self.run("scancel", "--signal=KILL", "--full", user, check=False)
        self.run("scancel", user, check=False)
        try:
            wait_for(lambda: not self.run("squeue", "-h", check=False), "the end of all jobs")
        except AssertionError as error:
            warnings.warn(str(error), stacklevel=1)

    def configure(
        self, *, controller: str = "enable_configless", first_job: int | None = None
    ) -> None:
        """Write slurm.conf, with the parameters of slurmctld and the id of the next job."""
        text = CONFIG.format(
            user=getpass.getuser(),
            folder=self.folder,
            ports=self.ports,
            controller=controller,
            first_job=first_job or self.first_job,
        )
        (self.folder / "slurm.conf").write_text(text)
        if self.daemons:
            self.run("scontrol", "reconfigure")

    def run(self, *command: str, check: bool = True) -> str:
        """Run one of SLURM's commands and return its output."""
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60)
        assert not check or done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
        return done.stdout.strip()

    def is_idle(self) -> bool:
        states = self.run("sinfo", "-hN", "-p", "low", "-o", "%T", check=False).split()
        return states == ["idle"] * len(NODES)

    def job(self, job_id: str) -> dict[str, str]:
        """Return scontrol's fields of a job."""
        line = self.run("scontrol", "show", "job", job_id, "--oneliner")
        return dict(re.findall(r"(\S+?)=(\S*)", line))

    def _run_daemon(self, program: str, *options: str, name: str = "") -> None:
        log = (self.folder / f"{name or program}.out").open("ab")
        path = shutil.which(program, path=DAEMON_PATH)
        assert path, program
        self.daemons[name or program] = subprocess.Popen(
            [path, *options],
            env=self.env,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            # Also when pytest is killed.
            preexec_fn=partial(die_with_parent, os.getpid()),
        )
        log.close()


def missing_programs() -> list[str]:
    return [program for program in PROGRAMS if not shutil.which(program, path=DAEMON_PATH)]


def _free_ports(number: int) -> list[int]:
    """Return consecutive ports, because slurm.conf needs a range."""
    for first in range(35000 + os.getpid() * number % 10000, 60000, number):
        ports = list(range(first, first + number))
        if all(map(_is_free, ports)):
            return ports
    raise AssertionError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as candidate:
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def wait_for(
    condition: Callable[[], bool],
    what: str,
    *,
    seconds: float = 60,
    details: Callable[[], str] = str,
) -> None:
    """Wait until ``condition`` holds; after a timeout, fail with the output of ``details``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}\n{details()}"
        time.sleep(0.2)
