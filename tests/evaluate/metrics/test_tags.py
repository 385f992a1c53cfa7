"""Tags of answers."""

from __future__ import annotations

from redline.evaluate.metrics.tags import describe_tags, score_tags
from tests.evaluate.results import result


def test_tags_that_cannot_be_read_and_answers_without_any_are_counted() -> None:
    texts = ["a [T:10] b [T:20]", "a [T:x] b [T:20]", "no tags at all", " ", None]
    score = score_tags([result("a", "a", tagged=text) for text in texts])
    assert score is not None
    assert [score[key] for key in ("tags", "malformed", "answers", "untagged")] == [4, 1, 3, 1]
    assert describe_tags(score) == "25.00 % of 4 cannot be read; 1 of 3 answers have none"
    assert score["malformed_share"] == 0.25
    assert score_tags([result("a", "a")]) is None
