"""The feature views of a run: those to train on and that of dev, measured by the first process and told to the user."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from redline.features import FRAME_RATE, Rule
from redline.manifest import Utterance
from redline.train.data.batches import AugmentOptions, FeatureView, build_view
from redline.train.loop.distributed import first_process_first
from redline.train.loop.stage import share_done

MOST_TOLD = 10
"""So many recordings that cannot be read are named one by one."""
OFF = 1.25
"""A row that claims so many times the length of its sound, or so many times less, is told; speeds change less."""


def make_views(
    train: Sequence[Utterance],
    dev: Sequence[Utterance],
    options: AugmentOptions,
    cache: Path,
    say: Callable[[str], None],
    rule: Rule = "nar",
) -> tuple[list[FeatureView], FeatureView]:
    """Every view of the training set that the options ask for, and dev as recorded; opened where `cache` has them.

    `say` is told how far it is and which recordings are left out. `rule` is the model's own front end.
    """

    reasons: dict[str, None] = {}

    def left_out(reason: str) -> None:
        if reason not in reasons and len(reasons) < MOST_TOLD:
            say(f"left out: {reason}")
        reasons.setdefault(reason)

    seconds = sum(row.duration for row in train)
    views = []
    first = 0 if options.recorded_view else 1
    for number in range(first, first + options.views):
        progress = share_done(say, f"features, view {number - first + 1}/{options.views}", seconds)
        with first_process_first():
            views.append(build_view(train, number, options, cache, progress, left_out, rule))
    with first_process_first():
        watched = build_view(dev, 0, options, cache, skipped=left_out, rule=rule)
    if len(reasons) > MOST_TOLD:
        say(f"left out: {len(reasons) - MOST_TOLD} more recordings; `redline check` lists them all")
    return views, watched


def measured(rows: Sequence[Utterance], view: FeatureView, say: Callable[[str], None]) -> list[Utterance]:
    """The utterances with the durations that their sound has where the manifest claims others, which are told."""
    found, wrong = [], []
    for row in rows:
        first, last = view.offsets.get(row.id, (0, 0))
        seconds = (last - first) / FRAME_RATE
        if seconds and not seconds / OFF <= row.duration <= seconds * OFF:
            wrong.append(f"{row.id}: {row.duration:g} s claimed, {seconds:.1f} s heard")
            row = replace(row, duration=seconds)
        found.append(row)
    if wrong:
        say(f"{len(wrong)} rows claim another duration than their sound has, which counts; first {wrong[0]}")
    return found
