"""Which language is identified as which."""

from __future__ import annotations

from redline.evaluate.metrics.language_id import describe_language_id, score_language_id
from redline.evaluate.result import Result
from tests.evaluate.results import utterance


def answer(spoken: str, identified: str | None) -> Result:
    return Result(utterance("x", language=spoken), language=identified)


def test_the_confusion_matrix_counts_which_language_was_taken_for_which() -> None:
    pairs = [("de", "de"), ("de", "en"), ("en", "en"), ("fr", None), ("", "de")]
    score = score_language_id([answer(*pair) for pair in pairs])
    assert score is not None
    assert score["counts"] == {"de": {"de": 1, "en": 1}, "en": {"de": 0, "en": 1}}
    assert describe_language_id(score) == "66.7 % right; de taken for en 1 x"
    assert score_language_id([answer("de", None)]) is None
