"""Aligned mixing: new utterances from runs of a speaker's words, cut at their borders and put one after the other.

A few hours of speech say few sentences, and an encoder soon knows them by heart instead of listening. What is cut at
known word borders can be put together in any order, with its text (aligned data augmentation, arXiv 2104.01393).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from redline.errors import ConfigError
from redline.features import FRAME_RATE
from redline.manifest import Utterance
from redline.train.data.batches import BatchSource

EDGE_S = 0.2
"""Silence kept before the first word and after the last."""
REACH = 2
"""Frames by which a border may move into a word to find a quieter one."""


@dataclass(frozen=True)
class MixingOptions:
    """How many utterances are mixed anew; needs the times of words in the manifest."""

    share: float = 0.0
    """Share of the utterances with known word times whose place is taken by new ones of the same speaker."""
    words: tuple[int, int] = (1, 6)  # fewest and most words of a run
    from_epoch: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"share is {self.share}; allowed are 0 (none) to 1 (all with known word times)")
        if not 1 <= self.words[0] <= self.words[1]:
            raise ConfigError(f"words is {list(self.words)}; allowed are two numbers from 1 up, the larger one last")


def word_borders(utterance: Utterance, row: Tensor) -> list[int]:
    """Frames before the first word, between all words and after the last, in the quietest place there.

    `row` [T, 160] may be a rendering at another speed: times are taken in proportion.
    """
    scale = len(row) / utterance.duration
    level = row.mean(dim=-1)
    starts = [word.start * scale for word in utterance.words]
    ends = [word.end * scale for word in utterance.words]
    edge = EDGE_S * FRAME_RATE
    borders = [max(0, round(starts[0] - edge))]
    for end, start in zip(ends[:-1], starts[1:], strict=True):
        first = max(borders[-1], round(min(end, start)) - REACH)
        last = min(len(row), max(first + 1, round(max(end, start)) + REACH + 1))
        borders.append(first + int(level[first:last].argmin()) if first < last else len(row))
    return [*borders, max(borders[-1], min(len(row), round(ends[-1] + edge)))]


class MixedSource(BatchSource):
    """Batches in which some utterances make room for new ones of the same speaker."""

    def __init__(self, mixing: MixingOptions, *source: Any) -> None:
        """`source` are the arguments of a `BatchSource`."""
        super().__init__(*source)
        self.mixing = mixing
        self.by_speaker: dict[str, list[Utterance]] = {}
        for item in self.utterances:
            if item.words:
                self.by_speaker.setdefault(item.speaker or item.id, []).append(item)

    @property
    def timed(self) -> int:
        """How many utterances have word times."""
        return sum(map(len, self.by_speaker.values()))

    def rows(self, items: Sequence[Utterance], epoch: int, draw: random.Random) -> tuple[list[Tensor], tuple[str, ...]]:
        """Features [T, 160] and texts of the utterances, or of new ones in their places."""
        rows, texts = [], []
        for item in items:
            new = None
            if epoch >= self.mixing.from_epoch and item.words and draw.random() < self.mixing.share:
                new = self.mix(item, epoch, draw)
            features, text = new or (self.features_of(item.id, epoch), item.text)
            rows.append(features)
            texts.append(text)
        return rows, tuple(texts)

    def mix(self, instead: Utterance, epoch: int, draw: random.Random) -> tuple[Tensor, str] | None:
        """Features [T, 160] and text of a new utterance, no longer than `instead`; None where it has no place."""
        left = len(self.features_of(instead.id, epoch))
        parts: list[Tensor] = []
        words: list[str] = []
        while True:
            source = draw.choice(self.by_speaker[instead.speaker or instead.id])
            row = self.features_of(source.id, epoch)
            borders = word_borders(source, row)
            first = draw.randrange(len(source.words))
            last = min(len(source.words), first + draw.randint(*self.mixing.words))
            part = row[borders[first] : borders[last]]
            left -= len(part)
            if left < 0:
                return (torch.cat(parts), " ".join(words)) if words else None
            parts.append(part)
            words += [word.text for word in source.words[first:last]]
