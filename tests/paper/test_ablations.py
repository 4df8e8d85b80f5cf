"""Test the variants, the table, and small runs of the ablations."""

import json
from pathlib import Path

import pytest
import torch

from stvit_video.config import load_config
from stvit_video.engine import evaluate
from stvit_video.errors import UserError
from stvit_video.models import build_model
from stvit_video.models.profile import count_flops
from stvit_video.paper import ablations
from stvit_video.paper.ablations import (
    NOTE,
    AblationRow,
    Variant,
    as_json,
    as_markdown,
    as_text,
    run_ablations,
    variants,
)
from stvit_video.synthetic.digits import DigitRecipe, make_digit_dataset

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
VARIANTS = {f"{variant.study}, {variant.name}": variant for variant in variants()}
PAIR = (VARIANTS["pooling, average"], VARIANTS["tokens, 4 tokens"])


def flops_of(variant):
    cfg = load_config(CONFIGS / variant.config, variant.overrides)
    side = cfg.DATA.TRAIN_CROP_SIZE
    return count_flops(build_model(cfg), torch.zeros(1, 3, 1, side, side))


def test_every_study_has_its_variants():
    counts = {
        study: sum(variant.study == study for variant in VARIANTS.values())
        for study in ("demo", "initialization", "layers", "pooling", "tokens")
    }
    assert counts == {"demo": 2, "initialization": 4, "layers": 3, "pooling": 3, "tokens": 4}


def test_semantic_tokens_need_less_than_half_the_flops():
    assert flops_of(VARIANTS["demo, STViT-DeiT"]) < 0.5 * flops_of(VARIANTS["demo, DeiT"])


def test_the_two_models_of_the_demo_differ_by_their_tokens_alone():
    dense, semantic = (
        load_config(CONFIGS / VARIANTS[f"demo, {name}"].config) for name in ("DeiT", "STViT-DeiT")
    )
    differing = {key for key in dense if dense[key] != semantic[key]}
    assert differing == {"OUTPUT_DIR", "STVIT"}


def test_published_accuracies_belong_to_their_variants():
    assert VARIANTS["demo, DeiT"].paper_top1 == 79.8
    assert VARIANTS["tokens, 36 tokens"].paper_top1 == 80.1
    assert VARIANTS["tokens, 4 tokens"].paper_top1 is None


