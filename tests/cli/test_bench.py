"""`redline bench`: a table for people, a last line for programs, and a rival in the same run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from redline.cli.main import app
from redline.engine import bench


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "MOST_STREAMS", 1)
    monkeypatch.setattr(bench, "MATMUL", 64)


def test_the_last_line_is_json_and_a_rival_runs_by_turns(random_checkpoint: Path, tmp_path: Path) -> None:
    heard = tmp_path / "runs"
    rival = f"{sys.executable} -c \"open(r'{heard}', 'a').write('x'); assert r'{{audio}}'.endswith('.flac')\""
    options = ["--model", str(random_checkpoint), "--clips", "1", "--repeats", "1", "--against", rival]
    result = CliRunner().invoke(app, ["bench", *options])
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout.splitlines()[-1])
    assert heard.read_text() == "x"
    assert values["against"]["ratio"] > 0 and values["rtfx"] > 0 and values["cold_start_s"] > 0
    assert "x real time" in result.stdout and "against command" in result.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "none-of-ours"], "none-of-ours"),
        (["--audio", "missing.wav"], "missing.wav"),
        (["--engine", "quick"], "packed"),
        (["--random-weights", "--against", "whisper {audio}"], "transformers alone"),
    ],
)
def test_what_cannot_be_measured_is_said(options: list[str], said: str, random_checkpoint: Path) -> None:
    chosen = options if "--model" in options else ["--model", str(random_checkpoint), *options]
    result = CliRunner().invoke(app, ["bench", *chosen])
    assert result.exit_code == 2 and said in result.output
