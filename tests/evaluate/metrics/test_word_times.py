"""Word times: only words that were recognized are measured."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redline.evaluate.metrics.word_times import describe_word_times, score_word_times
from redline.evaluate.result import Result
from redline.types import Word
from tests.evaluate.results import result, timed


def answer(
    reference: tuple[Word, ...], words: tuple[Word, ...], text: str | None = None, language: str = "en"
) -> Result:
    edited = " ".join(word.text for word in words) if text is None else text
    spoken = " ".join(word.text for word in reference)
    return result(spoken, edited, words=reference, answer_words=words, language=language)


def score(*results: Result) -> dict[str, Any]:
    numbers = score_word_times(results)
    assert numbers is not None
    return numbers


def ends(reference: str, text: str, language: str = "en") -> tuple[int, float]:
    """The number of matched words, and the sum of the errors of their ends in milliseconds."""
    numbers = score(answer(timed(reference), timed(text), language=language))
    return numbers["matched"], round(numbers["matched"] * (numbers["aas_ms"] or 0.0), 6)


def test_errors_are_of_starts_and_ends_in_milliseconds() -> None:
    reference = (Word(0.0, 0.4, "One"), Word(0.5, 0.9, "two,"), Word(1.0, 1.4, "three"), Word(1.5, 1.9, "four"))
    words = (Word(0.02, 0.4, "one"), Word(0.5, 1.0, "two"), Word(1.0, 1.6, "three"), Word(1.5, 2.5, "four"))
    numbers = score(answer(reference, words))
    assert numbers == {
        "aas_ms": 225.0,
        "median_end_ms": 150.0,
        "mean_start_ms": 5.0,
        "median_start_ms": 0.0,
        "shift_ms": 115.0,
        "late_ms": 225.0,
        "within_20_ms": 0.25,
        "within_50_ms": 0.25,
        "within_100_ms": 0.5,
        "within_200_ms": 0.75,
        "matched": 4,
        "words": 4,
        "utterances": 1,
        "left_out": 0,
    }
    assert describe_word_times(numbers) == (
        "ends off by 225.0 ms (AAS), median 150.0 ms, 25.0 % within 20 ms, 25.0 % within 50 ms, 50.0 % within 100 ms, "
        "75.0 % within 200 ms; starts off by 5.0 ms; 4 of 4 words matched; ends are 225.0 ms late on average"
    )


def test_only_words_that_were_recognized_count() -> None:
    numbers = score(answer(timed("a b c d"), timed("a x c", shift=0.1)))
    assert (numbers["matched"], numbers["words"], numbers["aas_ms"]) == (2, 4, 100.0)
    assert ends("a b", "a new b") == (2, 500.0)


def test_normalisation_is_that_of_the_error_rate_word_by_word() -> None:
    assert ends("Mister Colour uh twenty", "Mr. color 20") == (3, 500.0)
    assert score(answer(timed("uh a"), timed("a")))["words"] == 1, "what normalisation takes away is no word"
    assert ends("für", "fur", language="de")[0] == 0


def test_a_word_counts_only_against_one_word() -> None:
    assert ends("I don't know", "I do not know") == (2, 500.0), "I and know"
    assert score(answer(timed("I don't know"), timed("I do not know")))["words"] == 3
    assert ends("I do not know", "I don't know") == (2, 500.0)
    assert ends("I don't know", "I don't know")[0] == 3


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "can't"]), min_size=1, max_size=8), st.floats(-0.2, 0.2))
def test_a_shift_of_all_words_is_the_error_of_each(words: list[str], shift: float) -> None:
    numbers = score(answer(timed(" ".join(words), 1.0), timed(" ".join(words), 1.0 + round(shift, 3))))
    assert numbers["matched"] == numbers["words"] == len(words)
    assert numbers["aas_ms"] == numbers["median_end_ms"] == pytest.approx(abs(round(1000 * round(shift, 3))), abs=1e-6)


def test_errors_of_ends_have_a_sign() -> None:
    reference = (Word(1.0, 1.5, "a"), Word(1.5, 2.0, "b"))
    late, early = (
        score(answer(reference, tuple(Word(word.start, round(word.end + shift, 3), word.text) for word in reference)))
        for shift in (0.04, -0.04)
    )
    assert (late["late_ms"], early["late_ms"]) == (40.0, -40.0)
    assert late["shift_ms"] == early["shift_ms"] == 20.0
    assert late["within_20_ms"] == 0.0 and late["within_50_ms"] == 1.0
    assert describe_word_times(late).endswith("; ends are 40.0 ms late on average")
    assert "40.0 ms early" in describe_word_times(early)


def test_a_model_without_times_gets_no_number_and_silence_loses_its_words() -> None:
    reference = timed("a b")
    none = score(answer(reference, (), "a b"), answer(reference, (), ""))
    assert describe_word_times(none) == "no number: 2 references have word times, but the model tells none"
    assert none["aas_ms"] is None and none["within_100_ms"] is None
    some = score(answer(reference, reference), answer(reference, (), ""), answer(reference, (), "a b"))
    assert [some[key] for key in ("matched", "words", "utterances", "left_out")] == [2, 4, 2, 1]
    line = describe_word_times(some)
    assert "2 of 4 words matched; " in line and line.endswith("; 1 answers without times left out")
    wrong = score(answer(reference, timed("x y")))
    assert describe_word_times(wrong) == "no number: none of 2 reference words was heard right"
    assert score_word_times([answer((), timed("a"))]) is None
