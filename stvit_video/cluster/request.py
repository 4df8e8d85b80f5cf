"""What a job asks SLURM for, and whether SLURM can ever give it."""

from collections.abc import Sequence
from dataclasses import dataclass

from stvit_video.cluster.slurm import Partition
from stvit_video.cluster.time_limit import format_minutes
from stvit_video.errors import UserError


@dataclass(frozen=True)
class Request:
    """The nodes of a job, for how long, and on whose account.

    Attributes:
        nodes: number of machines.
        gpus_per_node: GPUs of each; 0: the job runs on the CPU.
        tasks_per_node: ranks of each, one a GPU.
        cpus_per_task: cores of each rank.
        minutes: time limit of a start of the job; it goes on after a requeue with a new one.
        mem: memory of each node as SLURM writes it, "64G"; empty: the partition's default.
        partition: empty: the cluster's default one.
        account: empty: the user's default one, as with all that follow.
        qos: quality of service.
        constraint: features that the nodes must have.
        exclude: nodes that must not be used.
        mail: address that is told of the job's end, failure and requeues.
    """

    nodes: int
    gpus_per_node: int
    tasks_per_node: int
    cpus_per_task: int
    minutes: int
    mem: str = ""
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    exclude: str = ""
    mail: str = ""

    @property
    def num_ranks(self) -> int:
        """Ranks of the whole job."""
        return self.nodes * self.tasks_per_node


def check_request(request: Request, partitions: Sequence[Partition]) -> None:
    """Compare a request with the partition it goes to.

    SLURM itself would queue a job whose time limit is over the partition's, or that asks for
    more nodes than it has, and let it wait for ever.

    Raises:
        UserError: the partition does not exist or can never start the job.
    """
    partition = _chosen(request.partition, partitions)
    if not partition.is_up:
        raise UserError(
            f"partition {partition.name} is not up (sinfo shows its state), so no job starts "
            "there: name another one with --partition"
        )
    limit = partition.max_minutes
    if limit is not None and request.minutes > limit:
        raise UserError(
            f"--time must be at most {format_minutes(limit)}, the limit of partition "
            f"{partition.name}, but it is {format_minutes(request.minutes)}: lower it (the job "
            "goes on after each limit, see --max-requeues), or name another --partition"
        )
    if request.nodes > partition.max_nodes:
        raise UserError(
            f"--nodes must be at most {partition.max_nodes}, what a job may have in partition "
            f"{partition.name}, but it is {request.nodes}"
        )


def _chosen(name: str, partitions: Sequence[Partition]) -> Partition:
    names = ", ".join(partition.name for partition in partitions)
    for partition in partitions:
        if partition.name == name or (not name and partition.is_default):
            return partition
    if name:
        raise UserError(f"there is no partition {name}; this cluster has {names}")
    raise UserError(f"this cluster has no default partition: name one of {names} with --partition")
