"""Damaged text and damaged drafts."""

from __future__ import annotations

import random

from redline_recipes.tiny.corruption import CorruptionOptions, corrupt, scramble_tokens
from tests.corpus import WORDS


def test_corruption_is_repeatable_and_harms_more_at_a_higher_rate() -> None:
    text = " ".join(WORDS * 10)
    mild, harsh = CorruptionOptions(word_rate=(0.1, 0.1)), CorruptionOptions(word_rate=(0.9, 0.9))
    assert corrupt(text, mild, random.Random(3)) == corrupt(text, mild, random.Random(3))

    def harm(options: CorruptionOptions) -> int:
        changed = corrupt(text, options, random.Random(0)).split()
        return sum(word not in WORDS for word in changed)

    assert harm(mild) < harm(harsh)
    assert corrupt(text, CorruptionOptions(word_rate=(0.0, 0.0)), random.Random(0)) == text


def test_scrambled_tokens_keep_what_the_rate_spares() -> None:
    tokens = list(range(1000))
    assert scramble_tokens(tokens, 0.0, [7], random.Random(0)) == tokens
    kept = set(scramble_tokens(tokens, 0.2, [5000], random.Random(0))) - {5000}
    assert 700 < len(kept) < 900
