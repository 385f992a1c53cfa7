"""Names of speakers: in every format that tells who speaks, and nobody named who is not there."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from redline import formats
from redline.formats.speakers import parse_speaker_names
from redline.types import Segment, Transcript, Turn, Word

TALK = Transcript(
    "hi you all",
    (
        Segment(0, 0.0, 1.0, "hi", speaker="1", words=(Word(0.0, 1.0, "hi", speaker="1"),)),
        Segment(1, 1.0, 2.0, "you all", speaker="2", words=(Word(1.0, 1.5, "you", speaker="2"), Word(1.5, 2.0, "all"))),
    ),
    turns=(Turn("1", 0.0, 1.0, "hi"), Turn("2", 1.0, 2.0, "you all")),
)
NAMES = {"1": "Ana María", "2": "Ben"}


def test_every_format_that_tells_a_speaker_has_the_names() -> None:
    written = {name: formats.render_transcript(TALK, name, speaker_names=NAMES) for name in formats.TRANSCRIPT_FORMATS}
    plain = {name: formats.render_transcript(TALK, name) for name in formats.TRANSCRIPT_FORMATS}
    for name in ("txt", "srt", "vtt", "json", "rttm", "md", "textgrid"):
        assert "Ben" in written[name] and "Ben" not in plain[name]
    assert written["txt"] == "Ana María: hi\nBen: you all\n" and plain["txt"].startswith("Speaker 1: hi\n")
    assert "<v Ana María>hi" in written["vtt"] and "Ana_María" in written["rttm"]
    values = json.loads(written["json"])
    assert [turn["speaker"] for turn in values["turns"]] == list(NAMES.values())
    assert [word["speaker"] for each in values["segments"] for word in each["words"]] == ["Ana María", "Ben", None]
    assert "] Ana María:**" in written["md"] and "] Speaker 1:**" in plain["md"]
    assert b"] Ben:" in written["docx"] and b"] Speaker 2:" in plain["docx"]
    read = formats.parse_transcript(written["vtt"], "vtt")
    assert [segment.speaker for segment in read.segments] == list(NAMES.values())


def test_two_labels_of_one_person_are_joined() -> None:
    named = formats.rename_speakers(TALK, {"1": "Ana", "2": " Ana "})
    assert named.turns == (Turn("Ana", 0.0, 2.0, "hi you all"),) and not named.warnings


def test_who_is_not_renamed_keeps_every_turn(tmp_path: Path) -> None:
    halves = Transcript("a b", turns=(Turn("1", 0.0, 1.0, "a"), Turn("1", 2.0, 3.0, "b")), duration=3.0)
    assert formats.rename_speakers(halves, {}) is halves
    assert Transcript.load(halves.save(tmp_path / "halves.json")) == halves


def test_a_label_that_nobody_has_gives_a_warning_with_those_who_are_there(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="nobody is called 3, Bob: speakers are 1, 2"):
        path = TALK.save(tmp_path / "a.txt", speaker_names={**NAMES, "3": "Cy", "Bob": "Di"})
    assert path.read_text(encoding="utf-8") == "Ana María: hi\nBen: you all\n"
    (notice,) = formats.rename_speakers(Transcript("hi"), {"1": "Ana"}).warnings
    assert notice.code == "unknown-speaker" and "ask for speakers" in notice.message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TALK.save(tmp_path / "b.txt", speaker_names=NAMES)
    with pytest.raises(ValueError, match="name of speaker 1 is empty"):
        TALK.save(tmp_path / "c.txt", speaker_names={"1": " "})


def test_a_list_of_names_is_parsed() -> None:
    assert parse_speaker_names("1=Ana, 2 = Ben = B,") == {"1": "Ana", "2": "Ben = B"}
    for text, message in (
        ("1", "is no label and name"),
        ("1=", "no label"),
        ("1=a,1=b", "comes twice"),
        ("", "nobody"),
    ):
        with pytest.raises(ValueError, match=rf"{message}.*allowed is .*1=Ana"):
            parse_speaker_names(text)
