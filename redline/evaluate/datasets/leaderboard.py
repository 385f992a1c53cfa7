"""The eight English test sets of the Open ASR leaderboard (arXiv 2510.06961), under their names and by its rules.

References that are empty or marked as unscored are left out (`hub.UNSCORED`), texts go through Whisper's English
normaliser, and the score is the mean of the sets' error rates. From mid 2026 on the leaderboard itself scores cleaned
versions of some sets and leaves out TED-LIUM; numbers from here compare with those from before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from redline.errors import DataError
from redline.evaluate.datasets import hub
from redline.evaluate.datasets.dataset import Dataset, DatasetOptions
from redline.evaluate.datasets.hub import HubAddress, HubSounds
from redline.evaluate.metrics.registry import Metric
from redline.evaluate.metrics.wer import wer_reports
from redline.evaluate.result import Result
from redline.manifest import Utterance

REPOSITORY = "hf-audio/esb-datasets-test-only-sorted"
SETS = {
    **{name: HubAddress(REPOSITORY, name) for name in ("ami", "earnings22", "gigaspeech")},
    **{f"librispeech {split}": HubAddress(REPOSITORY, "librispeech", split) for split in ("test.clean", "test.other")},
    **{name: HubAddress(REPOSITORY, name) for name in ("spgispeech", "tedlium", "voxpopuli")},
}


def read_leaderboard(limit: int | None = None) -> Dataset:
    """The utterances of all sets, at most `limit` of each.

    Raises `DataError` when one of the sets cannot be read: a mean of the others would be a different number.
    """
    utterances: list[Utterance] = []
    without_text, sounds = 0, dict[Path, Any]()
    revision = hub.pinned(SETS["ami"]).revision
    for name, address in SETS.items():
        rows, skipped, more = hub.read_address(
            replace(address, revision=revision), DatasetOptions(language="en", limit=limit), source=name
        )
        utterances += rows
        without_text += skipped
        sounds |= more.sets
    metric = Metric("mean of sets", "mean_of_sets", partial(mean_of_sets, limit=limit), describe_mean)
    return Dataset("leaderboard", utterances, without_text, "the Open ASR leaderboard", HubSounds(sounds), (metric,))


def mean_of_sets(results: Sequence[Result], limit: int | None = None) -> dict[str, Any] | None:
    """The mean of the word error rates of all sets, in percent; every set weighs alike, however long it is.

    Each rate is rounded first, as the leaderboard does; `limit` is that of the utterances of each set. Raises
    `DataError` when a set has no score.
    """
    if not results:
        return None
    reports = {report["group"]: report for report in wer_reports(results)}
    if missing := [name for name in SETS if name not in reports]:
        raise DataError(f"no number: nothing was scored of {', '.join(missing)}")
    means = {
        kind: round(sum(round(100 * reports[name][kind]["wer"], 2) for name in SETS) / len(SETS), 2)
        for kind in ("edited", "draft")
        if all(reports[name][kind] for name in SETS)
    }
    return {"edited": means["edited"], "draft": means.get("draft"), "sets": len(SETS), "limit": limit}


def describe_mean(score: dict[str, Any]) -> str:
    draft = "" if score["draft"] is None else f" edited, {score['draft']:.2f} % draft"
    line = f"WER {score['edited']:.2f} %{draft}, {score['sets']} sets weighed alike"
    if score["limit"] is not None:
        line += f"; at most {score['limit']} utterances of each, so not a number to compare with the leaderboard's"
    return line
