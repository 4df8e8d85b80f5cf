"""Describe a job before it is submitted: the resources it requests and the run it will do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fvcore.common.config import CfgNode

from stvit_video.engine.build import is_detection
from stvit_video.engine.resume import BEST, ResumePoint
from stvit_video.engine.schedule import scaled_base_lr
from stvit_video.slurm.scontrol import format_minutes


@dataclass(frozen=True)
class Request:
    """The resources that a job requests.

    Attributes:
        nodes: number of machines.
        gpus_per_node: GPUs of each node; 0: the job runs on the CPU.
        tasks_per_node: ranks of each node, one per GPU.
        cpus_per_task: cores of each rank.
        minutes: time limit of one start of the job; after a requeue it starts over.
        is_time_given: the user set this limit; if not, a lower one of the partition replaces it.
        mem: memory of each node in SLURM's format, "64G"; empty: the partition's default.
        partition: one, or several separated by commas, of which SLURM takes the first that has
            room; empty: the cluster's default.
        account: empty: the user's default, as in all that follow.
        qos: quality of service.
        constraint: required features of the nodes.
        exclude: nodes not to use.
        mail: address that is notified of start, end, failure and requeues.
        sbatch: more sbatch options by their long names; True: an option without a value.
        srun_args: more srun arguments.
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
        """Number of ranks of the job."""
        return self.nodes * self.tasks_per_node


@dataclass(frozen=True)
class Plan:
    """A job before it is submitted.

    Attributes:
        name: name of the job.
        source: its config file.
        cfg: the merged config.
        request: its resources.
        folder: where its code, config and logs go.
        max_requeues: how often it may be requeued.
        requeue_on_failure: also requeue it after a rank died or hung.
        timeout_s: how long a rank waits for the others before the job ends.
        is_local: it runs on this machine, without SLURM.
        resume_point: where training resumes, as found by the checks; None: it starts from scratch.
        notes: remarks of the checks.
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
    resume_point: ResumePoint | None = None
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return the plan as text, a line "name  value" for each property."""
        cfg, request = self.cfg, self.request
        rows = [("job", f"{self.name} ({self.source})"), ("ranks", _describe_ranks(request))]
        if cfg.TRAIN.ENABLE:
            rows += _describe_training(cfg, request)
            rows += _describe_start(cfg, self.resume_point)
        if cfg.TEST.ENABLE:
            rows.append(("test", _describe_test(cfg, request)))
        if not self.is_local:
            limit = format_minutes(request.minutes)
            rows.append(("time limit", f"{limit} per start, at most {self.max_requeues} requeues"))
        rows += [("output", cfg.OUTPUT_DIR), ("job folder", str(self.folder))]
        rows += [("note", note) for note in self.notes]
        return "\n".join(f"{name:<14} {value}" for name, value in rows)


def _describe_ranks(request: Request) -> str:
    unit = "GPUs" if request.gpus_per_node else "CPU ranks"
    return (
        f"{request.nodes} (nodes) x {request.tasks_per_node} ({unit} per node) = "
        f"{request.num_ranks}"
    )


def _describe_training(cfg: CfgNode, request: Request) -> list[tuple[str, str]]:
    batch_size = cfg.TRAIN.BATCH_SIZE
    unit = _sample_unit(cfg.TRAIN.DATASET)
    factors = [
        (request.nodes, "nodes"),
        (cfg.TRAIN.ACCUMULATE_STEPS, "passes (TRAIN.ACCUMULATE_STEPS)"),
        (cfg.AUG.NUM_SAMPLE, f"samples per {unit} (AUG.NUM_SAMPLE)"),
    ]
    total = batch_size
    product = f"{batch_size} per node (TRAIN.BATCH_SIZE)"
    for factor, name in factors:
        total *= factor
        if factor > 1:
            product += f" x {factor} {name}"
    return [
        ("batch per rank", f"{batch_size // request.tasks_per_node} {unit}s per pass"),
        ("total batch", f"{product} = {total} {unit}s per step"),
        ("learning rate", _describe_learning_rate(cfg, request)),
        ("epochs", str(cfg.SOLVER.MAX_EPOCH)),
    ]


def _describe_learning_rate(cfg: CfgNode, request: Request) -> str:
    base = f"{cfg.SOLVER.BASE_LR:g} (SOLVER.BASE_LR)"
    if request.nodes == 1:
        return base
    if cfg.SOLVER.BASE_LR_SCALE_NUM_SHARDS:
        return f"{base} x {request.nodes} nodes = {scaled_base_lr(cfg):g}"
    return (
        f"{base}, not scaled, although the batch is that of {request.nodes} nodes "
        "(SOLVER.BASE_LR_SCALE_NUM_SHARDS True multiplies it by the nodes)"
    )


def _describe_start(cfg: CfgNode, resume_point: ResumePoint | None) -> list[tuple[str, str]]:
    """Return the line about the checkpoint that training starts from, if there is one."""
    if resume_point is not None:
        path = resume_point.path.name if resume_point.is_own else resume_point.path
        return [("resumes", f"{path} ({_describe_rest(cfg, resume_point)})")]
    if not cfg.TRAIN.CHECKPOINT_FILE_PATH:
        return []
    weights_only = ", weights only" if cfg.TRAIN.CHECKPOINT_EPOCH_RESET else ""
    return [("weights", f"{cfg.TRAIN.CHECKPOINT_FILE_PATH}{weights_only}")]


def _describe_rest(cfg: CfgNode, resume_point: ResumePoint) -> str:
    epochs, done = cfg.SOLVER.MAX_EPOCH, resume_point.finished_epochs
    if done >= epochs:
        return f"nothing left to train: {done} epochs are finished"
    steps = resume_point.finished_steps
    partial = f", minus {steps} finished steps of epoch {done + 1}" if steps else ""
    return f"{epochs - done} of {epochs} epochs left{partial}"


def _describe_test(cfg: CfgNode, request: Request) -> str:
    path = cfg.TEST.CHECKPOINT_FILE_PATH
    weights = {"": "the last checkpoint", BEST: "the best checkpoint"}.get(path, path)
    return f"{_describe_views(cfg, request)}, with {weights}"


def _describe_views(cfg: CfgNode, request: Request) -> str:
    if is_detection(cfg):
        # Padding an image to the size of another would change its results.
        return f"whole images, one at a time per rank, short side {cfg.DETECTION.TEST_SHORT_SIDE}"
    clips, crops = cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS
    views = f"{clips} clips x {crops} crops"
    if _sample_unit(cfg.TEST.DATASET) == "image":
        views = f"{clips * crops} {'views' if clips * crops > 1 else 'view'} of each image"
    return f"{views}, {cfg.TEST.BATCH_SIZE // request.tasks_per_node} at a time per rank"


def _sample_unit(dataset: str) -> str:
    return "image" if dataset in ("imagenet", "coco") else "clip"
