"""Transcripts and captions in any usual encoding: what they say, once, and without their tags."""

from __future__ import annotations

from pathlib import Path

import pytest

from redline.errors import DataError
from redline.formats import parse_transcript
from redline.prepare.transcripts import CaptionCue, parse_captions, read_transcript, without_repeats


@pytest.mark.parametrize(
    "text",
    [
        "1\n00:00:01,500 --> 00:00:03,000\nHello <i>there</i>,\nfriend.\n\n"
        "2\n00:01:00,000 --> 00:01:02,250\nBye &amp; thanks\n",
        "WEBVTT\n\nNOTE a comment\n\n00:01.500 --> 00:03.000 align:start\nHello <b>there</b>,\nfriend.\n\n"
        "00:01:00.000 --> 00:01:02.250\nBye &amp; thanks\n",
    ],
)
def test_captions_are_read_without_their_tags(tmp_path: Path, text: str) -> None:
    cues, notes = parse_captions(text)
    assert (
        cues == [CaptionCue(1.5, 3.0, "Hello there,\nfriend."), CaptionCue(60.0, 62.25, "Bye & thanks")] and not notes
    )
    path = tmp_path / "a.srt"
    path.write_text("nothing here", encoding="utf-8")
    with pytest.raises(DataError, match="no captions"):
        read_transcript(path)


def test_captions_that_cannot_be_read_are_counted_and_told(tmp_path: Path) -> None:
    path = tmp_path / "a.srt"
    good = "1\n00:00:01,000 --> 00:00:02,000\nHello\n\n"
    path.write_text(good + "2\n00:00:x2,000 --> 00:00:03,000\nlost\n\n3\n00:00:09,000 --> 00:00:05,000\ngone\n")
    text = read_transcript(path)
    assert [line.text for line in text.lines] == ["Hello"]
    assert text.notes == ("2 captions cannot be read, first '00:00:x2,000 --> 00:00:03,000'",)
    path.write_text("2\n00:00:x2,000 --> 00:00:03,000\nlost\n")
    with pytest.raises(DataError, match=r"no captions.*1 captions cannot be read"):
        read_transcript(path)


@pytest.mark.parametrize(
    ("encoding", "mark", "noted"),
    [
        ("utf-8", b"", False),
        ("utf-8-sig", b"", False),
        ("utf-16", b"", False),
        ("utf-16-be", b"\xfe\xff", False),
        ("utf-16-le", b"", True),
        ("cp1252", b"", True),
    ],
)
def test_a_text_is_read_in_the_encoding_it_has(tmp_path: Path, encoding: str, mark: bytes, noted: bool) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(mark + "Grüße, café\nand more".encode(encoding))
    text = read_transcript(path)
    assert [line.text for line in text.lines] == ["Grüße, café", "and more"] and bool(text.notes) == noted


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\x89PNG\0\0\0\rIHDR" + bytes(range(256)))
    with pytest.raises(DataError, match="this is no text"):
        read_transcript(path)


def test_captions_that_roll_say_everything_once() -> None:
    rolling = [
        CaptionCue(0, 2, "and so my"),
        CaptionCue(2, 4, "and so my\nfellow americans"),
        CaptionCue(4, 4.01, "fellow americans"),
        CaptionCue(4.01, 6, "fellow americans\nask not"),
    ]
    cues, repeated = without_repeats(rolling)
    assert " ".join(cue.text for cue in cues) == "and so my fellow americans ask not" and repeated == 7
    twice = [cue for number in range(4) for cue in [CaptionCue(number, number + 1, f"line {number} of it")] * 2]
    assert [cue.text for cue in without_repeats(twice)[0]] == [f"line {number} of it" for number in range(4)]
    spoken = [
        CaptionCue(0, 1, "no no"),
        CaptionCue(1, 2, "no no no"),
        CaptionCue(2, 3, "what is it"),
        CaptionCue(3, 4, "it is he"),
        CaptionCue(4, 5, "ah"),
    ]
    assert without_repeats(spoken) == (spoken, 0), "what is said twice stays"


def test_a_time_of_thousands_of_digits_is_a_caption_that_cannot_be_read(tmp_path: Path) -> None:
    endless = "1" * 5000
    path = tmp_path / "a.srt"
    for times in (f"{endless}:00:01,0 --> {endless}:00:02,0", f"00:00:01,{endless} --> 00:00:02,0"):
        path.write_text(f"1\n00:00:01,000 --> 00:00:02,000\nHello\n\n2\n{times}\nlost\n\n")
        assert read_transcript(path).lines[0].text == "Hello"
        with pytest.raises(DataError, match="not a whole srt file"):
            parse_transcript(path.read_text(), "srt")
