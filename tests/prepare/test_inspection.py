"""`redline check`: all that is wrong with a manifest is told in one go, with its lines, and nothing that is right."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from redline.cli.main import app
from redline.prepare import inspection
from redline.prepare.inspection import Inspection, inspect, recording_length, vocabulary_of
from tests.corpus import make_corpus


def tone(path: Path, seconds: float, hertz: float = 300.0) -> str:
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * 16_000)) / 16_000), 16_000)
    return path.name


def looked(folder: Path, *rows: dict[str, Any] | str, model: str = "") -> Inspection:
    """What is said about rows of recordings in a folder; the last one is a dev row without any fault."""
    good = {"audio": tone(folder / "dev.wav", 2.0, 50), "text": "All is well.", "duration": 2.0, "split": "dev"}
    path = folder / "m.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in (*rows, good)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return inspect(path, recording_length, vocabulary_of(model) if model else None)


def findings_of(report: Inspection) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(finding.level, finding.kind, finding.lines) for finding in report.findings]


def test_nothing_is_wrong_with_a_good_manifest(tmp_path: Path) -> None:
    data = make_corpus(tmp_path)
    report = inspect(data, recording_length, vocabulary_of("tiny"))
    assert {finding.kind for finding in report.findings} <= {"speakers", "texts"}
    assert report.ok and report.splits["train"]["utterances"] == 20 and report.splits["dev"]["speakers"] == 3
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    seconds = sum(row["duration"] for row in rows if row["split"] == "train")
    assert report.splits["train"]["hours"] == pytest.approx(seconds / 3600, abs=1e-4)
    assert looked(tmp_path).findings == ()


def test_every_fault_of_a_row_is_told_with_its_lines(tmp_path: Path) -> None:
    ok = {"audio": tone(tmp_path / "a.wav", 2.0), "text": "It is.", "duration": 2.0, "id": "a"}
    report = looked(
        tmp_path,
        ok,
        "{not json",
        {**ok, "audio": "gone.wav", "id": "b"},
        {**ok, "audio": "gone.wav", "id": "c", "start": 1, "end": 2},
        {**ok, "audio": tone(tmp_path / "d.wav", 2.0, 310), "id": "d", "duration": 20},
        {**ok, "audio": tone(tmp_path / "e.wav", 2.0, 320), "id": "e", "start": 1, "end": 9},
        {**ok, "audio": tone(tmp_path / "f.wav", 2.0, 330), "id": "f", "start": 5, "end": 9},
        {**ok, "audio": tone(tmp_path / "g.wav", 2.0, 340), "id": "g", "text": "word " * 40},
        {**ok, "audio": tone(tmp_path / "h.wav", 2.0, 350), "id": "h", "text": "..."},
        {**ok, "audio": tone(tmp_path / "i.wav", 2.0, 360), "id": "a"},
        {**ok, "audio": tone(tmp_path / "j.wav", 31.0, 370), "id": "j", "duration": 31},
        {"audio": tone(tmp_path / "k.wav", 2.0, 380), "text": "No length.", "id": "k"},
    )
    assert not report.ok
    assert findings_of(report) == [
        ("error", "line", (2,)),
        ("error", "missing", (3, 4)),
        ("error", "end", (6,)),
        ("error", "start", (7,)),
        ("error", "text", (8,)),
        ("error", "duration", (12,)),
        ("warning", "duration", (5,)),
        ("warning", "empty", (9,)),
        ("warning", "long", (11,)),
        ("warning", "text", (11,)),
        ("warning", "ids", (10,)),
    ]
    (missing,) = [finding.message for finding in report.findings if finding.kind == "missing"]
    assert missing.count("gone.wav") == 1, "a missing file is told once"


def test_sound_that_comes_twice_is_found_under_another_name(tmp_path: Path) -> None:
    ok = {"audio": tone(tmp_path / "a.wav", 2.0), "text": "It is.", "duration": 2.0, "id": "a"}
    copy = {**ok, "audio": tone(tmp_path / "copy.wav", 2.0), "id": "b"}
    assert findings_of(looked(tmp_path, ok, copy)) == [("warning", "sound", (2,))]
    leak = looked(tmp_path, ok, {**copy, "split": "test", "text": "Else."})
    assert findings_of(leak)[0] == ("error", "leak", (1, 2)) and not leak.ok
    part = {**ok, "start": 0.0, "end": 1.5, "id": "c"}
    assert findings_of(looked(tmp_path, part, {**part, "start": 0.6, "end": 2.0, "id": "d"})) == [
        ("warning", "sound", (2,))
    ]


def test_speakers_and_texts_on_both_sides_are_told(tmp_path: Path) -> None:
    ok = {"audio": tone(tmp_path / "a.wav", 2.0), "text": "It is.", "duration": 2.0, "id": "a", "speaker": "Ann"}
    other = {**ok, "audio": tone(tmp_path / "b.wav", 2.0, 400), "id": "b", "split": "test", "text": "it is."}
    assert findings_of(looked(tmp_path, ok, other)) == [("warning", "speakers", (1, 2)), ("warning", "texts", (1, 2))]


def test_what_a_model_does_not_know_is_told(tmp_path: Path) -> None:
    ok = {"audio": tone(tmp_path / "a.wav", 2.0), "text": "It is.", "duration": 2.0, "id": "a", "language": "en"}
    other = {**ok, "audio": tone(tmp_path / "b.wav", 2.0, 400), "id": "b", "text": "это так", "language": "ru"}
    assert findings_of(looked(tmp_path, ok, other)) == []
    report = looked(tmp_path, ok, other, model="tiny")
    assert {finding.kind for finding in report.findings} == {"language", "characters"}
    (characters,) = [finding.message for finding in report.findings if finding.kind == "characters"]
    assert "'э' (U+044D)" in characters


def test_the_command_prints_a_table_or_json(tmp_path: Path) -> None:
    ok = {"audio": tone(tmp_path / "a.wav", 2.0), "text": "It is.", "duration": 2.0, "id": "a", "speaker": "Ann"}
    looked(tmp_path, {**ok, "language": "en"})
    good = CliRunner().invoke(app, ["check", str(tmp_path / "m.jsonl")])
    assert good.exit_code == 0 and "nothing is wrong" in good.stdout and "not said" in good.stdout
    looked(tmp_path, {**ok, "audio": "gone.wav"})
    bad = CliRunner().invoke(app, ["check", str(tmp_path / "m.jsonl"), "--json"])
    report = json.loads(bad.stdout)
    assert bad.exit_code == 1 and not report["ok"] and report["splits"]["dev"]["utterances"] == 1
    assert report["findings"][0]["kind"] == "missing" and report["findings"][0]["lines"] == [1]
    for path in (tmp_path / "none.jsonl", tmp_path / "a.wav"):
        wrong = CliRunner().invoke(app, ["check", str(path)])
        assert wrong.exit_code == 2 and "cannot be read as a manifest" in wrong.output


def test_every_kind_of_finding_says_what_to_do() -> None:
    source = Path(inspection.__file__).read_text()
    kinds = set(re.findall(r'"(?:error|warning)", "(\w+)"', source)) - {"warning"}
    exempt = {"split", "language", "characters"}  # in their own words: which splits, languages and characters there are
    assert len(kinds) > 10 and kinds - exempt <= set(inspection.REMEDIES)
