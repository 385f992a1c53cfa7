"""Subtitles of `redline transcribe`: presets, what overrides them, and names of speakers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from redline.cli.main import app
from redline.cli.subtitle_style import style_of
from redline.formats import SUBTITLE_PRESETS, SubtitleOptions
from redline.types import Hypothesis, Turn, Word
from tests.cli.commands import Run

LONG = "one two three four five six seven eight nine ten"
UNSET = dict.fromkeys(
    ("subtitles", "max_line_width", "max_line_count", "min_duration_s", "max_duration_s", "max_cps", "gap_s")
) | {"highlight_words": False}


def test_a_preset_and_what_overrides_it(run: Run, jfk: Path) -> None:
    result = run(jfk, "--format", "srt", "--subtitles", "youtube", "--max-line-width", 14, respond=lambda clip: LONG)
    assert result.exit_code == 0
    lines = [line for line in result.stdout.splitlines() if line.islower()]
    assert " ".join(lines) == LONG and all(len(line) <= 14 for line in lines) and max(map(len, lines)) > 9


@pytest.mark.parametrize(
    ("given", "style"),
    [
        ({}, None),
        ({"subtitles": "bbc"}, SUBTITLE_PRESETS["bbc"]),
        ({"gap_s": 0.0}, SubtitleOptions(gap_s=0.0)),
        ({"max_cps": 17.0, "max_line_count": 3}, SubtitleOptions(max_cps=17.0, max_line_count=3)),
        ({"min_duration_s": 0.5, "max_duration_s": 6.0}, SubtitleOptions(min_duration_s=0.5, max_duration_s=6.0)),
        (
            {"subtitles": "youtube", "highlight_words": True, "max_line_width": 40},
            SubtitleOptions(max_line_width=40, highlight_words=True),
        ),
    ],
)
def test_every_option_counts(given: dict[str, Any], style: SubtitleOptions | None) -> None:
    assert style_of(UNSET | given, ["srt", "vtt"]) == style


def test_options_reach_the_files_that_they_are_for(run: Run, jfk: Path, tmp_path: Path) -> None:
    words = tuple(Word(at, at + 0.5, word) for at, word in enumerate(LONG.split()[:5]))
    heard = Hypothesis("one two three four five", words=words)
    options = ("--format", "txt,srt,vtt", "--output-dir", tmp_path, "--highlight-words", "--word-timestamps")
    assert run(jfk, *options, respond=lambda clip: heard).exit_code == 0
    assert "two <00:00:02.000>three" in (tmp_path / "jfk.vtt").read_text()
    assert "<" not in (tmp_path / "jfk.srt").read_text() and (tmp_path / "jfk.txt").read_text().startswith("one two")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--subtitles", "hulu", "--format", "srt"), "no subtitle preset 'hulu'; allowed are netflix, bbc, youtube"),
        (("--max-line-width", "0", "--format", "srt"), "max_line_width is 0; allowed are whole numbers from 1"),
        (("--max-cps", "nan", "--format", "srt"), "max_cps is nan; allowed are numbers above 0"),
        (("--min-duration", "9", "--format", "vtt"), "the least duration may not be above the longest"),
        (("--gap", "0"), "it is for srt and vtt, not txt; add --format srt, or leave it out"),
        (("--subtitles", "bbc", "--format", "json"), "it is for srt and vtt, not json"),
        (("--highlight-words", "--format", "srt"), "it is for vtt, not srt; add --format vtt"),
        (("--speaker-names", "1=Ana"), "there are no speakers; add --speakers"),
        (("--speaker-names", "Ana", "--speakers"), "'Ana' is no label and name; allowed is each label once"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    run: Run, jfk: Path, options: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    result = run(jfk, *options, respond=lambda clip: pytest.fail("worked"))
    assert result.exit_code == 2 and message in result.stderr and options[0] in result.stderr


def test_whispers_options_are_ours_with_dashes() -> None:
    for name in ("max_line_width", "max_line_count", "highlight_words"):
        result = CliRunner().invoke(app, ["transcribe", "a.wav", f"--{name}", "2"], env={"COLUMNS": "200"})
        assert result.exit_code == 2 and f"here it is --{name.replace('_', '-')}" in result.stderr


def test_speakers_have_names_and_a_label_that_nobody_has_is_told(run: Run, jfk: Path, tmp_path: Path) -> None:
    words = (Word(0.0, 0.5, "hi", speaker="1"), Word(1.0, 1.5, "you", speaker="2"))
    heard = Hypothesis("hi you", words=words, turns=(Turn("1", 0.0, 0.5, "hi"), Turn("2", 1.0, 1.5, "you")))
    options = ("--speakers", "--speaker-names", "1=Ana,2=Ben,3=Cy", "--format", "txt,json,rttm")
    result = run(jfk, *options, "--output-dir", tmp_path, respond=lambda clip: heard)
    assert result.exit_code == 0 and "nobody is called 3: speakers are 1, 2" in result.stderr
    assert (tmp_path / "jfk.txt").read_text() == "Ana: hi\nBen: you\n" and "Ben" in (tmp_path / "jfk.rttm").read_text()
    values = json.loads((tmp_path / "jfk.json").read_text())
    assert [warning["code"] for warning in values["warnings"]].count("unknown-speaker") == 1
