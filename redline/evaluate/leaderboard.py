"""The eight English test sets of the Open ASR leaderboard (arXiv 2510.06961), under their names and by its rules.

References that are empty or marked as unscored are left out (`hub.UNSCORED`), texts go through Whisper's English
normaliser, and the score is the mean of the sets' error rates. From mid 2026 on the leaderboard itself scores cleaned
versions of some sets and leaves out TED-LIUM; numbers from here compare with those from before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from redline.errors import DataError
from redline.evaluate import hub
from redline.evaluate.hub import Address, Sounds
from redline.evaluate.wer import Report, Score
from redline.manifest import Utterance

TITLE = "the Open ASR leaderboard"
REPOSITORY = "hf-audio/esb-datasets-test-only-sorted"
SETS = {
    "ami": Address(REPOSITORY, "ami"),
    "earnings22": Address(REPOSITORY, "earnings22"),
    "gigaspeech": Address(REPOSITORY, "gigaspeech"),
    "librispeech test.clean": Address(REPOSITORY, "librispeech", "test.clean"),
    "librispeech test.other": Address(REPOSITORY, "librispeech", "test.other"),
    "spgispeech": Address(REPOSITORY, "spgispeech"),
    "tedlium": Address(REPOSITORY, "tedlium"),
    "voxpopuli": Address(REPOSITORY, "voxpopuli"),
}


@dataclass(frozen=True)
class Mean:
    """The mean of the word error rates of all sets, in percent; every set weighs alike, however long it is."""

    edited: float
    draft: float | None
    limit: int | None = None
    """Utterances of each set, where not all were taken."""

    def __str__(self) -> str:
        """The mean in a line."""
        line = f"WER {self.edited:.2f} %" + (f" edited, {self.draft:.2f} % draft" if self.draft is not None else "")
        line += f", {len(SETS)} sets weighed alike"
        if self.limit is not None:
            line += f"; at most {self.limit} utterances of each, so not a number to compare with the leaderboard's"
        return line

    def to_dict(self) -> dict[str, Any]:
        return {"edited": self.edited, "draft": self.draft, "sets": len(SETS), "limit": self.limit}


def read(limit: int | None = None) -> tuple[list[Utterance], int, Sounds]:
    """The utterances of all sets, at most `limit` of each; how many rows are not scored; what loads the recordings.

    Raises `DataError` when one of the sets cannot be read: a mean of the others would be a different number.
    """
    utterances: list[Utterance] = []
    left_out, sounds = 0, Sounds({}, {})
    revision = hub.pinned(SETS["ami"]).revision
    for name, address in SETS.items():
        found, without_text, more = hub.read(
            replace(address, revision=revision), language="en", limit=limit, source=name
        )
        utterances += found
        left_out += without_text
        sounds |= more
    return utterances, left_out, sounds


def mean(reports: Iterable[Report], limit: int | None = None) -> Mean:
    """The mean over sets; each rate is rounded first, as the leaderboard does.

    Raises `DataError` when a set has no score.
    """
    found = {report.group: report for report in reports}
    if missing := [name for name in SETS if name not in found]:
        raise DataError(f"no number: nothing was scored of {', '.join(missing)}")
    scored = [found[name] for name in SETS]
    drafts = [report.draft for report in scored if report.draft is not None]
    return Mean(
        _mean([report.edited for report in scored]), _mean(drafts) if len(drafts) == len(scored) else None, limit
    )


def _mean(scores: list[Score]) -> float:
    return round(sum(round(100 * one.words.rate, 2) for one in scores) / len(scores), 2)
