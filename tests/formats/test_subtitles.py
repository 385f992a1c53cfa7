"""Subtitles: cues that hold all of the text and follow the words."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redline.formats.cues import segment_cues, transcript_cues
from redline.types import Segment, Transcript, Word
from tests.formats.transcripts import TEXTS, transcript


@given(st.lists(st.tuples(st.integers(0, 10**8), st.integers(1, 10**5), TEXTS), max_size=4))
def test_cues_of_a_segment_follow_each_other_and_no_text_is_dropped(rows: list[tuple[int, int, str]]) -> None:
    talk = transcript(*((start / 1000, (start + length) / 1000, text) for start, length, text in rows))
    for segment in talk.segments:
        cues = segment_cues(segment)
        assert "".join("".join(cue.lines) for cue in cues).replace(" ", "") == segment.text.replace(" ", "")
        assert cues[0].start == round(segment.start * 1000) and cues[-1].end == round(segment.end * 1000)
        assert all(before.end == after.start for before, after in pairwise(cues))
        assert all(cue.start <= cue.end and 1 <= len(cue.lines) <= 2 for cue in cues)
        assert all(len(line) <= 42 for cue in cues for line in cue.lines)


def test_a_long_segment_becomes_cues_with_their_share_of_the_time() -> None:
    text = "and so my fellow americans ask not what your country can do for you ask what you can do for your country"
    cues = segment_cues(Segment(0, 10.0, 20.0, text))
    assert len(cues) == 2 and [len(cue.lines) for cue in cues] == [2, 2]
    assert cues[0].end == pytest.approx(15_000, abs=1000)
    lengths = [len(line) for cue in cues for line in cue.lines]
    assert sum(lengths) == len(text) - 3
    assert min(lengths) > 15, "lines are balanced, so that no cue is a lone word"


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
    quick = tuple(Word(word.start / 4, word.end / 4, word.text) for word in timed_words(0.0, spoken))
    (cue,) = segment_cues(Segment(0, 0.0, 60.0, written, words=quick))
    assert cue.start == 0 and cue.end == 250 * (len(spoken.split()) - 1) + 125
    twice = segment_cues(Segment(0, 0.0, 60.0, f"{written} {written}", words=timed_words(0.0, f"{spoken} {spoken}")))
    starts = {"it": (0, 21_000), "euros": (4000, 25_000), "cats": (18_000, 39_000), "for": (10_000, 31_000)}
    known = [(cue.start, starts[first]) for cue in twice if (first := cue.rows[0][0].text) in starts]
    assert len(known) >= 2 and all(start in allowed for start, allowed in known)


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


def test_speakers_who_talk_at_once_take_turns_on_the_screen() -> None:
    long, short = "a story that goes on and on, while somebody else", "says something."
    talk = Transcript(
        f"{long} {short}",
        (
            Segment(0, 0.0, 6.0, long, speaker="1", words=timed_words(0.0, long, every=0.6)),
            Segment(1, 2.0, 3.1, short, speaker="2", words=timed_words(2.0, short, every=0.6)),
        ),
    )
    cues = transcript_cues(talk)
    assert all(before.end <= after.start for before, after in pairwise(cues))
    assert {cue.speaker: " ".join(cue.lines) for cue in cues} == {"1": long, "2": short}
