"""Greedy CTC: the best label of every step, repeats merged, blanks dropped."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from torch import Tensor


def collapse(ids: Sequence[int], blank: int) -> list[int]:
    """Merge neighbouring repeats, then drop blanks: the text a CTC path stands for."""
    return [label for label, _ in groupby(ids) if label != blank]


def greedy(logits: Tensor, lengths: Tensor, blank: int) -> list[list[int]]:
    """The collapsed best path of each row: logits [B, T, V], lengths [B] -> B lists of ids."""
    best = logits.argmax(dim=-1).tolist()
    return [collapse(row[:length], blank) for row, length in zip(best, lengths.tolist(), strict=True)]
