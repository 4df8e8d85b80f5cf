import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stvit_video.runtime import logging as runtime_logging


@pytest.fixture(autouse=True)
def restore_root_logger() -> Iterator[None]:
    root = logging.getLogger()
    before = list(root.handlers)
    yield
    for handler in [handler for handler in root.handlers if handler not in before]:
        root.removeHandler(handler)
        handler.close()


def set_rank(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_logging, "get_rank", lambda: rank)
    monkeypatch.setattr(runtime_logging, "is_main", lambda: rank == 0)


def test_rank_0_logs_to_stdout_and_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runtime_logging.setup_logging(tmp_path / "out")
    runtime_logging.get_logger("stvit_video.engine.train").info("from the package")
    runtime_logging.get_logger("run_net").info("from a program")
    logging.getLogger("fvcore").info("info of other package")
    logging.getLogger("fvcore").warning("warning of other package")
    written = (tmp_path / "out" / "stdout.log").read_text(encoding="utf-8")
    assert written == capsys.readouterr().out
    lines = written.splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == [
        "INFO from the package",
        "INFO from a program",
        "WARNING warning of other package",
    ]


def test_second_setup_replaces_handlers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b", "a"):
        runtime_logging.setup_logging(tmp_path / name)
        runtime_logging.get_logger("x").info("once in %s", name)
    assert capsys.readouterr().out.count("once in a") == 2
    assert (tmp_path / "a" / "stdout.log").read_text(encoding="utf-8").count("once in a") == 2
    assert "once in a" not in (tmp_path / "b" / "stdout.log").read_text(encoding="utf-8")


def test_other_ranks_log_warnings_with_their_rank(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_rank(3, monkeypatch)
    runtime_logging.setup_logging(tmp_path / "out")
    runtime_logging.get_logger("x").info("hidden")
    runtime_logging.get_logger("x").warning("shown")
    runtime_logging.log_json_stats({"epoch": 1}, output_dir=tmp_path / "out")
    out = capsys.readouterr().out
    assert out.endswith("WARNING [rank 3] shown\n")
    assert "hidden" not in out
    assert not (tmp_path / "out").exists()


def test_json_stats_are_one_sorted_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runtime_logging.setup_logging(tmp_path)
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
    runtime_logging.log_json_stats(stats, output_dir=tmp_path)
    runtime_logging.log_json_stats({"_type": "val_epoch"}, output_dir=tmp_path)
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
def test_progress_bar_is_shown_by_rank_0_on_a_terminal(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    rank: int,
    is_terminal: bool,
    is_shown: bool,
) -> None:
    set_rank(rank, monkeypatch)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    bar = runtime_logging.progress(iter("abc"), total=3, description="epoch 1")
    seen = []
    for item in bar:
        bar.set_postfix(loss=1.5)
        seen.append(item)
    assert seen == ["a", "b", "c"]
    shown = capsys.readouterr().err
    assert ("epoch 1" in shown and "loss=1.5" in shown) == is_shown
    assert bool(shown) == is_shown


def test_lines_are_printed_above_the_progress_bar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", sys.stderr)  # Both are the same terminal.
    runtime_logging.setup_logging(tmp_path)
    for _ in runtime_logging.progress(range(1), total=1, description="epoch 1"):
        runtime_logging.get_logger("x").info("a line")
    before, _, after = capsys.readouterr().err.partition("a line")
    # The bar is cleared before the line is printed, and drawn again below it.
    assert before.rpartition("\r")[2].strip().endswith("INFO")
    assert "epoch 1" in after
