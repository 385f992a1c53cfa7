"""Transcripts on paper: times, subtitles, files, tracked changes."""

from __future__ import annotations

import json
import os
import re
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redline import formats
from redline.formats import CUE_LINES, LINE_CHARS, tracked_changes
from redline.types import Edit, Segment, Transcript, Word

WORDS = st.text(st.characters(categories=["L", "N", "P"], exclude_characters=">"), min_size=1, max_size=60)
TEXTS = st.lists(WORDS, min_size=1, max_size=60).map(" ".join)
TIMES = re.compile(r"(\d\d+):(\d\d):(\d\d)[.,](\d{3}) --> (\d\d+):(\d\d):(\d\d)[.,](\d{3})")


def transcript(*segments: tuple[float, float, str]) -> Transcript:
    made = tuple(Segment(id, start, end, text) for id, (start, end, text) in enumerate(segments))
    return Transcript(" ".join(segment.text for segment in made), made, "en", 10.0, "fake")


def times(text: str) -> list[tuple[int, int]]:
    """Start and end in milliseconds of every cue, read without the code that wrote them."""
    found = []
    for match in TIMES.finditer(text):
        h, m, s, ms, h2, m2, s2, ms2 = map(int, match.groups())
        found.append((((h * 60 + m) * 60 + s) * 1000 + ms, ((h2 * 60 + m2) * 60 + s2) * 1000 + ms2))
    return found


SHORT = transcript((0.0, 1.5, "And so,"), (3599.9996, 3661.007, "my fellow Americans"))


def test_srt_is_what_players_read() -> None:
    assert formats.render(SHORT, "srt") == (
        "1\n00:00:00,000 --> 00:00:01,500\nAnd so,\n\n2\n01:00:00,000 --> 01:01:01,007\nmy fellow Americans\n"
    )


def test_vtt_is_what_browsers_read() -> None:
    assert formats.render(SHORT, "vtt") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nAnd so,\n\n01:00:00.000 --> 01:01:01.007\nmy fellow Americans\n"
    )


def test_txt_has_a_segment_a_line_and_tsv_its_milliseconds() -> None:
    assert formats.render(SHORT, "txt") == "And so,\nmy fellow Americans\n"
    assert formats.render(SHORT, "tsv") == (
        "start\tend\ttext\n0\t1500\tAnd so,\n3600000\t3661007\tmy fellow Americans\n"
    )


def test_an_empty_transcript_is_a_valid_file_in_every_format() -> None:
    made = {name: formats.render(Transcript(""), name) for name in formats.FORMATS}
    assert made["txt"] == "" and made["srt"] == "" and made["vtt"] == "WEBVTT\n" and made["tsv"] == "start\tend\ttext\n"
    assert json.loads(made["json"])["segments"] == []


def test_json_has_every_key() -> None:
    values = json.loads(formats.render(SHORT, "json"))
    assert list(values) == ["text", "language", "duration", "model", "task", "segments", "turns", "warnings"]
    assert list(values["segments"][0]) == [
        *("id", "start", "end", "text", "draft", "confidence", "speaker", "edits", "words", "accepted")
    ]


@given(st.lists(st.tuples(st.integers(0, 10**8), st.integers(1, 10**5), TEXTS), max_size=4))
def test_times_survive_and_no_text_is_dropped(rows: list[tuple[int, int, str]]) -> None:
    made = transcript(*((start / 1000, (start + length) / 1000, text) for start, length, text in rows))
    for format in ("srt", "vtt"):
        text = formats.render(made, format)
        cues = [cue for segment in made.segments for cue in formats.cues(segment)]
        assert times(text) == [(cue.start, cue.end) for cue in cues]
    for segment in made.segments:
        cues = formats.cues(segment)
        assert "".join("".join(cue.lines) for cue in cues).replace(" ", "") == segment.text.replace(" ", "")
        assert cues[0].start == round(segment.start * 1000) and cues[-1].end == round(segment.end * 1000)
        assert all(before.end == after.start for before, after in pairwise(cues))
        assert all(cue.start <= cue.end and 1 <= len(cue.lines) <= CUE_LINES for cue in cues)
        assert all(len(line) <= LINE_CHARS for cue in cues for line in cue.lines)


def test_a_long_segment_becomes_cues_with_their_share_of_the_time() -> None:
    text = "and so my fellow americans ask not what your country can do for you ask what you can do for your country"
    cues = formats.cues(Segment(0, 10.0, 20.0, text))
    assert len(cues) == 2 and [len(cue.lines) for cue in cues] == [2, 2]
    assert cues[0].end == pytest.approx(15_000, abs=700)
    lengths = [len(line) for cue in cues for line in cue.lines]
    assert sum(lengths) == len(text) - 3
    assert max(lengths) - min(lengths) < 12, "lines are balanced, so that no cue is a lone word"


