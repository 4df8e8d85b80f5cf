"""The paper's ablations on a small scale: every variant is trained and tested with every seed."""

import hashlib
import io
import json
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from fvcore.common.config import CfgNode

from stvit_video.config import load_config
from stvit_video.data.build import build_dataset
from stvit_video.engine.ablation_rows import Variant
from stvit_video.engine.ablation_tables import AblationRow, as_json, as_markdown
from stvit_video.engine.preflight import preflight
from stvit_video.engine.run import train_and_test, write_config
from stvit_video.errors import UserError
from stvit_video.models import build_model
from stvit_video.models.profile import count_flops, count_parameters
from stvit_video.runtime.atomic_files import replace_content
from stvit_video.runtime.distributed import run_ranks
from stvit_video.runtime.launch import resolve_device


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
            replace_content(output / name, f"{write(rows)}\n".encode())
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
    replace_content(run.result_file, f"{text}\n".encode())
    return top1
