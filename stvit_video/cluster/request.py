"""What a job asks SLURM for, and whether SLURM can ever give it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

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
        is_time_given: the user asked for this limit; else a lower one of the partition will do.
        mem: memory of each node as SLURM writes it, "64G"; empty: the partition's default.
        partition: or several with commas between them, of which the first that has room counts;
            empty: the cluster's default one.
        account: empty: the user's default one, as with all that follow.
        qos: quality of service.
        constraint: features that the nodes must have.
        exclude: nodes that must not be used.
        mail: address that is told of the job's end, failure and requeues.
        sbatch: more options of sbatch by their long names; True stands for one without a value.
        srun_args: more arguments of srun.
    """

    nodes: int
    gpus_per_node: int
    tasks_per_node: int
    cpus_per_task: int
    minutes: int
    is_time_given: bool = True
    mem: str = ""
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    exclude: str = ""
    mail: str = ""
    sbatch: Mapping[str, str | bool] = field(default_factory=dict)
    srun_args: tuple[str, ...] = ()

    @property
    def num_ranks(self) -> int:
        """Ranks of the whole job."""
        return self.nodes * self.tasks_per_node


def check_request(request: Request, partitions: Sequence[Partition]) -> Request:
    """Compare a request with the partition it goes to, and take its limit where none was given.

    Of several partitions one that fits is enough; of those that do the lowest limit is taken.
    SLURM itself, if it is set up to (EnforcePartLimits), would queue a job that asks for more than
    the partition has, and let it wait for ever.

    Raises:
        UserError: a partition does not exist, or none can ever start the job.
    """
    chosen = _chosen(request.partition, partitions)
    fitted, problems = [], []
    for partition in chosen:
        try:
            fitted.append(_fitted(request, partition))
        except UserError as error:
            problems.append(str(error))
    if not fitted:
        raise UserError("; ".join(problems))
    return min(fitted, key=lambda request: request.minutes)


def _fitted(request: Request, partition: Partition) -> Request:
    if not partition.is_up:
        raise UserError(
            f"partition {partition.name} is not up (sinfo shows its state), so no job starts "
            "there: name another one with --partition"
        )
    limit = partition.max_minutes
    if limit is not None and not request.is_time_given:
        request = replace(request, minutes=min(limit, request.minutes))
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
    _check_node(request, partition)
    return request


def _check_node(request: Request, partition: Partition) -> None:
    if request.gpus_per_node > partition.node_gpus:
        raise UserError(
            f"--gpus-per-node must be at most {partition.node_gpus}, what a node of partition "
            f"{partition.name} has, but it is {request.gpus_per_node}"
        )
    cpus = request.tasks_per_node * request.cpus_per_task
    if partition.node_cpus is not None and cpus > partition.node_cpus:
        raise UserError(
            f"a node of partition {partition.name} has {partition.node_cpus} cores, but "
            f"{request.tasks_per_node} ranks of {request.cpus_per_task} need {cpus}: lower "
            "--cpus-per-task, or DATA_LOADER.NUM_WORKERS, which it follows"
        )


def _chosen(listed: str, partitions: Sequence[Partition]) -> list[Partition]:
    known = {partition.name: partition for partition in partitions}
    shown = ", ".join(name for name, partition in known.items() if not partition.is_hidden)
    names = [name for name in listed.split(",") if name]
    missing = [name for name in names if name not in known]
    if missing:
        raise UserError(f"there is no partition {', '.join(missing)}; this cluster has {shown}")
    chosen = [known[name] for name in names] or [one for one in partitions if one.is_default]
    if not chosen:
        raise UserError(
            f"this cluster has no default partition: name one of {shown} with --partition"
        )
    return chosen