def test_markup_in_speech_stays_text() -> None:
    made = transcript((0, 1, "a <b> & --> c"))
    assert "a &lt;b&gt; &amp; --&gt; c" in formats.render(made, "vtt")
    assert formats.render(made, "srt").count("-->") == 1


FORMULAS = st.text(st.sampled_from("=+-@'a "), min_size=1, max_size=6).filter(str.strip)


@given(FORMULAS)
def test_no_cell_of_a_tsv_is_a_formula_and_taking_the_quote_off_gives_the_text(text: str) -> None:
    cell = formats.render(transcript((0, 1, text)), "tsv").splitlines()[1].split("\t")[2]
    assert cell[0] not in "=+-@"
    read = cell[1:] if re.match("'+[=+@-]", cell) else cell
    assert read == " ".join(text.split())


def test_json_lists_what_was_edited_and_every_token_only_when_asked() -> None:
    kept, changed = Edit("keep", " a", " a", 0), Edit("replace", " b", " c", 1)
    made = Transcript("a c", (Segment(0, 0.0, 1.0, "a c", "a b", (kept, changed)),))
    assert json.loads(formats.render(made, "json"))["segments"][0]["edits"] == [changed.to_dict()]
    every = json.loads(formats.render(made, "json", all_edits=True))["segments"][0]["edits"]
    assert every == [kept.to_dict(), changed.to_dict()] == made.to_dict(all_edits=True)["segments"][0]["edits"]


def test_a_ctm_has_the_confidence_of_each_word() -> None:
    words = (Word(0.0, 0.5, "so", 0.9371), Word(0.5, 1.0, "東"))
    made = Transcript("so 東", (Segment(0, 0.0, 1.0, "so 東", words=words),))
    assert formats.render(made, "ctm", "talk") == "talk 1 0.000 0.500 so 0.937\ntalk 1 0.500 0.500 東 NA\n"


def test_save_goes_by_the_suffix(tmp_path: Path) -> None:
    for name in formats.FORMATS:
        path = SHORT.save(tmp_path / f"talk.{name.upper()}")
        assert path.read_text(encoding="utf-8") == formats.render(SHORT, name)
    for wrong in ("talk.doc", "talk"):
        with pytest.raises(ValueError, match=r"allowed are \.txt, \.srt"):
            SHORT.save(tmp_path / wrong)
    with pytest.raises(ValueError, match="allowed are txt"):
        formats.render(SHORT, "doc")


