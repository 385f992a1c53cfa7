"""Transcripts on paper: every format is written, read back where it can be, and saved whole."""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redline import formats
from redline.errors import DataError
from redline.formats.cues import transcript_cues
from redline.types import Segment, Transcript, Turn, Word
from tests.formats.transcripts import SHORT, TEXTS, transcript, transcripts

TIMES = re.compile(r"(\d\d+):(\d\d):(\d\d)[.,](\d{3}) --> (\d\d+):(\d\d):(\d\d)[.,](\d{3})")


def test_srt_is_what_players_read() -> None:
    assert formats.render_transcript(SHORT, "srt") == (
        "1\n00:00:00,000 --> 00:00:01,500\nAnd so,\n\n2\n01:00:00,000 --> 01:00:03,007\nmy fellow Americans\n"
    )


def test_vtt_is_what_browsers_read() -> None:
    assert formats.render_transcript(SHORT, "vtt") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nAnd so,\n\n01:00:00.000 --> 01:00:03.007\nmy fellow Americans\n"
    )


def test_txt_has_a_segment_a_line_and_tsv_its_milliseconds() -> None:
    assert formats.render_transcript(SHORT, "txt") == "And so,\nmy fellow Americans\n"
    assert formats.render_transcript(SHORT, "tsv") == (
        "start\tend\ttext\n0\t1500\tAnd so,\n3600000\t3603007\tmy fellow Americans\n"
    )


def test_a_ctm_has_the_confidence_of_each_word() -> None:
    words = (Word(0.0, 0.5, "so", 0.9371), Word(0.5, 1.0, "東"))
    talk = Transcript("so 東", (Segment(0, 0.0, 1.0, "so 東", words=words),))
    assert formats.render_transcript(talk, "ctm", "talk") == "talk 1 0.000 0.500 so 0.937\ntalk 1 0.500 0.500 東 NA\n"


def test_an_rttm_has_a_turn_a_line() -> None:
    talk = Transcript("a b", turns=(Turn("1", 0.0, 1.25, "a"), Turn("2 b", 1.25, 3.0, "b")))
    assert formats.render_transcript(talk, "rttm", "my talk") == (
        "SPEAKER my_talk 1 0.000 1.250 <NA> <NA> 1 <NA> <NA>\nSPEAKER my_talk 1 1.250 1.750 <NA> <NA> 2_b <NA> <NA>\n"
    )


def test_an_empty_transcript_is_a_valid_file_in_every_format() -> None:
    rendered = {name: formats.render_transcript(Transcript(""), name) for name in formats.TRANSCRIPT_FORMATS}
    assert (
        rendered["txt"] == ""
        and rendered["srt"] == ""
        and rendered["vtt"] == "WEBVTT\n"
        and rendered["tsv"] == "start\tend\ttext\n"
    )
    for name, format in formats.TRANSCRIPT_FORMATS.items():
        read = None if format.parse is None else format.parse(rendered[name])
        assert read is None or replace(read, duration=0.0) == Transcript(""), "Praat has no TextGrid of no length"


def test_markup_in_speech_stays_text() -> None:
    talk = transcript((0, 1, "a <b> & --> c"))
    assert "a &lt;b&gt; &amp; --&gt; c" in formats.render_transcript(talk, "vtt")
    assert formats.render_transcript(talk, "srt").count("-->") == 1


@given(st.text(st.sampled_from("=+-@'a "), min_size=1, max_size=6).filter(str.strip))
def test_no_cell_of_a_tsv_is_a_formula_and_taking_the_quote_off_gives_the_text(text: str) -> None:
    rendered = formats.render_transcript(transcript((0, 1, text)), "tsv")
    assert rendered.splitlines()[1].split("\t")[2][0] not in "=+-@"
    assert formats.parse_transcript(rendered, "tsv").segments[0].text == " ".join(text.split())


# ---------------------------------------------------------------------------------------------- parsing inverts writing


@given(st.lists(st.tuples(st.integers(0, 10**8), st.integers(1, 10**5), TEXTS), max_size=4))
def test_times_of_subtitles_survive(rows: list[tuple[int, int, str]]) -> None:
    talk = transcript(*((start / 1000, (start + length) / 1000, text) for start, length, text in rows))
    cues = transcript_cues(talk)
    for format in ("srt", "vtt"):
        text = formats.render_transcript(talk, format)
        times = []
        for match in TIMES.finditer(text):  # read without the code that wrote them
            h, m, s, ms, h2, m2, s2, ms2 = map(int, match.groups())
            times.append((((h * 60 + m) * 60 + s) * 1000 + ms, ((h2 * 60 + m2) * 60 + s2) * 1000 + ms2))
        assert times == [(cue.start, cue.end) for cue in cues]


@given(transcripts())
def test_cues_are_read_as_they_were_written(talk: Transcript) -> None:
    for format, labelled in (("srt", True), ("vtt", False)):
        wanted = [
            (cue.start / 1000, cue.end / 1000, " ".join(cue.lines).removeprefix(cue.label), cue.speaker)
            for cue in transcript_cues(talk, labelled=labelled)
        ]
        read = formats.parse_transcript(formats.render_transcript(talk, format), format)
        assert [(each.start, each.end, each.text, each.speaker) for each in read.segments] == wanted
        assert read.text == " ".join(segment.text for segment in read.segments)


