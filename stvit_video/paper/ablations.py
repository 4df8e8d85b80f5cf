"""Train and test small versions of the paper's ablations, each variant with several seeds."""

import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from statistics import mean, stdev

import torch
from fvcore.common.config import CfgNode

from stvit_video.config import load_config
from stvit_video.data.build import build_dataset
from stvit_video.engine.preflight import preflight
from stvit_video.engine.run import train_and_test, write_config
from stvit_video.errors import UserError
from stvit_video.models import build_model
from stvit_video.models.profile import count_flops, count_parameters
from stvit_video.paper.rows import paper_rows
from stvit_video.paper.tables import markdown_table, text_table
from stvit_video.runtime.atomic_files import write_bytes_atomically
from stvit_video.runtime.distributed import run_ranks
from stvit_video.runtime.launch import resolve_device

NOTE = (
    "A small-scale version of the paper's ablations: small models, trained briefly on generated "
    "images. Differences below the spread (standard deviation over the seeds) are not significant."
)

_DENSE, _SEMANTIC = "demo/deit_digits.yaml", "demo/stvit_deit_digits.yaml"
_INITIALIZATIONS = ("spatial", "global", "spatial+global", "spatial+position")
_POOLINGS = ("average", "max", "intra_inter")
_TOKENS = (4, 9, 16, 36)
# The studies compare many models, so the schedule is shorter than the demo's.
_SHORT_SCHEDULE = (
    "SOLVER.MAX_EPOCH",
    "4",
    "SOLVER.WARMUP_EPOCHS",
    "0.25",
    "SOLVER.BASE_LR",
    "1e-3",
)
# Layouts by layers of the generation module, all with the same number of layers in total.
_LAYOUTS = {
    2: "base 2, stgm 2, semantic 2",
    3: "base 2, stgm 3, semantic 1",
    4: "base 2, stgm 4",
}
_HEADER = (
    "study",
    "variant",
    "parameters",
    "MFLOPs",
    "top-1, mean",
    "spread",
    "seeds",
    "paper's DeiT-S, ImageNet",
)
_TEXT_COLUMNS = (0, 1)


@dataclass(frozen=True)
class Variant:
    """Model of an ablation study.

    Attributes:
        study: name of the study.
        name: name of the variant.
        config: path relative to ``configs/``.
        overrides: alternating config keys and values.
        paper_top1: published ImageNet accuracy of the variant of DeiT-S; None if not published.
    """

    study: str
    name: str
    config: str
    overrides: tuple[str, ...] = ()
    paper_top1: float | None = None


def variants() -> list[Variant]:
    """Return all variants, study by study.

    Each study includes the semantic model of the demo, trained with the short schedule.
    """
    return list(_variants({(row.table, row.name): row.top1 for row in paper_rows()}))


def _variants(paper: dict[tuple[int, str], float]) -> Iterator[Variant]:
    yield Variant("demo", "DeiT", _DENSE, paper_top1=paper[1, "DeiT-S"])
    top1 = paper[1, "STViT-DeiT-S, 16 tokens"]
    yield Variant("demo", "STViT-DeiT", _SEMANTIC, paper_top1=top1)
    for name in _INITIALIZATIONS:
        yield _short_variant("initialization", name, ("STVIT.INITIALIZATION", name), paper[7, name])
    for layers, layout in _LAYOUTS.items():
        keys = f"({', '.join('0' * layers)})"
        name, overrides = f"{layers} layers", ("STVIT.LAYOUT", layout, "STVIT.KEY_WINDOWS", keys)
        yield _short_variant("layers", name, overrides, paper[8, name])
    for name in _POOLINGS:
        yield _short_variant("pooling", name, ("STVIT.POOLING", name))
    for tokens in _TOKENS:
        name = f"{tokens} tokens"
        paper_top1 = paper.get((1, f"STViT-DeiT-S, {name}"))
        yield _short_variant("tokens", name, ("STVIT.NUM_TOKENS", str(tokens)), paper_top1)


def _short_variant(
    study: str, name: str, overrides: tuple[str, ...], paper_top1: float | None = None
) -> Variant:
    return Variant(study, name, _SEMANTIC, (*overrides, *_SHORT_SCHEDULE), paper_top1)


