"""Tags of answers: how many cannot be read, and how many answers have none where tags were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redline.decoding import tags
from redline.evaluate.result import Result


def score_tags(results: Sequence[Result]) -> dict[str, Any] | None:
    """The tags of answers as the model wrote them; None where it writes none.

    `malformed` of all `tags` cannot be read; `untagged` of all `answers` with words have no tag.
    """
    texts = [result.tagged for result in results if result.tagged is not None]
    if not texts:
        return None
    answers = [tags.parse_tagged(text) for text in texts if text.strip()]
    count, malformed = sum(answer.tags for answer in answers), sum(answer.malformed for answer in answers)
    untagged = sum(answer.tags == 0 for answer in answers)
    return {
        "tags": count,
        "malformed": malformed,
        "answers": len(answers),
        "untagged": untagged,
        "malformed_share": malformed / max(1, count),
        "untagged_share": untagged / max(1, len(answers)),
    }


def describe_tags(score: dict[str, Any]) -> str:
    return (
        f"{100 * score['malformed_share']:.2f} % of {score['tags']} cannot be read; "
        f"{score['untagged']} of {score['answers']} answers have none"
    )
