"""Files of annotation programs: label tracks of Audacity, and TextGrids, whose intervals tile the recording."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redline import formats
from redline.types import Segment, Transcript, Turn, Word, joined_turns
from tests.formats.transcripts import SHORT, WORDS, transcripts

SPOKEN = Transcript(
    'he said "hi" no',
    (
        Segment(0, 0.5, 2.0, 'he said "hi"', speaker="1", words=(Word(0.5, 0.75, "he"), Word(1.0, 1.5, "said"))),
        Segment(1, 2.0, 3.25, "no", speaker="2"),
    ),
    duration=4.0,
    turns=(Turn("1", 0.5, 2.0, 'he said "hi"'), Turn("2", 2.0, 3.25, "no")),
)


@st.composite
def recordings(draw: st.DrawFn) -> Transcript:
    """What a recognizer writes: segments one after the other, each with speaker and words in it, or without."""
    segments: list[Segment] = []
    at = 0
    has_words, has_speakers = draw(st.booleans()), draw(st.booleans())
    for id in range(draw(st.integers(0, 4))):
        start = at = at + draw(st.integers(0, 2000))
        words = []
        for text in draw(st.lists(WORDS, min_size=1, max_size=4)):
            first = at + draw(st.integers(0, 300))
            at = first + draw(st.integers(1, 900))
            words.append(Word(first / 1000, at / 1000, text))
        spoken = " ".join(word.text for word in words)
        speaker = draw(st.none() | st.sampled_from(["1", "2"])) if has_speakers else None
        own = tuple(words) if has_words else ()
        segments.append(Segment(id, start / 1000, at / 1000, spoken, speaker=speaker, words=own))
    turns = joined_turns(Turn(each.speaker or "", each.start, each.end, each.text) for each in segments)
    duration = (at + draw(st.integers(1, 500))) / 1000
    text = " ".join(segment.text for segment in segments)
    return Transcript(text, tuple(segments), duration=duration, turns=tuple(turn for turn in turns if turn.speaker))


# ------------------------------------------------------------------------------------------------------------ audacity


def test_a_label_track_has_words_where_there_are_and_segments_where_there_are_none() -> None:
    assert formats.render_transcript(SPOKEN, "audacity") == (
        "0.500000\t0.750000\the\n1.000000\t1.500000\tsaid\n2.000000\t3.250000\tSpeaker 2: no\n"
    )


def test_a_label_track_of_audacity_is_read() -> None:
    track = "0.500000\t1.250000\thi\n\\\t120.000000\t800.000000\n2.000000\t2.000000\t\n"
    read = formats.parse_transcript(track, "audacity")
    assert [(each.start, each.end, each.text) for each in read.segments] == [(0.5, 1.25, "hi"), (2.0, 2.0, "")]


@given(recordings())
def test_labels_rise_hold_all_words_and_are_read_back(talk: Transcript) -> None:
    rendered = formats.render_transcript(talk, "audacity")
    assert isinstance(rendered, str)
    rows = [line.split("\t") for line in rendered.splitlines()]
    times = [(float(start), float(end)) for start, end, _ in rows]
    assert times == sorted(times) and all(start <= end for start, end in times)
    assert all(len(time.split(".")[1]) == 6 for row in rows for time in row[:2])
    read = formats.parse_transcript(rendered, "audacity")
    assert read.text == talk.text
    assert formats.render_transcript(read, "audacity") == rendered
    if not talk.words:
        kept = [(each.start, each.end, each.text, each.speaker) for each in talk.segments]
        assert [(each.start, each.end, each.text, each.speaker) for each in read.segments] == kept


@given(st.text(st.characters()), st.none() | WORDS)
def test_a_label_of_any_text_is_one_line_of_three_columns(text: str, speaker: str | None) -> None:
    talk = Transcript(text, (Segment(0, 0.0, 1.0, text, speaker=speaker),))
    rendered = formats.render_transcript(talk, "audacity")
    assert isinstance(rendered, str)
    (line,) = rendered.splitlines()
    assert line.count("\t") == 2 and rendered.encode("utf-8")


# ------------------------------------------------------------------------------------------------------------ textgrid


def test_a_textgrid_has_tiers_that_tile_the_recording() -> None:
    rendered = formats.render_transcript(SPOKEN, "textgrid")
    assert isinstance(rendered, str)
    assert rendered.startswith(
        'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = 4.000\ntiers? <exists>\nsize = 3\n'
        'item []:\n    item [1]:\n        class = "IntervalTier"\n        name = "segments"\n        xmin = 0\n'
        "        xmax = 4.000\n        intervals: size = 4\n        intervals [1]:\n            xmin = 0.000\n"
        '            xmax = 0.500\n            text = ""\n        intervals [2]:\n            xmin = 0.500\n'
        '            xmax = 2.000\n            text = "he said ""hi"""\n'
    )
    assert formats.parse_transcript(rendered, "textgrid") == SPOKEN


