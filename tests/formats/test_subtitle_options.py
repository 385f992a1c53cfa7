"""Styles of subtitles: limits hold wherever there is room, nothing is dropped, other programs read the files."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redline import formats
from redline.formats import SUBTITLE_PRESETS, SubtitleOptions
from redline.formats.cues import SubtitleCue, transcript_cues
from redline.types import Segment, Transcript, Word
from tests.formats.transcripts import WORDS

INLINE = re.compile(r"<(\d+):(\d\d):(\d\d)\.(\d{3})>")

STYLES = st.sampled_from([*SUBTITLE_PRESETS.values()]) | st.builds(
    SubtitleOptions,
    max_line_width=st.integers(1, 60),
    max_line_count=st.integers(1, 4),
    min_duration_s=st.floats(0, 2),
    max_duration_s=st.floats(2, 10),
    max_cps=st.floats(1, 50),
    gap_s=st.floats(0, 0.5),
    max_pause_s=st.floats(0, 3),
)


@st.composite
def spoken(draw: st.DrawFn) -> Transcript:
    """What people say one after another: aligned words with pauses, and segments that could not be aligned."""
    at, segments = draw(st.integers(0, 5000)), []
    for id in range(draw(st.integers(0, 3))):
        words, begin = [], at
        for text in draw(st.lists(WORDS, min_size=1, max_size=40)):
            end = at + draw(st.integers(0, 900))
            words.append(Word(at / 1000, end / 1000, text))
            at = end + draw(st.sampled_from([0, 20, 20, 300, 900, 4000]))
        text = " ".join(word.text for word in words)
        aligned = tuple(words) if draw(st.booleans()) else ()
        segments.append(
            Segment(id, begin / 1000, at / 1000, text, words=aligned, speaker=draw(st.none() | st.just("1")))
        )
    return Transcript(" ".join(each.text for each in segments), tuple(segments), duration=at / 1000 + 2)


def shown_chars(cue: SubtitleCue) -> int:
    return len("\n".join(cue.lines))


@given(spoken(), STYLES, st.booleans())
def test_limits_hold_wherever_the_speech_allows_it(talk: Transcript, style: SubtitleOptions, labelled: bool) -> None:
    cues = transcript_cues(talk, style, labelled)
    texts = ["".join(cue.lines).removeprefix(cue.label).replace(" ", "") for cue in cues]
    assert "".join(texts) == "".join(each.text for each in talk.segments).replace(" ", ""), "all text, in order"
    assert all(before.start < before.end <= after.start for before, after in pairwise(cues))
    gap, longest = round(1000 * style.gap_s), 1000 * style.max_duration_s
    for cue, after in zip(cues, [*cues[1:], None], strict=False):
        assert len(cue.lines) <= style.max_line_count and cue.end - cue.start <= longest + 1
        for row, line in zip(cue.rows, cue.lines, strict=True):
            assert len(line) <= style.max_line_width or len(row) == 1, "only a word may be wider"
        ends = cue.end + 1.1  # a millisecond later
        quick = 1000 * shown_chars(cue) / style.max_cps > ends - cue.start
        if quick or cue.end + 1.1 - cue.start < 1000 * style.min_duration_s:
            if after is None:
                assert ends - cue.start >= longest or ends >= 1000 * talk.duration
            else:
                no_room = ends >= min(after.start, max(after.start - gap, (cue.start + after.start) // 2))
                assert no_room or ends - cue.start >= longest, "it would have had more time"
        if after is not None and after.start - cue.start > 2 * gap:
            assert after.start - cue.end >= gap
        for row in cue.rows:
            for before, word in pairwise(row):
                assert word.start - before.end <= 1000 * style.max_pause_s + 1


@given(spoken(), STYLES)
def test_highlighted_words_rise_within_their_cue_and_are_read_back(talk: Transcript, style: SubtitleOptions) -> None:
    text = formats.render_transcript(talk, "vtt", subtitles=replace(style, highlight_words=True))
    plain = formats.render_transcript(talk, "vtt", subtitles=style)
    assert INLINE.sub("", text) == plain
    assert formats.parse_transcript(text, "vtt") == formats.parse_transcript(plain, "vtt")
    for cue, block in zip(transcript_cues(talk, style), text.split("\n\n")[1:], strict=True):
        stamps = [((int(h) * 60 + int(m)) * 60 + int(s)) * 1000 + int(ms) for h, m, s, ms in INLINE.findall(block)]
        times = [cue.start, *stamps, cue.end]
        assert all(before < after for before, after in pairwise(times))
        starts = {word.start for row in cue.rows for word in row}
        assert set(stamps) == {start for start in starts if cue.start < start < cue.end}


def said(text: str, start: float = 0.0, chars_per_s: float = 15.0, pauses: dict[str, float] | None = None) -> Segment:
    """A segment whose words take their share of the time, with pauses in seconds after some of them."""
    words, at = [], start
    for word in text.split():
        words.append(Word(round(at, 3), round(at + len(word) / chars_per_s, 3), word))
        at += (len(word) + 1) / chars_per_s + (pauses or {}).get(word, 0.0)
    return Segment(0, start, words[-1].end, text, words=tuple(words))


def lines_of(segment: Segment, style: SubtitleOptions | str | None = None, language: str = "en") -> list[list[str]]:
    talk = Transcript(segment.text, (segment,), language)
    read = formats.render_transcript(talk, "srt", subtitles=style)
    return [block.split("\n")[2:] for block in read.strip().split("\n\n")]


def test_cues_and_lines_end_where_clauses_do() -> None:
    text = "We had walked for hours. When the rain began, the old man and his dog went into the house on the hill."
    assert lines_of(said(text)) == [
        ["We had walked for hours.", "When the rain began,"],
        ["the old man and his dog went", "into the house on the hill."],
    ]
    short = said("My fellow citizens of the world: ask not what America will do for you, but what we can do together.")
    assert lines_of(short) == [
        ["My fellow citizens of the world:", "ask not what America will do for you,"],
        ["but what we can do together."],
    ]


def test_lines_break_before_conjunctions_in_the_language_that_is_spoken() -> None:
    german = lines_of(said("Der Zug kam gestern viel zu spät und wir haben lange gewartet"), language="de")
    assert german == [["Der Zug kam gestern viel zu spät", "und wir haben lange gewartet"]]
    chinese = lines_of(said("这是一个很长的句子,没有任何空格,但是有标点。" * 3, chars_per_s=6))
    assert all(len(line) <= 42 for cue in chinese for line in cue) and all(cue[-1][-1] in ",。" for cue in chinese)


def test_a_pause_ends_a_cue_and_quick_speech_borrows_the_silence_after_it() -> None:
    segment = said("Wait here. I will come back", chars_per_s=30, pauses={"here.": 3.0})
    cues = transcript_cues(Transcript(segment.text, (segment,)))
    assert [cue.lines for cue in cues] == [("Wait here.",), ("I will come back",)]
    assert [cue.end - cue.start for cue in cues] == [834, 834]  # spoken in 0.3 and 0.5 s
    # Two short sentences are one cue where the first alone could not be read, and two where there is time.
    quick = said("Oh no. Not you again.", chars_per_s=30)
    assert lines_of(quick) == [["Oh no. Not you again."]]
    # Where two places are as good for a cue to end, it ends in the pause.
    for last in ("four", "six", "seven"):
        said_with_pause = said("one two three four five six seven eight nine ten", pauses={last: 0.6})
        first, _ = lines_of(said_with_pause, SubtitleOptions(max_line_width=36, max_line_count=1))
        assert first[0].split()[-1] == last


def test_words_that_are_said_slowly_are_cut_at_the_longest_duration() -> None:
    slow = said("one two three four five six seven eight", chars_per_s=2)
    cues = transcript_cues(Transcript(slow.text, (slow,)))
    assert len(cues) >= 3 and all(cue.end - cue.start <= 7000 for cue in cues)
    long = Segment(0, 0.0, 60.0, "Oooh")
    assert [(cue.start, cue.end) for cue in transcript_cues(Transcript("Oooh", (long,)))] == [(0, 7000)]


def test_the_label_of_a_speaker_is_within_the_width_of_srt() -> None:
    segment = replace(said("the quick brown fox jumps over the lazy dog " * 4), speaker="1")
    for block in formats.render_transcript(Transcript(segment.text, (segment,)), "srt").strip().split("\n\n"):
        _, _, *lines = block.split("\n")
        assert lines[0].startswith("Speaker 1: ") and max(map(len, lines)) <= 42


# ------------------------------------------------------------------------------------------------------- wrong options


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_line_width": 0}, "max_line_width is 0; allowed are whole numbers from 1"),
        ({"max_line_count": 2.0}, "max_line_count is 2.0; allowed are whole numbers"),
        ({"max_line_count": True}, "max_line_count is True"),
        ({"max_cps": 0.0}, "max_cps is 0.0; allowed are numbers above 0"),
        ({"max_duration_s": float("inf")}, "max_duration_s is inf"),
        ({"gap_s": -1.0}, "gap_s is -1.0; allowed are numbers from 0"),
        ({"max_pause_s": float("nan")}, "max_pause_s is nan"),
        ({"min_duration_s": 8.0}, "min_duration_s is 8 and max_duration_s 7; .* change one"),
    ],
)
def test_impossible_styles_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SubtitleOptions(**values)


def test_presets_are_known_by_name() -> None:
    segment = said("the quick brown fox jumps over the lazy dog " * 3)
    widths = {name: max(len(line) for cue in lines_of(segment, name) for line in cue) for name in SUBTITLE_PRESETS}
    assert 37 < widths["netflix"] <= 42 and 32 < widths["bbc"] <= 37 and widths["youtube"] <= 32
    talk = Transcript("a", (Segment(0, 0, 1, "a"),))
    with pytest.raises(ValueError, match="no subtitle preset 'hulu'; allowed are netflix, bbc, youtube"):
        formats.render_transcript(talk, "srt", subtitles="hulu")
    with pytest.raises(ValueError, match=r"txt has no style of subtitles; .* write one of srt, vtt"):
        formats.render_transcript(talk, "txt", subtitles="bbc")


# ------------------------------------------------------------------------------------------------------ other programs

MARKED = Transcript("", (replace(said("if a < b && c > d --> then <i>this</i> &amp; that; 1 &lt; 2"), speaker="a>b"),))


def test_markup_survives_highlighting_and_reading_back() -> None:
    style = SubtitleOptions(highlight_words=True)
    for subtitles in (style, None):
        (segment,) = formats.parse_transcript(
            formats.render_transcript(MARKED, "vtt", subtitles=subtitles), "vtt"
        ).segments
        assert segment.text == MARKED.segments[0].text and segment.speaker == "a>b"
    (segment,) = formats.parse_transcript(formats.render_transcript(MARKED, "srt"), "srt").segments
    assert segment.text == "a>b: " + MARKED.segments[0].text.replace("-->", "→")


def test_tags_of_other_programs_are_taken_out_of_vtt() -> None:
    text = "WEBVTT\n\n00:01.000 --> 00:02.000\n<v.loud Ana>so <00:01.500><c.yellow>it</c> <i>is</i>\n"
    (segment,) = formats.parse_transcript(text, "vtt").segments
    assert (segment.speaker, segment.text) == ("Ana", "so it is")


@given(spoken(), STYLES)
def test_webvtt_py_reads_what_is_written(talk: Transcript, style: SubtitleOptions) -> None:
    webvtt = pytest.importorskip("webvtt", reason="webvtt-py is not installed")
    for each in (style, replace(style, highlight_words=True)):
        read = webvtt.from_string(formats.render_transcript(talk, "vtt", subtitles=each))
        found = [(caption.start, caption.end) for caption in read]
        wanted = [(stamp(cue.start), stamp(cue.end)) for cue in transcript_cues(talk, style)]
        assert found == wanted


@given(spoken(), STYLES)
def test_srt_reads_what_is_written(talk: Transcript, style: SubtitleOptions) -> None:
    srt = pytest.importorskip("srt", reason="the package srt has no wheel, so that the tests do not ask for it")
    found = [
        (each.start.total_seconds(), each.end.total_seconds(), each.content)
        for each in srt.parse(formats.render_transcript(talk, "srt", subtitles=style))
    ]
    cues = transcript_cues(talk, style, labelled=True)
    assert found == [(cue.start / 1000, cue.end / 1000, "\n".join(cue.lines)) for cue in cues]


def stamp(ms: int) -> str:
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}.{ms % 1000:03}"
