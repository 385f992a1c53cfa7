"""Sampling weights: each source of speech gets its hours to a power of an epoch, so that small ones are not drowned."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from redline.manifest import Utterance


def shares(hours: Mapping[str, float], alpha: float) -> dict[str, float]:
    """The share of an epoch's hours of each source, in proportion to its own hours ** alpha; together they are 1."""
    weights = {name: value**alpha for name, value in hours.items()}
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def by_source(utterances: Sequence[Utterance]) -> dict[str, list[Utterance]]:
    """The utterances of each source (or language, where none is named), in the order of their names."""
    groups: dict[str, list[Utterance]] = {}
    for item in utterances:
        groups.setdefault(item.source or item.language, []).append(item)
    return dict(sorted(groups.items()))


def hours_of(utterances: Sequence[Utterance]) -> dict[str, float]:
    """Hours of each source."""
    return {name: sum(row.duration for row in group) / 3600 for name, group in by_source(utterances).items()}


def sampling_weights(utterances: Sequence[Utterance], alpha: float) -> list[str]:
    """A line for each source: its hours, and its share of them and of an epoch; none where each comes as it is."""
    hours = hours_of(utterances)
    total = sum(hours.values())
    lines = []
    for name, share in shares(hours, alpha).items() if alpha < 1 else ():
        of_hours = f"{hours[name]:.2f} h, {hours[name] / total:.1%} of the hours"
        lines.append(f"source {name or '(no name)'}: {of_hours}, {share:.1%} of an epoch")
    return lines


def balanced(utterances: Sequence[Utterance], alpha: float, seed: int, epoch: int) -> list[Utterance]:
    """One epoch of about as many hours as there are, drawn by `shares`; the same seed and epoch give the same draw.

    Within a source nothing comes again before everything came once, over the ends of epochs too. A source that gets
    more than its own hours is therefore seen whole, and in part again.
    """
    groups, hours = by_source(utterances), hours_of(utterances)
    total = sum(hours.values())
    drawn: list[Utterance] = []
    for name, share in shares(hours, alpha).items():
        group = groups[name]
        count = max(1, round(len(group) * share * total / hours[name]))
        turn, at = divmod(epoch * count, len(group))
        while count:
            order = list(range(len(group)))
            random.Random(f"{seed}/{name}/{turn}").shuffle(order)
            part = order[at : at + count]
            drawn += [group[index] for index in part]
            turn, at, count = turn + 1, 0, count - len(part)
    random.Random(f"{seed}/{epoch}").shuffle(drawn)
    return drawn
