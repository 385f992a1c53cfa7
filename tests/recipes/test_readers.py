"""Recorded voices out of other people's packages: prompts with texts, readers without."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from redline.cli.main import app
from redline.manifest import read_manifest
from redline.train.data.rows import training_rows
from redline.types import SAMPLE_RATE
from redline_recipes.tiny import prompts, readers


def say(path: Path, seconds: float, rate: int = 8000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(np.arange(round(seconds * rate)) / 5), rate)


@pytest.mark.parametrize(
    ("text", "language", "spoken"),
    [
        ("Press 1 to mute, 0 to stop...", "en", "Press one to mute, zero to stop"),
        ("Marque 2 para salir", "es", "Marque dos para salir"),
        ("Premere 1 per uscire", "it", None),
        ("Premere il tasto", "it", "Premere il tasto"),
        ("Thank you.", "en", None),
        ("in 24 hours we", "en", None),
        ("H.323 is a name", "en", None),
        ("leave it after the tone (tone)", "en", None),
    ],
)
def test_a_prompt_says_what_its_line_tells(text: str, language: str, spoken: str | None) -> None:
    assert prompts.spoken(text, language) == spoken


def test_prompts_become_a_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("hello", "digits/long", "again", "tone"):
        say(tmp_path / "sounds" / f"{name}.wav", 1.5)
    lines = ["; a comment", "hello: Welcome to all", "digits/long: press 1 now", "again: welcome to all"]
    lines += ["tone: [a tone]", "missing: this is not there"]
    (tmp_path / "texts.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    arguments = [
        "--sounds",
        str(tmp_path / "sounds"),
        "--language",
        "en",
        "--speaker",
        "s",
        "--out",
        str(tmp_path / "out"),
    ]
    monkeypatch.setattr(sys, "argv", ["prompts.py", "--texts", str(tmp_path / "texts.gz"), *arguments])
    assert prompts.main() == 0
    rows = training_rows(tmp_path / "out" / "manifest.jsonl", split="test")
    assert [(row.text, row.speaker, row.duration) for row in rows] == [
        ("Welcome to all", "s", 1.5),
        ("press one now", "s", 1.5),
    ]
    assert all(soundfile.info(row.audio).samplerate == SAMPLE_RATE for row in rows)
    monkeypatch.setattr(sys, "argv", ["prompts.py", "--texts", "nowhere", *arguments])
    assert prompts.main() == 2


def test_readers_are_told_apart_by_their_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(5):
        say(tmp_path / "klettres" / "en" / "syllab" / f"{number}.wav", 4.0)
        say(tmp_path / "klettres" / "en_GB" / "syllab" / f"{number}.wav", 4.0)
        say(tmp_path / "klettres" / "fr" / "syllab" / f"{number}.wav", 1.0)
    (tmp_path / "klettres" / "en" / "broken.wav").write_bytes(b"no sound")
    monkeypatch.setattr(sys, "argv", ["readers.py", "--root", str(tmp_path), "--out", str(tmp_path / "out")])
    assert readers.main() == 0
    rows = read_manifest(tmp_path / "out" / "manifest.jsonl")
    assert {row.speaker for row in rows} == {"klettres-en", "klettres-en_GB"}, "who says little is left out"
    assert all(row.duration > 6 and not row.text for row in rows)
    errors = capsys.readouterr().err
    assert "kajongg" in errors and "broken.wav" in errors and "2 readers" in errors
    monkeypatch.setattr(sys, "argv", ["readers.py", "--root", str(tmp_path / "out"), "--out", str(tmp_path / "no")])
    assert readers.main() == 2


def test_readers_are_refused_where_nothing_learns_from_them() -> None:
    wrong = CliRunner().invoke(app, ["train", "tiny", "--data", "none.jsonl", "--voices", "readers.jsonl"])
    assert wrong.exit_code == 2 and "recipes with a `kind`" in wrong.output