def test_the_table_has_mean_and_spread():
    variant = Variant("pooling", "max", "demo/stvit_deit_digits.yaml")
    rows = [
        AblationRow(variant, 72_000, 7_600_000, {0: 90.0, 1: 91.0, 2: 92.0}),
        AblationRow(variant, 72_000, 7_600_000, {0: 90.0}),
        AblationRow(variant, 72_000, 7_600_000),
    ]
    assert [(row.mean, row.spread) for row in rows] == [(91.0, 1.0), (90.0, None), (None, None)]
    cells = [line.split() for line in as_text(rows).splitlines()[1:4]]
    assert cells[0] == ["pooling", "max", "72,000", "7.6", "91.0", "1.0", "3", "-"]
    assert cells[1][4:] == ["90.0", "-", "1", "-"]
    assert cells[2][4:] == ["-", "-", "0", "-"]
    markdown = as_markdown(rows)
    assert {line.count("|") for line in markdown.splitlines()[:5]} == {9}
    entries = json.loads(as_json(rows))
    assert entries["rows"][0]["top1"] == {"0": 90.0, "1": 91.0, "2": 92.0}
    assert entries["rows"][2]["mean"] is None
    for text in (as_text(rows), markdown, entries["note"]):
        assert NOTE in text


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return overrides for runs of a few seconds."""
    folder = tmp_path_factory.mktemp("digits") / "set"
    make_digit_dataset(folder, DigitRecipe(train=64, val=20), num_workers=1)
    return (
        *("DATA.PATH_TO_DATA_DIR", str(folder), "DEVICE", "cpu", "TENSORBOARD.ENABLE", "False"),
        *("SOLVER.MAX_EPOCH", "1", "DATA_LOADER.NUM_WORKERS", "0", "DEIT.EMBED_DIM", "12"),
    )


@pytest.fixture
def run(small, tmp_path):
    """Return a function that runs variants, and returns the rows and the logged lines."""

    def start(chosen=PAIR, *, seeds=(0,), overrides=()):
        logged = []
        rows = run_ablations(
            chosen,
            configs=CONFIGS,
            output=tmp_path / "out",
            seeds=seeds,
            overrides=[*small, *overrides],
            log=logged.append,
        )
        return rows, logged

    return start


def trained(logged):
    return [line.split("] ")[1].split(":")[0] for line in logged if "training" in line]


def test_finished_runs_are_not_repeated(run, tmp_path, monkeypatch, capsys):
    real, calls = evaluate.evaluate, []

    def stopped_in_the_second(cfg):
        calls.append(cfg.OUTPUT_DIR)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(cfg)

    monkeypatch.setattr("stvit_video.engine.run.evaluate", stopped_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        run()
    written = json.loads((tmp_path / "out" / "ablations.json").read_text())["rows"]
    assert [list(row["top1"]) for row in written] == [["0"], []]
    rows, logged = run()
    assert trained(logged) == ["tokens, 4 tokens, seed 0"]
    assert sum("already finished" in line for line in logged) == 1
    # Training of the stopped run was finished, so only its test ran.
    assert "Nothing is left to train" in (Path(calls[1]) / "stdout.log").read_text()
    assert rows[0].top1[0] == written[0]["top1"]["0"]
    assert "| pooling | average |" in (tmp_path / "out" / "ablations.md").read_text()
    assert capsys.readouterr().out == ""  # reserved for the table


def test_the_result_is_that_of_the_test_and_the_model_that_of_the_variant(run, tmp_path):
    (row,), _ = run(PAIR[1:], seeds=(7,))
    (folder,) = (tmp_path / "out" / "runs").iterdir()
    summary = json.loads((folder / "results" / "summary.json").read_text())
    assert row.top1 == {7: summary["top1_acc"]}
    cfg = load_config(folder / "config.yaml")
    assert (cfg.STVIT.NUM_TOKENS, cfg.RNG_SEED, cfg.DEIT.EMBED_DIM) == (4, 7, 12)


@pytest.fixture
def untrained(monkeypatch):
    """Replace training and testing by writing an accuracy of 50%."""

    def pretend(cfg):
        results = Path(cfg.OUTPUT_DIR) / "results"
        results.mkdir(exist_ok=True)
        (results / "summary.json").write_text('{"top1_acc": 50.0}')

    for function in ("train", "evaluate"):
        monkeypatch.setattr(f"stvit_video.engine.run.{function}", pretend)


def test_equal_variants_of_two_studies_are_one_run(run, tmp_path, untrained):
    chosen = [VARIANTS[name] for name in ("tokens, 9 tokens", "pooling, intra_inter")]
    rows, logged = run([*chosen, VARIANTS["layers, 2 layers"]])
    assert trained(logged) == ["tokens, 9 tokens, seed 0"]
    assert [row.top1 for row in rows] == [{0: 50.0}] * 3
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 1


def test_another_config_or_other_images_are_another_run(run, tmp_path, untrained):
    other = tmp_path / "digits"
    make_digit_dataset(other, DigitRecipe(seed=1, train=64, val=20), num_workers=1)
    for overrides in (
        (),
        ("SOLVER.BASE_LR", "2e-3"),
        ("DATA.PATH_TO_DATA_DIR", str(other)),
    ):
        assert trained(run(PAIR, overrides=overrides)[1]) == [
            "pooling, average, seed 0",
            "tokens, 4 tokens, seed 0",
        ]
        assert not trained(run(PAIR, overrides=overrides)[1])


def test_overrides_cannot_disable_training_or_the_test(run, tmp_path, untrained):
    run(PAIR[:1], overrides=("TRAIN.ENABLE", "False", "TEST.ENABLE", "False"))
    (folder,) = (tmp_path / "out" / "runs").iterdir()
    cfg = load_config(folder / "config.yaml")
    assert cfg.TRAIN.ENABLE and cfg.TEST.ENABLE


def test_missing_images_are_an_error_before_anything_starts(run, tmp_path):
    with pytest.raises(UserError, match="cannot read the folder"):
        run(overrides=("DATA.PATH_TO_DATA_DIR", str(tmp_path / "nowhere")))
    assert not (tmp_path / "out").exists()


def test_the_backend_is_that_of_the_config(run, untrained, monkeypatch):
    backends = []

    def run_ranks(function, cfg, *, backend="auto", **_):
        backends.append(backend)
        function(cfg)

    monkeypatch.setattr(ablations, "run_ranks", run_ranks)
    run(PAIR[:1], overrides=("DIST_BACKEND", "gloo"))
    assert set(backends) == {"gloo"}


def test_several_machines_are_refused_before_anything_starts(run, tmp_path):
    with pytest.raises(UserError, match="one machine, but NUM_SHARDS is 2"):
        run(overrides=("NUM_SHARDS", "2"))
    assert not (tmp_path / "out").exists()
