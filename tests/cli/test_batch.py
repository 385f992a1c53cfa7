"""`redline batch` as it is typed: what it writes, goes on with, refuses, and its exit statuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from redline import load as load_module
from redline.cli import batch as batch_module
from redline.cli.main import app
from redline.testing import FakeRecognizer
from redline.transcriber import Transcriber

Batch = Callable[..., Result]


@pytest.fixture
def batch(monkeypatch: pytest.MonkeyPatch, random_checkpoint: Path) -> Batch:
    def invoke(*arguments: object) -> Result:
        model = Transcriber(FakeRecognizer(lambda clip: "heard"))
        monkeypatch.setattr(load_module, "load_model", lambda *args, **kwargs: model)
        given = ["batch", *map(str, arguments), "--model", str(random_checkpoint), "--no-vad"]
        return CliRunner().invoke(app, given)

    return invoke


def test_an_archive_is_gone_on_with_and_says_what_it_came_to(batch: Batch, recordings: Path, tmp_path: Path) -> None:
    first = batch(recordings, "--out", tmp_path / "out", "--shard", "1/1", "--price", "2")
    assert first.exit_code == 1, first.output
    for told in "bad.wav: not audio", "2 of 3 have a transcript, 1 failed", "x real time", "cost", "report.json":
        assert told in first.stderr.replace("  ", " ") or told in first.stderr
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert (report["recordings"], report["done"], report["failed"], report["recognized"]) == (3, 2, 1, 1)
    (written,) = (tmp_path / "out/json").rglob("*.json")  # both recordings have the same content
    assert json.loads(written.read_text())["text"] == "heard"
    again = batch(recordings, "--out", tmp_path / "out", "--shard", "1/1")
    assert again.exit_code == 1 and "0 recordings" in again.stderr


def test_where_nobody_watches_a_line_tells_how_far_it_is(
    batch: Batch, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "_LINE_S", 0.0)
    told = batch(recordings, "--out", tmp_path / "out", "--shard", "1/1", "--price", "2").stderr
    assert "redline: loading the model\n" in told
    assert "redline: transcribing 3/3, 0.01 h, " in told and " in all\n" in told
    quiet = batch(recordings, "--out", tmp_path / "other", "--shard", "1/1", "--quiet").stderr
    assert "loading" not in quiet and "transcribing" not in quiet


def test_other_options_are_refused_and_named(batch: Batch, recordings: Path, tmp_path: Path) -> None:
    batch(recordings, "--out", tmp_path / "out", "--shard", "1/1")
    other = batch(recordings, "--out", tmp_path / "out", "--shard", "1/1", "--word-timestamps")
    assert other.exit_code == 2 and "words: false, now true" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shard", "0/2"], "allowed are 1/2 to 2/2"),
        (["--shard", "half"], "allowed is i/n"),
        (["--shard", "1/1", "--ray", "auto"], "--shard works without Ray"),
        (["--shard", "1/1", "--workers", "2"], "--shard works in one process"),
        (["--shard", "1/1", "--write", "docx"], "allowed are json, parquet"),
        (["--shard", "1/1", "--task", "translate"], "translate needs --to"),
    ],
)
def test_what_cannot_be_together_is_refused(
    batch: Batch, recordings: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = batch(recordings, "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 2 and message in " ".join(result.stderr.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_a_source_that_is_not_there_produces_nothing(batch: Batch, tmp_path: Path) -> None:
    result = batch(tmp_path / "none", "--out", tmp_path / "out", "--shard", "1/1")
    assert result.exit_code == 2 and "no such file or folder" in result.stderr
