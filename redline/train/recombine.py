"""New utterances from heard ones: runs of a speaker's words, cut at their borders and put one after the other.

A few hours of speech say few sentences, and an encoder soon knows them by heart instead of listening. What is cut at
known word borders can be put together in any order, with its text (aligned data augmentation, arXiv 2104.01393).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from redline.errors import ConfigError
from redline.features import FRAME_RATE
from redline.manifest import Utterance

EDGE_S = 0.2
"""Silence kept before the first word and after the last."""
REACH = 2
"""Frames by which a border may move into a word to find a quieter one."""


@dataclass(frozen=True)
class RecombineOptions:
    """How many utterances are put together anew; needs the times of words in the manifest."""

    share: float = 0.0
    """Share of the utterances with known word times whose place is taken by new ones of the same speaker."""
    words: tuple[int, int] = (1, 6)
    """Fewest and most words of a run."""
    from_epoch: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"share is {self.share}; allowed are 0 (none) to 1 (all with known word times)")
        if not 1 <= self.words[0] <= self.words[1]:
            raise ConfigError(f"words is {list(self.words)}; allowed are two numbers from 1 up, the larger one last")


AS_SAID = RecombineOptions()
"""Nothing is put together anew."""


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


class Recombiner:
    """Draws new utterances from those of each speaker whose word times are known."""

    def __init__(self, utterances: Sequence[Utterance], options: RecombineOptions) -> None:
        self.options = options
        self.by_speaker: dict[str, list[Utterance]] = {}
        for one in utterances:
            if one.words:
                self.by_speaker.setdefault(one.speaker or one.id, []).append(one)

    @property
    def count(self) -> int:
        """Utterances whose word times are known."""
        return sum(map(len, self.by_speaker.values()))

    def __call__(
        self, instead: Utterance, row_of: Callable[[str], Tensor], draw: random.Random
    ) -> tuple[Tensor, str] | None:
        """Features [T, 160] and text of a new utterance, no longer than `instead`; None where that one stays.

        `row_of` gives the features of an utterance by its id.
        """
        if not instead.words or draw.random() >= self.options.share:
            return None
        left = len(row_of(instead.id))
        parts: list[Tensor] = []
        said: list[str] = []
        while True:
            source = draw.choice(self.by_speaker[instead.speaker or instead.id])
            row = row_of(source.id)
            borders = word_borders(source, row)
            first = draw.randrange(len(source.words))
            last = min(len(source.words), first + draw.randint(*self.options.words))
            piece = row[borders[first] : borders[last]]
            left -= len(piece)
            if left < 0:
                return (torch.cat(parts), " ".join(said)) if said else None
            parts.append(piece)
            said += [word.text for word in source.words[first:last]]
