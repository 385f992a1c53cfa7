"""`redline shards`: a manifest of shards that can be checked and trained on; what cannot be read is told."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner, Result

from redline.cli.main import app
from redline.manifest import read_manifest

from .commands import recording


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_the_new_manifest_names_places_in_shards_and_keeps_all_else(tmp_path: Path) -> None:
    rows = [
        {"audio": recording(tmp_path / f"{n}.wav", 2.0).name, "text": f"number {n}", "id": f"u{n}"} for n in range(3)
    ]
    rows[1] |= {"start": 0.5, "end": 1.25, "speaker": "Ann"}
    rows.append({"audio": "gone.wav", "text": "gone", "duration": 1})
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    arguments = ("shards", tmp_path / "all.jsonl", "--out", tmp_path / "tars", "--manifest", tmp_path / "new.jsonl")
    result = run(*arguments)
    assert result.exit_code == 1 and "left out" in result.stderr and "gone.wav: no such file" in result.stderr
    assert "3 utterances" in result.stderr and "in 1 shards" in result.stderr
    written = read_manifest(tmp_path / "new.jsonl")
    assert [(row.id, row.text, row.duration) for row in written] == [
        ("u0", "number 0", 2.0),
        ("u1", "number 1", 0.75),
        ("u2", "number 2", 2.0),
    ]
    assert written[1].speaker == "Ann" and written[1].end is None
    checked = run("check", tmp_path / "new.jsonl")
    assert "cannot be heard" not in checked.output and "3" in checked.output
    again = run(*arguments)
    assert again.exit_code == 2 and "has 1 shards already" in again.stderr