@dataclass
class AblationRow:
    """Variant and its measured values.

    Attributes:
        variant: the variant.
        parameters: number of parameters of the model.
        flops: multiply-accumulates for one image.
        top1: accuracies of the finished runs in percent, by seed.
    """

    variant: Variant
    parameters: int
    flops: int
    top1: dict[int, float] = field(default_factory=dict)

    @property
    def mean(self) -> float | None:
        """Mean accuracy over the seeds; None before the first run finishes."""
        return mean(self.top1.values()) if self.top1 else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None with fewer than two."""
        return stdev(self.top1.values()) if len(self.top1) > 1 else None


def run_ablations(
    variants: Sequence[Variant],
    *,
    configs: Path,
    output: Path,
    seeds: Sequence[int],
    overrides: Sequence[str] = (),
    log: Callable[[str], None],
) -> list[AblationRow]:
    """Train and test all variants with all seeds, and return the rows of the table.

    All variants run with the first seed before any runs with the second. After every run the
    table is written to ablations.md and ablations.json in ``output``. Finished runs with the same
    config and the same lists of images are not repeated, and an interrupted run resumes from its
    last checkpoint. The log of each run is in its folder.

    Args:
        variants: the rows of the table.
        configs: the folder ``configs/``.
        output: folder for the table, and for the folders of the runs in runs/.
        seeds: RNG_SEED of the runs of each variant.
        overrides: overrides of all configs, applied after those of the variants; TRAIN.ENABLE and
            TEST.ENABLE are always True.
        log: called with a line for each step.

    Raises:
        UserError: a config is invalid; all are checked before the first run starts.
    """
    rows = [_build_row(variant, configs, overrides) for variant in variants]
    runs = [
        _Run(row, seed, _run_config(row.variant, configs, overrides, seed=seed, output=output))
        for seed, row in product(seeds, rows)
    ]
    for number, run in enumerate(runs, start=1):
        label = f"[{number}/{len(runs)}] {run}"
        if run.result_file.is_file():
            result = json.loads(run.result_file.read_text(encoding="utf-8"))
            top1 = float(result["top1"])
            log(f"{label}: top-1 {top1:.2f}, already finished")
        else:
            log(f"{label}: training, see {run.cfg.OUTPUT_DIR}/stdout.log")
            start = time.perf_counter()
            top1 = _train_and_test(run)
            log(f"{label}: top-1 {top1:.2f} after {time.perf_counter() - start:.0f} s")
        run.row.top1[run.seed] = top1
        for name, formatter in (("ablations.md", as_markdown), ("ablations.json", as_json)):
            write_bytes_atomically(output / name, f"{formatter(rows)}\n".encode())
    return rows


@dataclass(frozen=True)
class _Run:
    """Training and test of a variant with a seed.

    The name of the OUTPUT_DIR of ``cfg`` is a hash of everything that the result depends on.
    """

    row: AblationRow
    seed: int
    cfg: CfgNode

    @property
    def result_file(self) -> Path:
        return Path(self.cfg.OUTPUT_DIR) / "ablation.json"

    def __str__(self) -> str:
        return f"{self.row.variant.study}, {self.row.variant.name}, seed {self.seed}"


def _build_row(variant: Variant, configs: Path, overrides: Sequence[str]) -> AblationRow:
    cfg = load_config(configs / variant.config, [*variant.overrides, *overrides])
    model = build_model(cfg)
    side = cfg.DATA.TRAIN_CROP_SIZE
    image = torch.zeros(1, 3, cfg.DATA.NUM_FRAMES, side, side)
    return AblationRow(variant, count_parameters(model), count_flops(model, image))


def _run_config(
    variant: Variant, configs: Path, overrides: Sequence[str], *, seed: int, output: Path
) -> CfgNode:
    def load(folder: Path) -> CfgNode:
        own = {"RNG_SEED": seed, "OUTPUT_DIR": folder, "TRAIN.ENABLE": True, "TEST.ENABLE": True}
        pairs = (str(text) for pair in own.items() for text in pair)
        return load_config(configs / variant.config, [*variant.overrides, *overrides, *pairs])

    cfg = load(output)
    if cfg.NUM_SHARDS > 1:
        raise UserError(
            f"The ablations run on one machine, but NUM_SHARDS is {cfg.NUM_SHARDS}: set "
            "NUM_SHARDS 1."
        )
    return load(output / "runs" / _digest(cfg))


def _digest(cfg: CfgNode) -> str:
    """Hash the config, except OUTPUT_DIR, and the lists of images.

    Equal variants of two studies have the same hash, so they share a run.
    """
    hashed = cfg.clone()
    hashed.defrost()
    hashed.OUTPUT_DIR = ""
    lists = (build_dataset(cfg, split).videos.paths.fingerprint() for split in ("train", "test"))
    return hashlib.sha256("\n".join([hashed.dump(), *lists]).encode()).hexdigest()[:16]


def _train_and_test(run: _Run) -> float:
    cfg, folder = run.cfg, Path(run.cfg.OUTPUT_DIR)
    preflight(cfg)
    write_config(cfg)
    device = resolve_device(cfg.DEVICE, cfg.NUM_GPUS)
    # Standard output is reserved for the table; the log is also in OUTPUT_DIR.
    with redirect_stdout(io.StringIO()):
        run_ranks(
            train_and_test,
            cfg,
            num_local_ranks=cfg.NUM_GPUS,
            device=device,
            backend=cfg.DIST_BACKEND,
        )
    summary = json.loads((folder / "results" / "summary.json").read_text(encoding="utf-8"))
    top1 = float(summary["top1_acc"])
    text = json.dumps({"run": str(run), "top1": top1})
    write_bytes_atomically(run.result_file, f"{text}\n".encode())
    return top1


def as_text(rows: Sequence[AblationRow]) -> str:
    """Format rows as a table for a terminal."""
    return f"{text_table(_HEADER, _cells(rows), left=_TEXT_COLUMNS)}\n\n{NOTE}"


def as_markdown(rows: Sequence[AblationRow]) -> str:
    """Format rows as a Markdown table."""
    return f"{markdown_table(_HEADER, _cells(rows), left=_TEXT_COLUMNS)}\n\n{NOTE}"


def as_json(rows: Sequence[AblationRow]) -> str:
    """Format rows as JSON, including the accuracies of all seeds."""
    entries = [{**asdict(row), "mean": row.mean, "spread": row.spread} for row in rows]
    return json.dumps({"note": NOTE, "rows": entries}, indent=2)


def _cells(rows: Sequence[AblationRow]) -> list[tuple[str, ...]]:
    return [
        (
            row.variant.study,
            row.variant.name,
            f"{row.parameters:,}",
            f"{row.flops / 1e6:.1f}",
            _percent(row.mean),
            _percent(row.spread),
            str(len(row.top1)),
            _percent(row.variant.paper_top1),
        )
        for row in rows
    ]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