@given(transcripts())
def test_tables_are_read_as_they_were_written(talk: Transcript) -> None:
    for format in ("tsv", "ctm", "rttm"):
        rendered = formats.render_transcript(talk, format, "talk")
        read = formats.parse_transcript(rendered, format)
        assert formats.render_transcript(read, format, "talk") == rendered
    rows = formats.parse_transcript(formats.render_transcript(talk, "tsv"), "tsv").segments
    assert [(row.start, row.end, row.text) for row in rows] == [(row.start, row.end, row.text) for row in talk.segments]
    words = tuple(replace(word, speaker=None) for word in talk.words)
    assert formats.parse_transcript(formats.render_transcript(talk, "ctm"), "ctm").words == words
    turns = tuple(replace(turn, text="") for turn in talk.turns)
    assert formats.parse_transcript(formats.render_transcript(talk, "rttm"), "rttm").turns == turns


def test_captions_of_others_are_read() -> None:
    cue = "intro\r\n01:02.500 --> 01:04.000 align:start\r\nhi\r\nall\r\n"
    captions = formats.parse_transcript(f"WEBVTT - a title\n\nNOTE not said\n\n{cue}", "vtt")
    assert [(each.start, each.end, each.text) for each in captions.segments] == [(62.5, 64.0, "hi all")]


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("srt", "hello"),
        ("srt", "1\nsoon --> later\nhello\n"),
        ("vtt", "1\n00:00:00.000 --> 00:00:01.000\nhello\n"),
        ("tsv", "0\t1\thello\n"),
        ("tsv", "start\tend\ttext\nzero\tone\thello\n"),
        ("ctm", "talk 1 0.0\n"),
        ("rttm", "SPEAKER talk 1 now 1.0 <NA> <NA> 1 <NA> <NA>\n"),
        ("audacity", "0.0\thello\n"),
        ("audacity", "0.0\tnan\thello\n"),
        ("textgrid", "hello"),
        ("textgrid", '"ooTextFile" "Pitch 1" 0 1 9'),
        ("textgrid", '"ooTextFile" "TextGrid" 0 1e999 <exists> 0'),
        ("textgrid", '"ooTextFile" "TextGrid" 0 1 <exists> 0'),
        ("textgrid", '"ooTextFile" "TextGrid" 0 1 <exists> 1 "TextTier" "words" 0 1 1 0.5 "a"'),
        ("textgrid", '"ooTextFile" "TextGrid" 0 1 <exists> 1 "IntervalTier" "words" 0 1 999999999 0 1 "a"'),
        ("json", "{"),
        ("json", "[" * 100_000),
    ],
)
def test_what_is_no_transcript_is_refused(tmp_path: Path, format: str, text: str) -> None:
    with pytest.raises(DataError, match=f"not a whole {format} file"):
        formats.parse_transcript(text, format)
    path = tmp_path / f"talk.{format}"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"talk\.{format}: not a whole"):
        Transcript.load(path)
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(DataError, match=r"talk\.\w+: 'utf-8' codec can't decode"):
        Transcript.load(path)


# --------------------------------------------------------------------------------------------------------- saved files


def test_save_goes_by_the_suffix_and_load_reads_it(tmp_path: Path) -> None:
    segments = tuple(replace(segment, timing=lambda: (Word(0.0, 1.0, "a"),)) for segment in SHORT.segments)
    talk = replace(SHORT, segments=segments)
    for name, format in formats.TRANSCRIPT_FORMATS.items():
        path = talk.save(tmp_path / f"talk.{name.upper()}")
        rendered = formats.render_transcript(talk, name, "talk")
        assert path.read_bytes() == (rendered if format.binary else rendered.encode())
        if format.parse:
            assert Transcript.load(path) == format.parse(path.read_text(encoding="utf-8"))
    assert Transcript.load(tmp_path / "talk.JSON") == SHORT
    for wrong in ("talk.doc", "talk"):
        with pytest.raises(ValueError, match=r"allowed are \.txt, \.srt"):
            SHORT.save(tmp_path / wrong)
    with pytest.raises(ValueError, match="allowed are txt"):
        formats.render_transcript(SHORT, "doc")
    with pytest.raises(DataError, match="cannot be read back; allowed are srt"):
        Transcript.load(tmp_path / "talk.TXT")


def test_save_is_complete_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = SHORT.save(tmp_path / "talk.txt")

    def torn(handle: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", torn)
    with pytest.raises(OSError, match="disk full"):
        transcript((0, 1, "other")).save(path)
    assert path.read_text(encoding="utf-8").startswith("And so")
    assert [each.name for each in tmp_path.iterdir()] == ["talk.txt"]


def test_subtitles_that_cannot_be_aligned_say_so(tmp_path: Path) -> None:
    words = (Word(1.0, 1.5, "b"),)
    talk = Transcript("a b", (Segment(0, 0.0, 1.0, "a", timing=lambda: ()), Segment(1, 1.0, 2.0, "b", words=words)))
    with pytest.warns(UserWarning, match="1 of 2 segments.*does not fit what the encoder hears"):
        talk.save(tmp_path / "a.srt")
    (notice,) = formats.subtitle_notices(replace(talk, task="translate"), ["txt", "vtt"])
    assert notice.code == "unaligned" and "translation" in notice.message and (notice.start, notice.end) == (0.0, 1.0)
    assert not formats.subtitle_notices(talk, ["txt", "json"]) and formats.subtitle_notices(talk, "txt, srt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        talk.save(tmp_path / "a.json")
        replace(talk, segments=talk.segments[1:]).save(tmp_path / "a.vtt")
