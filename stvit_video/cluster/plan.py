"""What a job will do, in figures that a user can check before it is queued."""

from dataclasses import dataclass
from pathlib import Path

from fvcore.common.config import CfgNode

from stvit_video.cluster.request import Request
from stvit_video.cluster.time_limit import format_minutes
from stvit_video.engine.build import is_detection
from stvit_video.engine.resume import BEST, Resumption
from stvit_video.engine.schedule import scaled_base_lr


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
    resumes: Resumption | None = None
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


def _start(cfg: CfgNode, resumes: Resumption | None) -> list[tuple[str, str]]:
    """What training starts from, if from anything."""
    if resumes is not None:
        name = resumes.path.name if resumes.is_own else str(resumes.path)
        return [("resumes", f"{name} ({_left(cfg, resumes)})")]
    if not cfg.TRAIN.CHECKPOINT_FILE_PATH:
        return []
    reset = ", weights alone" if cfg.TRAIN.CHECKPOINT_EPOCH_RESET else ""
    return [("weights", f"{cfg.TRAIN.CHECKPOINT_FILE_PATH}{reset}")]


def _left(cfg: CfgNode, resumes: Resumption) -> str:
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