def test_save_is_complete_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = SHORT.save(tmp_path / "talk.txt")

    def torn(handle: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", torn)
    with pytest.raises(OSError, match="disk full"):
        transcript((0, 1, "other")).save(path)
    assert path.read_text(encoding="utf-8").startswith("And so")
    assert [one.name for one in tmp_path.iterdir()] == ["talk.txt"]


# ----------------------------------------------------------------------------------------------------- tracked changes


def edits(*rows: tuple[str, str]) -> list[Edit]:
    made = []
    for at, (draft, text) in enumerate(rows):
        op = "keep" if draft == text else "insert" if not draft else "delete" if not text else "replace"
        made.append(Edit(op, draft, text, at))  # type: ignore[arg-type]
    return made


def test_pieces_of_a_word_are_shown_as_the_word() -> None:
    assert tracked_changes(edits((" my", " my"), (" fell", " fell"), ("o", "ow"))) == [
        ("keep", "my", "my"),
        ("replace", "fello", "fellow"),
    ]


def test_a_word_that_loses_its_start_joins_the_word_before() -> None:
    assert tracked_changes(edits((" to", " to"), (" day", "day"), (" is", " is"))) == [
        ("replace", "to day", "today"),
        ("keep", "is", "is"),
    ]


def test_deleted_and_inserted_words_stand_apart_from_kept_ones() -> None:
    rows = [(" a", " a"), (" um", ""), (" uh", ""), (" b", " b"), ("", " new"), (" c", " c")]
    assert tracked_changes(edits(*rows)) == [
        ("keep", "a", "a"),
        ("delete", "um uh", ""),
        ("keep", "b", "b"),
        ("insert", "", "new"),
        ("keep", "c", "c"),
    ]


def test_a_deleted_word_beside_an_inserted_one_was_replaced() -> None:
    assert tracked_changes(edits((" cat", ""), ("", " dog"))) == [("replace", "cat", "dog")]
    assert tracked_changes(edits(("", " dog"), (" cat", ""))) == [("replace", "cat", "dog")]


def test_a_word_deleted_and_inserted_again_is_kept() -> None:
    assert tracked_changes(edits(("", " a"), (" a", ""))) == [("keep", "a", "a")]


def test_punctuation_changes_the_word_it_follows() -> None:
    assert tracked_changes(edits((" so", " so"), ("", ","), (" my", " my"))) == [
        ("replace", "so", "so,"),
        ("keep", "my", "my"),
    ]


TOKENS = st.sampled_from(["", "a", "b", " a", " b", " ab", ",", " "])


@given(st.lists(st.tuples(TOKENS, TOKENS), max_size=20))
def test_changes_hold_all_words_of_both_sides(rows: list[tuple[str, str]]) -> None:
    changes = tracked_changes(edits(*rows))
    for side in (0, 1):
        words = "".join(row[side] for row in rows).split()
        assert " ".join(change[1 + side] for change in changes).split() == words
    for change in changes:
        assert (change.draft == change.text) == (change.op == "keep")
        assert (not change.draft) == (change.op == "insert") and (not change.text) == (change.op == "delete")


def said(start: float, text: str, every: float = 1.0) -> tuple[Word, ...]:
    """Words of half a second, one every so often."""
    return tuple(Word(start + every * at, start + every * at + 0.5, word) for at, word in enumerate(text.split()))


LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"


def test_subtitles_follow_the_words_without_being_asked() -> None:
    silent = Segment(0, 10.0, 60.0, LONG, timing=lambda: said(3.0, LONG))
    asked = replace(silent, words=said(13.0, LONG), timing=None)
    assert formats.cues(silent) == formats.cues(asked)
    cues = formats.cues(silent)
    words = LONG.split()
    for cue in cues:
        first, last = " ".join(cue.lines).split()[0], " ".join(cue.lines).split()[-1]
        assert (cue.start, cue.end) == (13_000 + 1000 * words.index(first), 13_500 + 1000 * words.index(last))
    # Whoever did not ask for words gets none.
    assert silent.to_dict() == Segment(0, 10.0, 60.0, LONG).to_dict() and silent == Segment(0, 10.0, 60.0, LONG)
    assert not Transcript(LONG, (silent,)).words


def test_cues_of_digits_have_the_times_of_the_words_they_stand_for() -> None:
    spoken = "it costs twenty three euros and five or six cents for each of the one hundred and eleven cats in here"
    written = "it costs 23 euros and 5 or 6 cents for each of the 111 cats in here"
    cues = formats.cues(Segment(0, 0.0, 60.0, written, words=said(0.0, spoken), timing=None))
    words = spoken.split()
    assert len(cues) == 1 and cues[0].start == 0 and cues[0].end == 1000 * (len(words) - 1) + 500
    twice = formats.cues(Segment(0, 0.0, 60.0, f"{written} {written}", words=said(0.0, f"{spoken} {spoken}")))
    found = [" ".join(cue.lines) for cue in twice]
    assert len(twice) == 2
    last = found[0].split()[-1]
    assert twice[0].end % 1000 == 500 and words[(twice[0].end // 1000) % len(words)] in (last, "eleven", "three", "six")


@pytest.mark.parametrize(
    "text",
    [
        "a well-known state-of-the-art mother-in-law-to-be " * 4,
        "Donaudampfschifffahrtselektrizitaetenhauptbetriebswerkbauunterbeamtengesellschaft und mehr " * 2,
        "x" * 200,
    ],
)
def test_cues_follow_words_that_are_broken_over_lines(text: str) -> None:
    words = said(0.0, text, every=2.0)
    cues = formats.cues(Segment(0, 0.0, 500.0, text.strip(), words=words))
    chars = [(word.start + 0.5 * at / len(word.text), word) for word in words for at in range(len(word.text))]
    done = 0
    for cue in cues:
        assert cue.start == pytest.approx(1000 * chars[done][0], abs=2)
        done += len("".join("".join(cue.lines).split()))
    assert done == len(chars) and all(one.end <= two.start for one, two in pairwise(cues))


def test_subtitles_that_cannot_be_aligned_say_so(tmp_path: Path) -> None:
    made = Transcript(
        "a b", (Segment(0, 0.0, 1.0, "a", timing=lambda: ()), Segment(1, 1.0, 2.0, "b", words=said(1.0, "b")))
    )
    with pytest.warns(UserWarning, match="1 of 2 segments.*does not fit what the encoder hears"):
        made.save(tmp_path / "a.srt")
    (notice,) = formats.subtitle_notices(replace(made, task="translate"), ["txt", "vtt"])
    assert notice.code == "unaligned" and "translation" in notice.message and (notice.start, notice.end) == (0.0, 1.0)
    assert not formats.subtitle_notices(made, ["txt", "json"]) and formats.subtitle_notices(made, "txt, srt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.save(tmp_path / "a.json")
        replace(made, segments=made.segments[1:]).save(tmp_path / "a.vtt")
