"""Determine the rank, device and backend of this process from torchrun, srun or the config."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from stvit_video.errors import UserError
from stvit_video.runtime.rendezvous import Rendezvous

_CPU_HINT = "add DEVICE cpu to run on the CPU"


@dataclass(frozen=True)
class Launch:
    """The place of one process among all ranks.

    Attributes:
        rank: index among all processes, from 0 to ``world_size`` - 1.
        local_rank: index among the processes on this machine.
        world_size: number of all processes.
        local_world_size: number of processes on this machine.
        init_method: URL for torch.distributed where the ranks meet; empty with one rank, with
            ``store_port`` or with ``rendezvous``.
        backend: "nccl" or "gloo".
        device_type: "cuda" or "cpu".
        store_port: port on ``LOOPBACK`` of the store that the parent process keeps for its
            ranks; 0 if there is none.
        rendezvous: where the tasks of a SLURM job meet if ``init_method`` is empty.
        cpus: cores that srun assigned to this process alone; 0 if the processes on this machine
            share the available cores.
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
        """Index of this process's GPU among the visible ones, which may be its own alone."""
        return self.local_rank % torch.cuda.device_count()

    def with_local_rank(self, local_rank: int) -> "Launch":
        """Return the launch of another process on this machine."""
        rank = self.rank - self.local_rank + local_rank
        return replace(self, rank=rank, local_rank=local_rank)

    def from_launcher(self, env: Mapping[str, str]) -> "Launch | None":
        """Return the launch that torchrun or srun assigned to this process in ``env``.

        RANK and WORLD_SIZE mean torchrun; several tasks in the job step mean srun. If srun started
        the ranks and there is no ``init_method``, they find each other by their job id. With an
        ``init_method`` and one srun task per machine, each task starts the ranks of its machine.

        Returns:
            The launch, or None if neither of them started this process as a rank.

        Raises:
            UserError: they started a number of processes other than ``world_size``.
        """
        num_tasks = _num_slurm_tasks(env)
        num_machines = self.world_size // self.local_world_size
        one_task_per_machine = num_tasks == num_machines < self.world_size
        cpus = 0
        if "RANK" in env and "WORLD_SIZE" in env:
            launcher, init_method, world_size = "torchrun", "env://", int(env["WORLD_SIZE"])
            rank = int(env["RANK"])
            local_rank = int(env.get("LOCAL_RANK", rank % self.local_world_size))
        elif num_tasks > 1 and not (self.init_method and one_task_per_machine):
            launcher, init_method, world_size = "srun", self.init_method, num_tasks
            rank, local_rank = int(env["SLURM_PROCID"]), int(env["SLURM_LOCALID"])
            cpus = int(env.get("SLURM_CPUS_PER_TASK") or 0)
        else:
            return None
        if world_size != self.world_size:
            raise UserError(
                f"{launcher} must start NUM_GPUS x NUM_SHARDS = {self.world_size} processes, but "
                f"it started {world_size}: set NUM_GPUS to the number of processes per machine "
                "and NUM_SHARDS to the number of machines"
            )
        return replace(
            self,
            rank=rank,
            local_rank=local_rank,
            init_method=init_method,
            rendezvous=None if init_method else Rendezvous.from_slurm(env),
            cpus=cpus,
        )


def resolve_device(device: str, num_gpus: int) -> str:
    """Return "cuda" or "cpu" for the config's DEVICE ("cuda", "cpu" or "auto") on this machine.

    A rank that was not started by torchrun may see only its own GPU, as with
    ``srun --gpus-per-task=1``.

    Raises:
        UserError: DEVICE needs GPUs, and the machine has none or fewer than ``num_gpus``.
    """
    available = torch.cuda.device_count()
    if device == "cpu" or (device == "auto" and available == 0):
        return "cpu"
    if available == 0:
        raise UserError(
            f"DEVICE {device} needs a GPU that torch can use, but there is none on this machine: "
            f"{_CPU_HINT}"
        )
    if not (available == 1 and _may_see_only_own_gpu(os.environ)):
        check_gpus(num_gpus)
    return "cuda"


def check_gpus(num_gpus: int) -> None:
    """Raise a UserError if this process sees fewer than ``num_gpus`` GPUs."""
    available = torch.cuda.device_count()
    if num_gpus > available:
        raise UserError(
            f"NUM_GPUS must be at most {available}, the number of GPUs on this machine, but it is "
            f"{num_gpus}: set NUM_GPUS {available}, or {_CPU_HINT}"
        )


def resolve_backend(backend: str, *, device: str) -> str:
    """Return "nccl" or "gloo" for the config's DIST_BACKEND, which may be "auto"."""
    if backend != "auto":
        return backend
    return "nccl" if device == "cuda" else "gloo"


def num_cpu_threads(*, local_world_size: int, cpus: int = 0) -> int:
    """Return the number of threads for each process on this machine.

    Args:
        local_world_size: number of processes that share the cores available to this one.
        cpus: cores of each process, or 0 if unknown. They may be all the available ones, because
            SLURM can bind each process to its own cores.
    """
    # macOS has no CPU affinity.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cpus, cores or 1) if cpus else (cores or 1) // local_world_size)


def _num_slurm_tasks(env: Mapping[str, str]) -> int:
    """Return the number of tasks in this process's SLURM step; 1 outside of SLURM."""
    return int(env.get("SLURM_STEP_NUM_TASKS", "1"))


def _may_see_only_own_gpu(env: Mapping[str, str]) -> bool:
    is_rank = "RANK" in env or _num_slurm_tasks(env) > 1
    return is_rank and "TORCHELASTIC_RUN_ID" not in env
