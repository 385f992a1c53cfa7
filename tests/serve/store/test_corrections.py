"""Corrections: what is replaced, what stays, and that taking them back gives the machine's text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from redline.serve.store.corrections import Correction, corrected, merge_corrections
from redline.types import Segment, Transcript, Turn, Word

WORDS = ("one", "two", "three", "four", "five", "six")


def transcript(*, with_words: bool = True) -> Transcript:
    """Two segments of three words, by two speakers, the second of whom begins within the first segment."""
    words = tuple(Word(at, at + 0.5, word, 0.5, "1" if at < 2 else "2") for at, word in enumerate(WORDS))
    segments = tuple(
        Segment(at, 3.0 * at, 3.0 * at + 3, " ".join(WORDS[3 * at : 3 * at + 3]), words=words[3 * at : 3 * at + 3])
        for at in range(2)
    )
    if not with_words:
        segments = tuple(Segment(each.id, each.start, each.end, each.text) for each in segments)
    turns = (Turn("1", 0.0, 1.5, "one two"), Turn("2", 2.0, 5.5, "three four five six"))
    return Transcript(" ".join(WORDS), segments, duration=6.0, turns=turns)


def test_words_text_and_turns_say_the_same_after_a_correction() -> None:
    changed = corrected(transcript(), [Correction(0, 1, "zwei 2", 2), Correction(1, 1, "")])
    assert changed.text == "one zwei 2 four six"
    assert [segment.text for segment in changed.segments] == ["one zwei 2", "four six"]
    assert [word.text for word in changed.words] == changed.text.split()
    assert [turn.text for turn in changed.turns] == ["one zwei 2", "four six"]
    middle = changed.words[1:3]
    assert (middle[0].start, middle[-1].end) == (1.0, 2.5) and middle[0].confidence is None


def test_the_draft_and_the_edits_stay_the_machines() -> None:
    before = Segment(0, 0.0, 1.0, "one", draft="on")
    told = corrected(Transcript("one", (before,)), [Correction(0, 0, "once")])
    assert told.segments[0].draft == "on" and told.segments[0].words == ()


@given(
    changes=st.lists(
        st.builds(Correction, st.integers(0, 1), st.integers(0, 2), st.sampled_from(["", "x", "x y", "one", "two"])),
        max_size=8,
    ),
    with_words=st.booleans(),
)
def test_the_last_correction_of_a_word_counts_and_taking_it_back_restores(
    changes: list[Correction], with_words: bool
) -> None:
    machine, kept = transcript(with_words=with_words), list[Correction]()
    for change in changes:
        kept = merge_corrections(kept, [change], machine)
    last = {(change.segment, change.word): change.text for change in changes}
    spoken = [segment.text.split() for segment in machine.segments]
    expected = [last.get((at, place), word) for at, own in enumerate(spoken) for place, word in enumerate(own)]
    told = corrected(machine, kept)
    assert told.text.split() == " ".join(expected).split()
    assert " ".join(turn.text for turn in told.turns).split() == told.text.split()
    assert not with_words or [word.text for word in told.words] == told.text.split()
    back = [Correction(each.segment, each.word, spoken[each.segment][each.word]) for each in kept]
    assert merge_corrections(kept, back, machine) == [] and corrected(machine, []) == machine
