"""Subtitles: cues that hold all of the text and follow the words."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redline.formats.subtitles import CUE_LINES, LINE_CHARS, segment_cues
from redline.types import Segment, Transcript, Word
from tests.formats.transcripts import TEXTS, transcript


@given(st.lists(st.tuples(st.integers(0, 10**8), st.integers(1, 10**5), TEXTS), max_size=4))
def test_cues_follow_each_other_and_no_text_is_dropped(rows: list[tuple[int, int, str]]) -> None:
    talk = transcript(*((start / 1000, (start + length) / 1000, text) for start, length, text in rows))
    for segment in talk.segments:
        cues = segment_cues(segment)
        assert "".join("".join(cue.lines) for cue in cues).replace(" ", "") == segment.text.replace(" ", "")
        assert cues[0].start == round(segment.start * 1000) and cues[-1].end == round(segment.end * 1000)
        assert all(before.end == after.start for before, after in pairwise(cues))
        assert all(cue.start <= cue.end and 1 <= len(cue.lines) <= CUE_LINES for cue in cues)
        assert all(len(line) <= LINE_CHARS for cue in cues for line in cue.lines)


def test_a_long_segment_becomes_cues_with_their_share_of_the_time() -> None:
    text = "and so my fellow americans ask not what your country can do for you ask what you can do for your country"
    cues = segment_cues(Segment(0, 10.0, 20.0, text))
    assert len(cues) == 2 and [len(cue.lines) for cue in cues] == [2, 2]
    assert cues[0].end == pytest.approx(15_000, abs=700)
    lengths = [len(line) for cue in cues for line in cue.lines]
    assert sum(lengths) == len(text) - 3
    assert max(lengths) - min(lengths) < 12, "lines are balanced, so that no cue is a lone word"


def timed_words(start: float, text: str, every: float = 1.0) -> tuple[Word, ...]:
    """Words of half a second, one every so often."""
    return tuple(Word(start + every * at, start + every * at + 0.5, word) for at, word in enumerate(text.split()))


LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"


def test_subtitles_follow_the_words_without_being_asked() -> None:
    silent = Segment(0, 10.0, 60.0, LONG, timing=lambda: timed_words(3.0, LONG))
    asked = replace(silent, words=timed_words(13.0, LONG), timing=None)
    assert segment_cues(silent) == segment_cues(asked)
    cues = segment_cues(silent)
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
    cues = segment_cues(Segment(0, 0.0, 60.0, written, words=timed_words(0.0, spoken), timing=None))
    words = spoken.split()
    assert len(cues) == 1 and cues[0].start == 0 and cues[0].end == 1000 * (len(words) - 1) + 500
    twice = segment_cues(Segment(0, 0.0, 60.0, f"{written} {written}", words=timed_words(0.0, f"{spoken} {spoken}")))
    texts = [" ".join(cue.lines) for cue in twice]
    assert len(twice) == 2
    last = texts[0].split()[-1]
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
    words = timed_words(0.0, text, every=2.0)
    cues = segment_cues(Segment(0, 0.0, 500.0, text.strip(), words=words))
    chars = [(word.start + 0.5 * at / len(word.text), word) for word in words for at in range(len(word.text))]
    done = 0
    for cue in cues:
        assert cue.start == pytest.approx(1000 * chars[done][0], abs=2)
        done += len("".join("".join(cue.lines).split()))
    assert done == len(chars) and all(before.end <= after.start for before, after in pairwise(cues))
