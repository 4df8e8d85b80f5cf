"""The plan of a job: what it asks SLURM for, and what it will do, in figures to check."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fvcore.common.config import CfgNode

from stvit_video.engine.build import is_detection
from stvit_video.engine.resume import BEST, ResumePoint
from stvit_video.engine.schedule import scaled_base_lr
from stvit_video.errors import UserError
from stvit_video.slurm.scontrol import Partition, format_minutes


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


@dataclass(frozen=True)
class Plan:
    """One job before it is submitted.

    Attributes:
        name: of the job.
        source: the config file that it comes from.
        cfg: the merged config.
        request: its nodes.
        folder: where its code, config and logs go.
        max_requeues: how often it may be requeued.
        requeue_on_failure: requeue it after a rank died or hung, too.
        timeout_s: how long a rank waits for the others before the job ends.
        is_local: it runs on this machine, without SLURM.
        resumes: where its training goes on, as the checks found it; None: it begins anew.
        notes: what the checks found worth a line.
    """

    name: str
    source: str
    cfg: CfgNode
    request: Request
    folder: Path
    max_requeues: int
    requeue_on_failure: bool
    timeout_s: float
    is_local: bool = False
    resumes: ResumePoint | None = None
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return the plan, a line "what  figures" each."""
        request = self.request
        rows = [
            ("job", f"{self.name} ({self.source})"),
            ("ranks", _ranks(request)),
            *(_training(self.cfg, request) if self.cfg.TRAIN.ENABLE else []),
            *(_start(self.cfg, self.resumes) if self.cfg.TRAIN.ENABLE else []),
            *(_testing(self.cfg, request) if self.cfg.TEST.ENABLE else []),
            *([] if self.is_local else [("time limit", self._time_limit())]),
            ("output", self.cfg.OUTPUT_DIR),
            ("job folder", str(self.folder)),
            *(("note", note) for note in self.notes),
        ]
        return "\n".join(f"{what:<14} {figures}" for what, figures in rows)

    def _time_limit(self) -> str:
        limit = format_minutes(self.request.minutes)
        return f"{limit} a start, at most {self.max_requeues} requeues"


def _ranks(request: Request) -> str:
    unit = "GPUs" if request.gpus_per_node else "ranks on the CPU"
    each = f"{request.tasks_per_node} ({unit} of each)"
    return f"{request.nodes} (nodes) x {each} = {request.num_ranks}"


def _training(cfg: CfgNode, request: Request) -> list[tuple[str, str]]:
    per_node = cfg.TRAIN.BATCH_SIZE
    unit = _unit(cfg.TRAIN.DATASET)
    factors = [
        (request.nodes, "nodes"),
        (cfg.TRAIN.ACCUMULATE_STEPS, "passes (TRAIN.ACCUMULATE_STEPS)"),
        (cfg.AUG.NUM_SAMPLE, f"samples of each {unit} (AUG.NUM_SAMPLE)"),
    ]
    total = per_node
    product = f"{per_node} a node (TRAIN.BATCH_SIZE)"
    for factor, what in factors:
        total *= factor
        if factor > 1:
            product += f" x {factor} {what}"
    return [
        ("batch a rank", f"{per_node // request.tasks_per_node} {unit}s a pass"),
        ("total batch", f"{product} = {total} {unit}s a step"),
        ("learning rate", _learning_rate(cfg, request)),
        ("epochs", str(cfg.SOLVER.MAX_EPOCH)),
    ]


def _learning_rate(cfg: CfgNode, request: Request) -> str:
    base = f"{cfg.SOLVER.BASE_LR:g} (SOLVER.BASE_LR)"
    if request.nodes == 1:
        return base
    if cfg.SOLVER.BASE_LR_SCALE_NUM_SHARDS:
        return f"{base} x {request.nodes} nodes = {scaled_base_lr(cfg):g}"
    return (
        f"{base}, not scaled, although the batch is that of {request.nodes} nodes "
        "(SOLVER.BASE_LR_SCALE_NUM_SHARDS True multiplies it by them)"
    )


def _start(cfg: CfgNode, resumes: ResumePoint | None) -> list[tuple[str, str]]:
    """What training starts from, if from anything."""
    if resumes is not None:
        name = resumes.path.name if resumes.is_own else str(resumes.path)
        return [("resumes", f"{name} ({_left(cfg, resumes)})")]
    if not cfg.TRAIN.CHECKPOINT_FILE_PATH:
        return []
    reset = ", weights alone" if cfg.TRAIN.CHECKPOINT_EPOCH_RESET else ""
    return [("weights", f"{cfg.TRAIN.CHECKPOINT_FILE_PATH}{reset}")]


def _left(cfg: CfgNode, resumes: ResumePoint) -> str:
    epochs, done = cfg.SOLVER.MAX_EPOCH, resumes.finished_epochs
    if done >= epochs:
        return f"nothing left to train: {done} epochs are done"
    steps = resumes.finished_steps
    inside = f", less the {steps} steps of epoch {done + 1} that are done" if steps else ""
    return f"{epochs - done} of {epochs} epochs left{inside}"


def _testing(cfg: CfgNode, request: Request) -> list[tuple[str, str]]:
    weights = {"": "the last checkpoint", BEST: "the best checkpoint"}
    path = cfg.TEST.CHECKPOINT_FILE_PATH
    return [("test", f"{_views(cfg, request)}, of {weights.get(path, path)}")]


def _views(cfg: CfgNode, request: Request) -> str:
    """What a test looks at, and how much of it at once."""
    if is_detection(cfg):
        # Padded to another's size, an image would give other results.
        return f"whole images, one at a time on a rank, short side {cfg.DETECTION.TEST_SHORT_SIDE}"
    clips, crops = cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS
    views = f"{clips} clips x {crops} crops"
    if _unit(cfg.TEST.DATASET) == "image":
        views = f"{clips * crops} {'views' if clips * crops > 1 else 'view'} of each image"
    return f"{views}, {cfg.TEST.BATCH_SIZE // request.tasks_per_node} at once on a rank"


def _unit(dataset: str) -> str:
    return "image" if dataset in ("imagenet", "coco") else "clip"
