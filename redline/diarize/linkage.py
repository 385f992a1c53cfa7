"""Agglomerative clustering by average linkage: the merges from single items to one cluster, and cuts of them.

N items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
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
    similarity, weights = similarity.double().clone(), weights.double().clone()
    similarity.fill_diagonal_(-torch.inf)
    history: list[Merge] = []
    if len(similarity) < 2:
        return history
    best, partner = similarity.max(dim=1)  # of each cluster's row
    for _ in range(len(similarity) - 1):
        row = int(best.argmax())
        a, b = sorted((row, int(partner[row])))
        history.append(Merge(a, b, float(best[row])))
        merged = (weights[a] * similarity[a] + weights[b] * similarity[b]) / (weights[a] + weights[b])
        similarity[a], similarity[:, a] = merged, merged
        similarity[a, a] = -torch.inf
        similarity[b], similarity[:, b] = -torch.inf, -torch.inf
        weights[a] += weights[b]
        stale = (partner == a) | (partner == b)
        better = similarity[:, a] > best
        best, partner = torch.where(better, similarity[:, a], best), torch.where(better, a, partner)
        stale[a], stale[b] = True, True
        stale = stale.nonzero()[:, 0]
        best[stale], partner[stale] = similarity[stale].max(dim=1)
    return history


def cut(history: Sequence[Merge], count: int, level: int) -> list[int]:
    """The cluster of each of so many items after the first `level` merges: the number of its first item."""
    labels = list(range(count))
    for merge in history[:level]:
        labels[merge.taken] = merge.into
    for item in range(count):  # a cluster is taken by one with a smaller number
        labels[item] = labels[labels[item]]
    return labels


def agglomerate(similarity: Tensor, weights: Tensor, least: float) -> list[int]:
    """Similarities [N, N] and weights [N] -> a label for each item.

    The two most similar clusters are merged as long as they are more similar than `least` on average.
    """
    history = merges(similarity, weights)
    return cut(history, len(similarity), sum(merge.similarity >= least for merge in history))
