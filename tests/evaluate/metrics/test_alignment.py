"""Alignments, counts of errors, intervals and paired comparisons."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redline.errors import DataError
from redline.evaluate.metrics.alignment import (
    Errors,
    align_characters,
    align_words,
    bootstrap_interval,
    compare_errors,
    count_errors,
    second_opinion,
    total,
)

WORDS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=7).map(" ".join)


def edit_distance(a: Sequence[str], b: Sequence[str]) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def word_errors(reference: str, hypothesis: str) -> Errors:
    return count_errors(align_words(reference, hypothesis))


def test_insertions_deletions_and_substitutions_are_told_apart() -> None:
    errors = [word_errors("a b c d", "a x d"), word_errors("a", "a y z"), word_errors("a b", "")]
    assert errors == [Errors(0, 1, 1, 4), Errors(2, 0, 0, 1), Errors(0, 2, 0, 2)]
    assert total(errors) == Errors(2, 3, 1, 7)
    assert total(errors).rate == 6 / 7


@given(WORDS, WORDS)
def test_errors_are_the_edit_distance(reference: str, hypothesis: str) -> None:
    errors = word_errors(reference, hypothesis)
    assert errors.count == edit_distance(reference.split(), hypothesis.split())
    assert errors.length == len(reference.split())
    assert errors.length - errors.deletions + errors.insertions == len(hypothesis.split())


@given(WORDS, WORDS)
def test_a_second_scorer_counts_the_same_errors(reference: str, hypothesis: str) -> None:
    first, second = word_errors(reference, hypothesis), second_opinion(reference, hypothesis)
    assert second is not None and (second.count, second.length) == (first.count, first.length)


def test_character_errors_count_characters() -> None:
    assert count_errors(align_characters("hello there", "hallo there")) == Errors(0, 0, 1, 11)


def test_words_without_a_reference_are_insertions() -> None:
    assert word_errors("", "ghost words") == Errors(2, 0, 0, 0)
    assert Errors(2, 0, 0, 0).rate == float("inf")
    assert Errors().rate == 0.0


def test_interval_holds_the_rate_narrows_with_data_and_repeats() -> None:
    draw = random.Random(0)
    few, lengths = [draw.randint(0, 4) for _ in range(20)], [10] * 20
    low, high = bootstrap_interval(few, lengths, seed=3)
    assert low < sum(few) / 200 < high
    narrow_low, narrow_high = bootstrap_interval(few * 25, lengths * 25, seed=3)
    assert narrow_high - narrow_low < (high - low) / 3
    assert bootstrap_interval(few, lengths, seed=3) == (low, high) != bootstrap_interval(few, lengths, seed=4)
    assert bootstrap_interval([1] * 5, [10] * 5) == (0.1, 0.1)


def test_a_difference_is_significant_only_when_it_is_steady() -> None:
    first = [Errors(0, 0, 2, 10)] * 40
    better = compare_errors(first, [Errors(0, 0, 1, 10)] * 40)
    assert better["significant"] and better["difference"] == pytest.approx(-0.1) and better["wins"] == 40
    draw = random.Random(0)
    noisy = compare_errors(first, [Errors(0, 0, draw.choice([1, 3]), 10) for _ in first])
    assert not noisy["significant"] and noisy["wins"] + noisy["losses"] == 40
    with pytest.raises(DataError, match="same utterances"):
        compare_errors(first, first[:3])
