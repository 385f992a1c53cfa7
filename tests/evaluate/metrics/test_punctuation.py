"""Scores of punctuation and capitals."""

from __future__ import annotations

from typing import Any

import pytest

from redline.evaluate.metrics.punctuation import describe_punctuation, printed_words, score_punctuation
from tests.evaluate.results import result


def score(reference: str, edited: str) -> dict[str, Any]:
    numbers = score_punctuation([result(reference, edited)])
    assert numbers is not None
    return numbers


def test_words_marks_and_capitals_are_told_apart() -> None:
    assert printed_words("\u201cWell,\u201d he said\u2026 Why?!") == [
        ("well", True, ","),
        ("he", False, ""),
        ("said", False, ""),
        ("why", True, "?"),
    ]
    assert printed_words("yes , no") == [("yes", False, ","), ("no", False, "")]


def test_a_perfect_text_is_perfect() -> None:
    numbers = score("Well, he said no. Why?", "Well, he said no. Why?")
    assert (numbers["f1"], numbers["end_f1"], numbers["case_accuracy"], numbers["words"]) == (1.0, 1.0, 1.0, 5)


def test_counts_by_hand() -> None:
    # No comma, a full stop for the question mark and one too many; "Bob" is small; "sits" was not recognized.
    numbers = score("Well, Bob sits here?", "Well bob. hits here.")
    assert (numbers["hits"], numbers["misses"], numbers["false_alarms"]) == (0, 2, 2)
    assert (numbers["end_hits"], numbers["end_misses"], numbers["end_false_alarms"]) == (1, 0, 1)
    assert (numbers["same_case"], numbers["words"]) == (2, 3)
    assert "66.7 % of 3 words" in describe_punctuation(numbers)
    assert numbers["case_accuracy"] == pytest.approx(2 / 3)


def test_marks_of_words_that_were_not_recognized_are_missed() -> None:
    numbers = score("Stop. Go on, now.", "go on um, now.")
    assert (numbers["hits"], numbers["misses"], numbers["false_alarms"]) == (1, 2, 1)


def test_references_without_capitals_or_marks_say_nothing() -> None:
    assert score_punctuation([result("AND SO MY FELLOW AMERICANS", "And so, my fellow")]) is None
    assert score_punctuation([result("and so", "And so.")]) is None
    assert score_punctuation([]) is None
