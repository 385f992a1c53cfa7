"""The feature views of a run: those to train on and that of dev, measured by the first process and told to the user."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from redline.features import Rule
from redline.manifest import Utterance
from redline.train.data import AugmentOptions, FeatureView, build_view
from redline.train.processes import first_process_first
from redline.train.stage import share_done


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

    def left_out(reason: str) -> None:
        say(f"left out: {reason}")

    seconds = sum(row.duration for row in train)
    views = []
    first = 0 if options.recorded_view else 1
    for number in range(first, first + options.views):
        progress = share_done(say, f"features, view {number - first + 1}/{options.views}", seconds)
        with first_process_first():
            views.append(build_view(train, number, options, cache, progress, left_out, rule))
    with first_process_first():
        return views, build_view(dev, 0, options, cache, skipped=left_out, rule=rule)
