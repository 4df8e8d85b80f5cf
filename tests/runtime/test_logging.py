import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stvit_video.runtime import logging as ours


@pytest.fixture(autouse=True)
def clean_root() -> Iterator[None]:
    root = logging.getLogger()
    before = list(root.handlers)
    yield
    for handler in [handler for handler in root.handlers if handler not in before]:
        root.removeHandler(handler)
        handler.close()


def be_rank(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "get_rank", lambda: rank)
    monkeypatch.setattr(ours, "is_main", lambda: rank == 0)


def test_rank_0_logs_to_the_terminal_and_to_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours.setup_logging(tmp_path / "out")
    ours.get_logger("stvit_video.engine.train").info("from us")
    ours.get_logger("run_net").info("from a program")
    logging.getLogger("fvcore").info("chatter of others")
    logging.getLogger("fvcore").warning("warning of others")
    written = (tmp_path / "out" / "stdout.log").read_text(encoding="utf-8")
    assert written == capsys.readouterr().out
    lines = written.splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == [
        "INFO from us",
        "INFO from a program",
        "WARNING warning of others",
    ]


def test_a_second_set_up_replaces_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", "a"):
        ours.setup_logging(tmp_path / name)
        ours.get_logger("x").info("once in %s", name)
    assert capsys.readouterr().out.count("once in a") == 2
    assert (tmp_path / "a" / "stdout.log").read_text(encoding="utf-8").count("once in a") == 2
    assert "once in a" not in (tmp_path / "b" / "stdout.log").read_text(encoding="utf-8")


def test_other_ranks_only_warn_and_say_who_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    be_rank(3, monkeypatch)
    ours.setup_logging(tmp_path / "out")
    ours.get_logger("x").info("hidden")
    ours.get_logger("x").warning("shown")
    ours.log_json_stats({"epoch": 1}, output_dir=tmp_path / "out")
    out = capsys.readouterr().out
    assert out.endswith("WARNING [rank 3] shown\n")
    assert "hidden" not in out
    assert not (tmp_path / "out").exists()


def test_json_stats_are_one_sorted_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours.setup_logging(tmp_path)
    stats = {
        "lr": 0.000123456789,
        "loss": np.float32(1.23456789),
        "epoch": "3/30",
        "_type": "train_iter",
        "iter": np.int64(1234567),
        "big": 1234567.0,
        "best": True,
        "eta": None,
    }
    ours.log_json_stats(stats, output_dir=tmp_path)
    ours.log_json_stats({"_type": "val_epoch"}, output_dir=tmp_path)
    lines = (tmp_path / "json_stats.log").read_text(encoding="utf-8").splitlines()
    assert lines[0] == (
        'json_stats: {"_type": "train_iter", "best": true, "big": 1234600.0, "epoch": "3/30", '
        '"eta": null, "iter": 1234567, "loss": 1.2346, "lr": 0.00012346}'
    )
    assert json.loads(lines[1].removeprefix("json_stats: ")) == {"_type": "val_epoch"}
    assert lines[0] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rank", "is_terminal", "is_shown"), [(0, True, True), (0, False, False), (1, True, False)]
)
def test_the_bar_is_shown_by_rank_0_on_a_terminal(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    rank: int,
    is_terminal: bool,
    is_shown: bool,
) -> None:
    be_rank(rank, monkeypatch)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    bar = ours.progress(iter("abc"), total=3, description="epoch 1")
    seen = []
    for item in bar:
        bar.set_postfix(loss=1.5)
        seen.append(item)
    assert seen == ["a", "b", "c"]
    shown = capsys.readouterr().err
    assert ("epoch 1" in shown and "loss=1.5" in shown) == is_shown
    assert bool(shown) == is_shown


def test_lines_go_above_the_bar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", sys.stderr)  # as both are one terminal
    ours.setup_logging(tmp_path)
    for _ in ours.progress(range(1), total=1, description="epoch 1"):
        ours.get_logger("x").info("a line")
    before, _, after = capsys.readouterr().err.partition("a line")
    # The bar is wiped before the line is written, and drawn again below it.
    assert before.rpartition("\r")[2].strip().endswith("INFO")
    assert "epoch 1" in after
