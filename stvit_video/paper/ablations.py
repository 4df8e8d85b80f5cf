"""Train and test the paper's ablations on a small scale, every variant with every seed."""

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

_DENSE, _SEMANTIC = "demo/deit_digits.yaml", "demo/stvit_deit_digits.yaml"

_INITIALIZATIONS = ("spatial", "global", "spatial+global", "spatial+position")
_POOLINGS = ("average", "max", "intra_inter")
_TOKENS = (4, 9, 16, 36)
# The studies compare many models, so each is trained for less long than the demo.
_BRIEFLY = (
    *("SOLVER.MAX_EPOCH", "4", "SOLVER.WARMUP_EPOCHS", "0.25"),
    *("SOLVER.BASE_LR", "1e-3"),
)
# Layers of the generation and of what follows it; all variants have as many layers.
_LAYOUTS = {
    2: "base 2, stgm 2, semantic 2",
    3: "base 2, stgm 3, semantic 1",
    4: "base 2, stgm 4",
}


@dataclass(frozen=True)
class Variant:
    """A model of the ablations.

    Attributes:
        study: what is varied.
        name: its value here.
        config: path from ``configs/``.
        overrides: of the config, "KEY", "value", ...
        paper_top1: accuracy of the paper's DeiT-S with this on ImageNet; None where it has none.
    """

    study: str
    name: str
    config: str
    overrides: tuple[str, ...] = ()
    paper_top1: float | None = None


def variants() -> list[Variant]:
    """All variants, study by study; the demo's semantic model, but trained briefly, is in each."""
    return list(_variants({(row.table, row.name): row.top1 for row in paper_rows()}))


def _variants(paper: dict[tuple[int, str], float]) -> Iterator[Variant]:
    yield Variant("demo", "DeiT", _DENSE, paper_top1=paper[1, "DeiT-S"])
    sixteen = paper[1, "STViT-DeiT-S, 16 tokens"]
    yield Variant("demo", "STViT-DeiT", _SEMANTIC, paper_top1=sixteen)
    for name in _INITIALIZATIONS:
        yield _brief("initialization", name, ("STVIT.INITIALIZATION", name), paper[7, name])
    for layers, layout in _LAYOUTS.items():
        keys = f"({', '.join('0' * layers)})"
        name, key = f"{layers} layers", "STVIT.KEY_WINDOWS"
        yield _brief("layers", name, ("STVIT.LAYOUT", layout, key, keys), paper[8, name])
    for name in _POOLINGS:
        yield _brief("pooling", name, ("STVIT.POOLING", name))
    for tokens in _TOKENS:
        name = f"{tokens} tokens"
        top1 = paper.get((1, f"STViT-DeiT-S, {name}"))
        yield _brief("tokens", name, ("STVIT.NUM_TOKENS", str(tokens)), top1)


def _brief(
    study: str, name: str, overrides: tuple[str, ...], paper_top1: float | None = None
) -> Variant:
    return Variant(study, name, _SEMANTIC, (*overrides, *_BRIEFLY), paper_top1)


NOTE = (
    "A small-scale echo of the paper's ablations: small models, trained briefly on generated "
    "pictures. Differences below the spread (standard deviation over the seeds) say nothing."
)
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
_WORDS = (0, 1)


