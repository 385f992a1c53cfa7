"""The log of a run, as a picture and for TensorBoard."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest

from redline.errors import RedlineError
from redline.train.loop.log import plot_log
from tests.train.loop.line import Line, run


class FakeWriter:
    """What `torch.utils.tensorboard.SummaryWriter` is asked to write."""

    rows: list[tuple[str, float, int]]
    folder: str

    def __init__(self, folder: str) -> None:
        FakeWriter.rows, FakeWriter.folder = [], folder

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.rows.append((name, value, step))

    def flush(self) -> None:
        pass

    close = flush


def test_a_run_leaves_its_log_and_a_picture_of_it(tmp_path: Path) -> None:
    run(Line([3.0, 2.0, 2.0]), tmp_path, steps=10)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "lr" in row] == [5, 10] == [row["step"] for row in rows if "wer" in row]
    assert (tmp_path / "log.png").stat().st_size > 1000


def test_a_log_whose_parts_changed_is_drawn(tmp_path: Path) -> None:
    rows = [
        {"step": 1, "lr": 0.1, "loss": 2.0},
        {"step": 2, "lr": 0.1, "loss": 1.0, "audio": 3.0},
        {"step": 2, "wer": 5},
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    drawn = plot_log(tmp_path / "log.jsonl")
    assert drawn is not None and drawn.stat().st_size > 1000


def test_tensorboard_gets_every_number_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.SimpleNamespace(SummaryWriter=FakeWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    run(Line([3.0, 2.0, 2.0]), tmp_path, steps=10, keep_best="wer", tensorboard=True)
    names = {(name, step) for name, _, step in FakeWriter.rows}
    assert {("dev/wer", 0), ("dev/wer", 10), ("train/loss", 5), ("train/lr", 10)} <= names
    assert FakeWriter.folder == str(tmp_path / "tensorboard")


def test_a_missing_tensorboard_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(RedlineError, match=r"pip install 'redline\[tensorboard\]'"):
        run(Line([3.0] * 9), tmp_path, tensorboard=True)
