"""Texts and names in any encoding, on standard output, standard error and in files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from redline.cli.main import VERBS, app
from redline.types import Edit, Hypothesis
from tests.cli.commands import Run, recording

GERMAN = "Grüße"


@pytest.mark.parametrize("charset", ["ascii", "latin-1", "utf-8"])
def test_a_text_is_printed_in_any_encoding(run: Run, tmp_path: Path, charset: str) -> None:
    path = recording(tmp_path / "straße ☃.wav")
    can = charset != "ascii"
    result = run(path, respond=lambda clip: GERMAN, charset=charset)
    assert result.exit_code == 0, result.exception
    assert result.stdout_bytes.decode(charset) == (f"{GERMAN}\n" if can else "Gr\\xfc\\xdfe\n")
    assert ("PYTHONIOENCODING" in result.stderr) is not can
    transcript = json.loads(run(path, "--format", "json", respond=lambda clip: GERMAN, charset=charset).stdout_bytes)
    assert transcript["text"] == GERMAN, "json is valid in any encoding"
    result = run(path, "--output-dir", tmp_path / charset, respond=lambda clip: GERMAN, charset=charset)
    assert result.exit_code == 0 and (tmp_path / charset / "straße ☃.txt").read_text(encoding="utf-8") == f"{GERMAN}\n"
    edits = (Edit("replace", " Grusse", f" {GERMAN}", 0),)
    result = run(path, "--show-edits", respond=lambda clip: Hypothesis(GERMAN, "Grusse", edits), charset=charset)
    assert result.exit_code == 0 and b"[-Grusse-]{+Gr" in result.stdout_bytes
    assert run(tmp_path / "weiß ☃.wav", charset=charset).exit_code == 2, "errors are printed, too"


@pytest.mark.parametrize(
    "arguments",
    [
        ("transcribe", "{name}"),
        ("info", "--model", "{name}"),
        ("evaluate", "--data", "{name}"),
        ("prepare", "{name}", "--out", "x.jsonl"),
        ("check", "{name}"),
        ("train", "{name}", "--data", "x"),
        ("finetune", "--data", "{name}", "--out", "x"),
    ],
)
def test_every_verb_complains_in_one_line_that_a_terminal_does_not_obey(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [argument.format(name="no\x1b[31m\nsuch.jsonl") for argument in arguments])
    assert result.exit_code == 2 and result.stderr.startswith("redline: ")
    assert "\x1b" not in result.stderr and result.stderr.count("\n") == 1 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_prints_what_an_encoding_does_not_have(verb: str) -> None:
    result = CliRunner(charset="ascii").invoke(app, [verb, "--ümlaut☃"])
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit) and "mlaut" in result.stderr
