"""The page that `scripts/benchmarks.py` writes: what is measured anew takes its place, all else stays."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import soundfile

from redline import audio
from redline.manifest import Utterance
from redline.testing import tone
from tests.scripts.loading import script

benchmarks = script("benchmarks")

PAGE = """# Benchmarks

An old introduction.

## another machine

Commit a.

| x | y |
|---|--:|

### its own part

Text.

## this one

`scripts/benchmarks.py`

### models

Commit b.

old models

### hours

Commit c.

old hours
"""


def test_a_part_takes_its_place_and_everything_else_stays() -> None:
    page = benchmarks.page_with(PAGE, "this one", {"memory": "new memory", "models": "new models"}, "d")
    found = benchmarks.sections(page)
    assert list(found) == ["this one", "another machine"]
    assert found["another machine"] == benchmarks.sections(PAGE)["another machine"]
    own = found["this one"]
    assert own.index("new models") < own.index("new memory") < own.index("old hours"), "in the order of the parts"
    assert "old models" not in own and "Commit d.\n\nnew memory" in own and "Commit c.\n\nold hours" in own


def test_writing_a_page_twice_changes_nothing() -> None:
    page = benchmarks.page_with(PAGE, "a new machine", {"hours": "text"}, "d")
    assert benchmarks.page_with(page, "a new machine", {"hours": "text"}, "d") == page
    assert list(benchmarks.sections(page)) == ["a new machine", "another machine", "this one"]


def test_the_clips_are_as_many_and_as_long_as_told(jfk: Path, tmp_path: Path) -> None:
    rows = [Utterance(id=f"{number}", audio=jfk, text="", duration=11.0) for number in range(60)]
    files = benchmarks.write_clips(tmp_path / "clips", rows)
    assert len(files) == benchmarks.CLIPS
    for file in (files[0], files[-1]):
        assert audio.load(file).duration == pytest.approx(benchmarks.CLIP_S, abs=0.1)


def test_too_little_speech_is_an_error(jfk: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="dev and test are 10 s; 600 are needed"):
        benchmarks.write_clips(tmp_path / "clips", [Utterance(id="a", audio=jfk, text="", duration=11.0)])


def test_parts_that_need_speech_say_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks.py", "--parts", "clips", "models"])
    with pytest.raises(SystemExit):
        benchmarks.main()
    assert "--parts clips: give --speech MANIFEST" in capsys.readouterr().err


def test_speech_that_is_too_short_is_told_and_not_waited_for(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1.0).samples, 16_000)
    row = {"id": "a", "audio": "a.wav", "text": "a", "language": "en", "split": "dev", "duration": 1.0}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row))
    given = benchmarks.Bench(tmp_path, tmp_path / "manifest.jsonl", "HEAD", False)
    with pytest.raises(SystemExit, match="shorter than 10 s"):
        benchmarks.write_speech(given, 1)
