"""Tags of answers: how many cannot be read, and how many answers have none where tags were asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from redline.decoding import tags as tagged
from redline.evaluate.run import Result


@dataclass(frozen=True)
class TagScore:
    """The tags of a group of answers."""

    tags: int
    malformed: int
    """Tags that cannot be read."""
    answers: int
    """Those that are not empty."""
    untagged: int
    """Answers with words and without any tag."""

    @property
    def malformed_share(self) -> float:
        """Tags that cannot be read among all tags; 0 where there are none."""
        return self.malformed / max(1, self.tags)

    @property
    def untagged_share(self) -> float:
        """Answers without any tag among all that are not empty."""
        return self.untagged / max(1, self.answers)

    def __str__(self) -> str:
        """The score in a line."""
        return (
            f"{100 * self.malformed_share:.2f} % of {self.tags} cannot be read; "
            f"{self.untagged} of {self.answers} answers have none"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**vars(self), "malformed_share": self.malformed_share, "untagged_share": self.untagged_share}


def score(results: Iterable[Result]) -> TagScore | None:
    """The tags of the answers that a model gave as it wrote them; None where it gave none so."""
    texts = [result.tagged for result in results if result.tagged is not None]
    if not texts:
        return None
    read = [tagged.parse(text) for text in texts if text.strip()]
    return TagScore(
        sum(one.tags for one in read),
        sum(one.malformed for one in read),
        len(read),
        sum(one.tags == 0 for one in read),
    )