@dataclass
class AblationRow:
    """A variant and what was measured of it.

    Attributes:
        variant: what it is.
        parameters: of its model.
        flops: multiply-accumulates of one image.
        top1: accuracy in percent by seed, of the runs that are finished.
    """

    variant: Variant
    parameters: int
    flops: int
    top1: dict[int, float] = field(default_factory=dict)

    @property
    def mean(self) -> float | None:
        """Mean accuracy over the seeds; None before the first run."""
        return mean(self.top1.values()) if self.top1 else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None with fewer than two."""
        return stdev(self.top1.values()) if len(self.top1) > 1 else None


def as_text(rows: Sequence[AblationRow]) -> str:
    """Write rows as a table for a terminal."""
    return f"{text_table(_HEADER, _cells(rows), left=_WORDS)}\n\n{NOTE}"


def as_markdown(rows: Sequence[AblationRow]) -> str:
    """Write rows as a table of Markdown."""
    return f"{markdown_table(_HEADER, _cells(rows), left=_WORDS)}\n\n{NOTE}"


def as_json(rows: Sequence[AblationRow]) -> str:
    """Write rows as JSON, the accuracies of all seeds among them."""
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


@dataclass(frozen=True)
class _Run:
    """A training and its test; OUTPUT_DIR of ``cfg`` is named by all that its result depends on."""

    row: AblationRow
    seed: int
    cfg: CfgNode

    @property
    def result_file(self) -> Path:
        return Path(self.cfg.OUTPUT_DIR) / "ablation.json"

    def __str__(self) -> str:
        return f"{self.row.variant.study}, {self.row.variant.name}, seed {self.seed}"


def run_ablations(
    variants: Sequence[Variant],
    *,
    configs: Path,
    output: Path,
    seeds: Sequence[int],
    overrides: Sequence[str] = (),
    say: Callable[[str], None],
) -> list[AblationRow]:
    """Train and test what has not been yet, and fill the table.

    All variants get their first seed before any gets its second. After every run the table is
    in ``output``, in ablations.md and ablations.json. A run that was finished before, with the
    same config and the same lists of images, is not repeated, and one that was interrupted goes
    on from its last checkpoint. The log of each is in its folder.

    Args:
        variants: the rows of the table.
        configs: the folder ``configs/``.
        output: gets the table, and a folder for every run in runs/.
        seeds: RNG_SEED of the runs of each variant.
        overrides: of all configs, after those of the variants; a variant is trained and tested
            whatever they say.
        say: is told about the progress.

    Raises:
        UserError: a config cannot run; all are checked before the first starts.
    """
    rows = [_row(variant, configs, overrides) for variant in variants]
    runs = [
        _Run(row, seed, _config_of_run(row.variant, configs, overrides, seed=seed, output=output))
        for seed, row in product(seeds, rows)
    ]
    for place, run in enumerate(runs, start=1):
        where = f"[{place}/{len(runs)}] {run}"
        if run.result_file.is_file():
            top1 = _read_top1(run)
            say(f"{where}: top-1 {top1:.2f}, measured before")
        else:
            say(f"{where}: training, see {run.cfg.OUTPUT_DIR}/stdout.log")
            began = time.perf_counter()
            top1 = _train_and_test(run)
            say(f"{where}: top-1 {top1:.2f} after {time.perf_counter() - began:.0f} s")
        run.row.top1[run.seed] = top1
        for name, write in (("ablations.md", as_markdown), ("ablations.json", as_json)):
            write_bytes_atomically(output / name, f"{write(rows)}\n".encode())
    return rows


def _row(variant: Variant, configs: Path, overrides: Sequence[str]) -> AblationRow:
    cfg = load_config(configs / variant.config, [*variant.overrides, *overrides])
    model = build_model(cfg)
    side = cfg.DATA.TRAIN_CROP_SIZE
    image = torch.zeros(1, 3, cfg.DATA.NUM_FRAMES, side, side)
    return AblationRow(variant, count_parameters(model), count_flops(model, image))


def _config_of_run(
    variant: Variant, configs: Path, overrides: Sequence[str], *, seed: int, output: Path
) -> CfgNode:
    def load(folder: Path) -> CfgNode:
        own = {"RNG_SEED": seed, "OUTPUT_DIR": folder, "TRAIN.ENABLE": True, "TEST.ENABLE": True}
        pairs = (str(text) for pair in own.items() for text in pair)
        return load_config(configs / variant.config, [*variant.overrides, *overrides, *pairs])

    # Where it goes changes no result, so it is left out of the name: the same in all.
    plain = load(output)
    if plain.NUM_SHARDS > 1:
        raise UserError(
            f"the ablations run on one machine, but NUM_SHARDS is {plain.NUM_SHARDS}: set "
            "NUM_SHARDS 1"
        )
    return load(output / "runs" / _digest(plain))


def _digest(cfg: CfgNode) -> str:
    """Name a run by its config and its images; equal variants of two studies are one run."""
    plain = cfg.clone()
    plain.defrost()
    plain.OUTPUT_DIR = ""
    lists = (build_dataset(cfg, split).videos.paths.fingerprint() for split in ("train", "test"))
    return hashlib.sha256("\n".join([plain.dump(), *lists]).encode()).hexdigest()[:16]


def _read_top1(run: _Run) -> float:
    return float(json.loads(run.result_file.read_text(encoding="utf-8"))["top1"])


def _train_and_test(run: _Run) -> float:
    cfg, folder = run.cfg, Path(run.cfg.OUTPUT_DIR)
    preflight(cfg)
    write_config(cfg)
    device = resolve_device(cfg.DEVICE, cfg.NUM_GPUS)
    # Standard output is the table's, and the log is in OUTPUT_DIR too.
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
