"""Agglomerative clustering by average linkage: the merges from single items to one cluster, and cuts of them.

N items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor


class Merge(NamedTuple):
    """Two clusters become one, which goes on as `into`: each has the number of its first item."""

    into: int
    taken: int
    similarity: float


def merges(similarity: Tensor, weights: Tensor) -> list[Merge]:
    """Similarities [N, N] and weights [N] -> N - 1 merges, each of the two clusters that are most similar on average.

    Their similarities fall from merge to merge.
    """
    similarities, sizes = similarity.double().numpy().copy(), weights.double().numpy().copy()
    np.fill_diagonal(similarities, -np.inf)
    history = list[Merge]()
    partner = similarities.argmax(axis=1)  # of each cluster's row
    best = similarities[np.arange(len(similarities)), partner]
    for _ in range(len(similarities) - 1):
        row = int(best.argmax())
        a, b = sorted((row, int(partner[row])))
        history.append(Merge(a, b, float(best[row])))
        merged = (sizes[a] * similarities[a] + sizes[b] * similarities[b]) / (sizes[a] + sizes[b])
        merged[[a, b]] = -np.inf
        similarities[a], similarities[:, a] = merged, merged
        similarities[b], similarities[:, b] = -np.inf, -np.inf
        sizes[a] += sizes[b]
        stale = (partner == a) | (partner == b)
        stale[[a, b]] = True
        better = merged > best
        best[better], partner[better] = merged[better], a
        rows = stale.nonzero()[0]
        partner[rows] = similarities[rows].argmax(axis=1)
        best[rows] = similarities[rows, partner[rows]]
    return history


def cut(history: Sequence[Merge], count: int, level: int) -> list[int]:
    """The cluster of each of so many items after the first `level` merges: the number of its first item."""
    labels = list(range(count))
    for merge in history[:level]:
        labels[merge.taken] = merge.into
    for item in range(count):  # a cluster is taken by one with a smaller number
        labels[item] = labels[labels[item]]
    return labels
