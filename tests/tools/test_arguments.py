"""Arguments that are no such values, in the tools that measure."""

import json

import benchmark
import paper_tables
import pytest
import torch
from _program import device

GPUS = torch.cuda.device_count()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a.yaml", "--rounds", "0"], "--rounds: it must be a whole number of at least 1, not 0"),
        (["a.yaml", "--batch", "x"], "--batch: it must be a whole number of at least 1, not x"),
        (["a.yaml", "--size", "1", "0", "8"], "--size: it must be a whole number"),
        (["a.yaml", "--device", "gpu"], "--device: gpu is no device: take cpu, cuda or cuda:N"),
        (["a.yaml", "--device", "meta"], "--device: meta is no device"),
        (["a.yaml", "--device", f"cuda:{GPUS}"], f"cuda:{GPUS} is not there: torch finds"),
        (["a.yaml", "--clips", "9"], "--clips is of the loader: add --loader"),
        (["--loader", "--batch", "9", "--train"], "--batch, --train is of models, not of"),
    ],
)
def test_what_cannot_be_measured_is_a_sentence(arguments, sentence, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmark.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        benchmark.main()
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]


def test_auto_is_a_gpu_or_else_the_cpu():
    assert device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert device("cpu") == torch.device("cpu")


def test_overrides_are_of_every_config(monkeypatch, capsys):
    small = ["DEIT.DEPTH", "3", "DEIT.EMBED_DIM", "12", "STVIT.LAYOUT"]
    config = "configs/imagenet/stvit_deit_t.yaml"
    options = ["--size", "1", "224", "224", "--rounds", "1", "--opts", *small, "base 1, stgm 2"]
    monkeypatch.setattr("sys.argv", ["benchmark.py", config, *options])
    built = []
    build = benchmark.build_contender
    monkeypatch.setattr(
        benchmark, "build_contender", lambda *a, **o: built.append(build(*a, **o)) or built[0]
    )
    assert benchmark.main() == 0
    assert f"{config} " in capsys.readouterr().out
    assert built[0].patch_embed.proj.out_channels == 12


def test_a_row_whose_base_is_in_another_table_is_timed_too(monkeypatch, capsys):
    wanted = [row for row in paper_tables.paper_rows() if row.name == "STViT-DeiT-S"]
    monkeypatch.setattr(paper_tables, "paper_rows", lambda: wanted)
    arguments = ["--tables", "4", "--speed", "--rounds", "1", "--json"]
    monkeypatch.setattr("sys.argv", ["paper_tables.py", *arguments])
    assert paper_tables.main() == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["measured"]["speedup"] > 0