@given(recordings())
def test_a_textgrid_is_read_as_it_was_written(talk: Transcript) -> None:
    assert formats.parse_transcript(formats.render_transcript(talk, "textgrid"), "textgrid") == talk


@given(transcripts() | recordings(), st.text(st.characters()))
def test_any_textgrid_tiles_and_holds_all_text(talk: Transcript, text: str) -> None:
    """Also of segments that overlap, have no length or are out of order, and of characters that are none."""
    last = Segment(len(talk.segments), 0.0, 0.0, text)
    talk = Transcript(talk.text, (*talk.segments, last), duration=talk.duration, turns=talk.turns)
    rendered = formats.render_transcript(talk, "textgrid")
    assert isinstance(rendered, str) and rendered.encode("utf-8") and "\x00" not in rendered
    tiers: dict[str, list[tuple[float, float, str]]] = {}
    for block in rendered.split('        name = "')[1:]:
        lines = iter(block.split("\n        intervals [")[1:])
        rows = (dict(row.strip().split(" = ", 1) for row in each.split("\n")[1:4]) for each in lines)
        name = block.split('"')[0]
        tiers[name] = [(float(row["xmin"]), float(row["xmax"]), row["text"][1:-1]) for row in rows]
    for tier in tiers.values():
        assert tier[0][0] == 0.0 and tier[-1][1] == tiers["segments"][-1][1]
        assert all(a[1] == b[0] for a, b in pairwise(tier)) and all(start < end for start, end, _ in tier)
    said = " ".join(text for _, _, text in tiers["segments"]).replace('""', '"').split()
    whole = " ".join(segment.text for segment in talk.segments).split()
    assert len(said) == len(whole) and all(a == b or "\ufffd" in a for a, b in zip(said, whole, strict=True))
    assert [text.replace('""', '"') for _, _, text in tiers.get("words", ()) if text] == [
        word.text for word in talk.words
    ]


@given(recordings(), st.text('"\\ a\n', max_size=9))
def test_another_library_reads_a_textgrid(
    tmp_path_factory: pytest.TempPathFactory, talk: Transcript, text: str
) -> None:
    textgrid = pytest.importorskip("praatio.textgrid", reason="praatio, of redline[test], is not installed")
    start, end = round(talk.duration + 1, 3), round(talk.duration + 2, 3)
    talk = Transcript(talk.text, (*talk.segments, Segment(9, start, end, f"{text}a")), turns=talk.turns)
    path = talk.save(tmp_path_factory.mktemp("grids") / "talk.TextGrid")
    grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=False, reportingMode="error")
    wanted = [(each.start, each.end, " ".join(each.text.split())) for each in talk.segments]
    assert [(row.start, row.end, row.label) for row in grid.getTier("segments").entries] == wanted
    assert grid.maxTimestamp == end
    assert ("words" in grid.tierNames) == bool(talk.words) and ("speakers" in grid.tierNames) == bool(talk.turns)
    for name, rows in (("words", [word.text for word in talk.words]), ("speakers", [t.speaker for t in talk.turns])):
        assert not rows or [row.label for row in grid.getTier(name).entries] == rows


def test_a_textgrid_of_praats_short_form_is_read_and_words_alone_are_a_segment() -> None:
    short = (
        'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n2\n<exists>\n1\n"IntervalTier"\n"words"\n0\n2\n3\n'
    )
    read = formats.parse_transcript(f'{short}0\n0.5\n""\n0.5\n1\n"a 1 ""b"""\n1\n2\n"c"\n', "textgrid")
    assert read.words == (Word(0.5, 1.0, 'a 1 "b"'), Word(1.0, 2.0, "c")) and read.duration == 2.0
    (segment,) = read.segments
    assert (segment.start, segment.end, segment.text) == (0.5, 2.0, 'a 1 "b" c')


def test_speakers_alone_are_turns() -> None:
    talk = Transcript("", turns=(Turn("1", 0.0, 1.0, ""),), duration=1.0)
    assert formats.parse_transcript(formats.render_transcript(talk, "textgrid"), "textgrid") == talk


def test_the_suffix_is_written_as_praat_writes_it(tmp_path: Path) -> None:
    assert Transcript.load(SHORT.save(tmp_path / "talk.TextGrid")).text == SHORT.text
