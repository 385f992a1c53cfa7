"""How much of an epoch each source of speech gets: its hours to a power, so that small ones are not drowned."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from redline.manifest import Utterance


def source_of(utterance: Utterance) -> str:
    """What an utterance is balanced by: its source, or its language where none is named."""
    return utterance.source or utterance.language


def shares(hours: Mapping[str, float], alpha: float) -> dict[str, float]:
    """The share of an epoch's hours of each source, in proportion to its own hours ** alpha; together they are 1."""
    weights = {name: value**alpha for name, value in hours.items()}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def hours_of(utterances: Sequence[Utterance]) -> dict[str, float]:
    """Hours of each source, in the order of their names."""
    found: dict[str, float] = {}
    for item in utterances:
        found[source_of(item)] = found.get(source_of(item), 0.0) + item.duration / 3600
    return dict(sorted(found.items()))


def balanced(utterances: Sequence[Utterance], alpha: float, seed: int, epoch: int) -> list[Utterance]:
    """One epoch of about as many hours as there are, drawn by `shares`; the same seed and epoch give the same draw.

    Within a source nothing comes again before everything came once, over the ends of epochs too. A source that gets
    more than its own hours is therefore heard whole, and in part again.
    """
    hours = hours_of(utterances)
    total = sum(hours.values())
    groups: dict[str, list[Utterance]] = {name: [] for name in hours}
    for item in utterances:
        groups[source_of(item)].append(item)
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
