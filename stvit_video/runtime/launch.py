"""What a rank needs to know before it can join the others, and where that is written."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from stvit_video.errors import UserError
from stvit_video.runtime.rendezvous import Rendezvous

_HOW_TO_USE_THE_CPU = "add DEVICE cpu to run on the CPU"


@dataclass(frozen=True)
class Launch:
    """The place of one process among all ranks.

    Attributes:
        rank: index among all processes, from 0 to ``world_size`` - 1.
        local_rank: index among the processes of this machine.
        world_size: number of all processes.
        local_world_size: number of the processes of this machine.
        init_method: where the ranks meet, an address for torch.distributed; empty with one rank,
            with ``store_port`` or with ``rendezvous``.
        backend: "nccl" or "gloo".
        device_type: "cuda" or "cpu".
        store_port: port on ``LOOPBACK`` of the store that the parent process keeps for its
            ranks; 0: there is none.
        rendezvous: where the tasks of a SLURM job meet, if ``init_method`` does not say it.
        cpus: cores that srun gives to this process alone; 0: all processes of this machine share
            those that this one may use.
    """

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    init_method: str
    backend: str
    device_type: str
    store_port: int = 0
    rendezvous: Rendezvous | None = None
    cpus: int = 0

    @property
    def is_on_one_machine(self) -> bool:
        """Whether all ranks run on this machine."""
        return self.world_size == self.local_world_size

    @property
    def gpu(self) -> int:
        """Index of this process' GPU among those that it sees, which may be that one alone."""
        return self.local_rank % torch.cuda.device_count()

    def of_local_rank(self, local_rank: int) -> "Launch":
        """Return the place of another process of this machine."""
        rank = self.rank - self.local_rank + local_rank
        return replace(self, rank=rank, local_rank=local_rank)

    def placed_by(self, env: Mapping[str, str]) -> "Launch | None":
        """Return the place that torchrun or srun gave to this process in ``env``.

        RANK and WORLD_SIZE tell torchrun, and several tasks in the step tell srun. Where srun
        started the ranks and nothing says where to meet, they find each other by the number of
        their job. Where there is an ``init_method`` and srun started one task a machine, each
        task is left to start the ranks of its machine.

        Returns:
            The place, or None where neither of them started this process as a rank.

        Raises:
            UserError: they started more or fewer processes than ``world_size``.
        """
        tasks = _num_tasks(env)
        cpus = 0
        one_a_machine = tasks == self.world_size // self.local_world_size < self.world_size
        if "RANK" in env and "WORLD_SIZE" in env:
            starter, meet, world_size = "torchrun", "env://", int(env["WORLD_SIZE"])
            rank = int(env["RANK"])
            local_rank = int(env.get("LOCAL_RANK", rank % self.local_world_size))
        elif tasks > 1 and not (self.init_method and one_a_machine):
            starter, meet, world_size = "srun", self.init_method, tasks
            rank, local_rank = int(env["SLURM_PROCID"]), int(env["SLURM_LOCALID"])
            cpus = int(env.get("SLURM_CPUS_PER_TASK") or 0)
        else:
            return None
        if world_size != self.world_size:
            raise UserError(
                f"{starter} must start NUM_GPUS x NUM_SHARDS processes, but it started "
                f"{world_size} where the config asks for {self.world_size}: set NUM_GPUS to the "
                "processes of each machine and NUM_SHARDS to the number of machines"
            )
        return replace(
            self,
            rank=rank,
            local_rank=local_rank,
            init_method=meet,
            rendezvous=None if meet else Rendezvous.of_slurm(env),
            cpus=cpus,
        )


def resolve_device(device: str, num_gpus: int) -> str:
    """Return "cuda" or "cpu" for the config's DEVICE ("cuda", "cpu" or "auto") on this machine.

    A rank that was started by others than torchrun may see its own GPU alone, as with
    ``srun --gpus-per-task=1``.

    Raises:
        UserError: DEVICE wants GPUs, and the machine has none or fewer than ``num_gpus``.
    """
    available = torch.cuda.device_count()
    if device == "cpu" or (device == "auto" and available == 0):
        return "cpu"
    if available == 0:
        raise UserError(
            f"DEVICE {device} needs a GPU that torch can use, and it finds none here: "
            f"{_HOW_TO_USE_THE_CPU}"
        )
    if not (available == 1 and _may_be_shown_one_gpu(os.environ)):
        check_gpus(num_gpus)
    return "cuda"


def check_gpus(num_gpus: int) -> None:
    """Raise a UserError if this process sees fewer than ``num_gpus`` GPUs."""
    available = torch.cuda.device_count()
    if num_gpus > available:
        raise UserError(
            f"NUM_GPUS must be at most {available}, the GPUs of this machine, but it is "
            f"{num_gpus}: set NUM_GPUS {available}, or {_HOW_TO_USE_THE_CPU}"
        )


def resolve_backend(backend: str, *, device: str) -> str:
    """Return "nccl" or "gloo" for the config's DIST_BACKEND, which may be "auto"."""
    if backend != "auto":
        return backend
    return "nccl" if device == "cuda" else "gloo"


def cpu_threads(*, local_world_size: int, cpus: int = 0) -> int:
    """Threads of each process of this machine.

    Args:
        local_world_size: processes that share the cores allowed to us.
        cpus: cores of each of them, where that is said; they may be all that are allowed to us,
            as SLURM can bind each process to its own.
    """
    # macOS has no affinity.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cpus, cores or 1) if cpus else (cores or 1) // local_world_size)


def _num_tasks(env: Mapping[str, str]) -> int:
    """Tasks of the SLURM step that this process belongs to; 1 outside of SLURM."""
    return int(env.get("SLURM_STEP_NUM_TASKS", "1"))


def _may_be_shown_one_gpu(env: Mapping[str, str]) -> bool:
    is_rank = "RANK" in env or _num_tasks(env) > 1
    return is_rank and "TORCHELASTIC_RUN_ID" not in env
