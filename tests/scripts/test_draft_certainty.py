"""`scripts/draft_certainty.py` counts what a threshold leaves unread, and whose errors then count."""

from __future__ import annotations

from redline.evaluate.metrics.alignment import align_words, count_errors
from tests.scripts.loading import script


def test_below_a_threshold_the_draft_counts_and_from_it_on_the_edited_text() -> None:
    module = script("draft_certainty")
    right, wrong = (count_errors(align_words("a b", text)) for text in ("a b", "a c"))
    outcomes = [module.Outcome(1.0, 1.0, wrong, right), module.Outcome(3.0, 2.0, wrong, right)]
    rows = [line.split() for line in module.table(outcomes, [1.0, 1.5])[1:]]
    assert rows == [
        ["0.0", "0.0%", "0.0%", "0.00%"],
        ["1.0", "0.0%", "0.0%", "0.00%"],
        ["1.5", "50.0%", "25.0%", "25.00%"],
        ["inf", "100.0%", "100.0%", "50.00%"],
    ]
