"""Test invalid arguments of the benchmarking tools."""

import json

import benchmark
import paper_tables
import pytest
import torch
from _program import device

GPUS = torch.cuda.device_count()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.yaml", "--rounds", "0"], "--rounds: must be an integer of at least 1, but it is 0"),
        (["a.yaml", "--batch", "x"], "--batch: must be an integer of at least 1, but it is x"),
        (["a.yaml", "--size", "1", "0", "8"], "--size: must be an integer"),
        (["a.yaml", "--device", "gpu"], "--device: unknown device gpu: use cpu, cuda or cuda:N"),
        (["a.yaml", "--device", "meta"], "--device: unknown device meta"),
        (["a.yaml", "--device", f"cuda:{GPUS}"], f"cuda:{GPUS} is not available: PyTorch finds"),
        (["a.yaml", "--clips", "9"], "--clips: only valid with --loader"),
        (["--loader", "--batch", "9", "--train"], "--batch, --train: not valid with --loader"),
    ],
)
def test_invalid_arguments_are_errors(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmark.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        benchmark.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_auto_is_a_gpu_if_there_is_one():
    assert device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert device("cpu") == torch.device("cpu")


def test_overrides_apply_to_every_config(monkeypatch, capsys):
    small = ["DEIT.DEPTH", "3", "DEIT.EMBED_DIM", "12", "STVIT.LAYOUT"]
    config = "configs/imagenet/stvit_deit_t.yaml"
    options = ["--size", "1", "224", "224", "--rounds", "1", "--opts", *small, "base 1, stgm 2"]
    monkeypatch.setattr("sys.argv", ["benchmark.py", config, *options])
    built = []
    build = benchmark.create_model
    monkeypatch.setattr(
        benchmark, "create_model", lambda *a, **o: built.append(build(*a, **o)) or built[0]
    )
    assert benchmark.main() == 0
    assert f"{config} " in capsys.readouterr().out
    assert built[0].patch_embed.proj.out_channels == 12


def test_a_row_with_its_base_in_another_table_is_timed(monkeypatch, capsys):
    names = ("STViT-DeiT-S", "DeiT-S")  # of Tables 4 and 1
    rows = [row for row in paper_tables.paper_rows() if row.name in names]
    monkeypatch.setattr(paper_tables, "paper_rows", lambda: rows)
    arguments = ["--tables", "4", "--speed", "--rounds", "1", "--json"]
    monkeypatch.setattr("sys.argv", ["paper_tables.py", *arguments])
    assert paper_tables.main() == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["measured"]["speedup"] > 0
