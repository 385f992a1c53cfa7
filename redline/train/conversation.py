"""Conversations that nobody had: runs of words of two speakers, cut from encoder states and put in turns.

Recordings of many conversations are rare, but a model that writes who speaks only has to notice that the voice is
another one. Here every turn is a piece of some utterance of one of two speakers, so that turns are as many and as short
as wanted, and no pair of voices is heard twice in the same words.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from redline.errors import ConfigError, DataError
from redline.tokenizer import Tokenizer
from redline.train.states import CachedSpan, StateView
from redline.types import Turn


@dataclass(frozen=True)
class ConversationOptions:
    """What a conversation is made of."""

    share: float = 0.0
    """Share of the batches with speakers that are put together from states; the others are clips of the manifest."""
    turns: tuple[int, int] = (2, 6)
    words: tuple[int, int] = (2, 12)
    """Of a turn."""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"share is {self.share}; allowed are 0 (none) to 1 (all)")
        for name in ("turns", "words"):
            fewest, most = getattr(self, name)
            if not 1 <= fewest <= most:
                raise ConfigError(f"{name} is {[fewest, most]}; allowed are two numbers from 1 up, the larger one last")


class Conversations:
    """Draws conversations between any two speakers of the training set."""

    def __init__(
        self,
        views: Sequence[StateView],
        speakers: Mapping[str, str],
        tokenizer: Tokenizer,
        options: ConversationOptions,
    ) -> None:
        """`speakers` names who speaks in each utterance; raises `DataError` when there are not two."""
        self.views, self.tokenizer, self.options = views, tokenizer, options
        self.words: dict[str, list[int]] = {}
        """Where each utterance may be cut: before its words, and after the last."""
        self.by_speaker: dict[str, list[str]] = {}
        for identity, heard in views[0].heard.items():
            if heard.cuts and speakers.get(identity):
                borders = [at for at, token in enumerate(heard.tokens) if tokenizer.word_starts[token] or not at]
                self.words[identity] = [*borders, len(heard.tokens)]
                self.by_speaker.setdefault(speakers[identity], []).append(identity)
        if len(self.by_speaker) < 2:
            raise DataError(
                f"conversations need two speakers; {len(self.by_speaker)} are named in rows that fit their recordings"
            )

    def draw(self, draw: random.Random, view: StateView) -> tuple[list[CachedSpan], list[Turn]]:
        """One conversation: what is heard, and who says what; its times are not told."""
        pair = draw.sample(sorted(self.by_speaker), 2)
        pieces: list[CachedSpan] = []
        turns: list[Turn] = []
        for number in range(draw.randint(*self.options.turns)):
            identity = draw.choice(self.by_speaker[pair[number % 2]])
            borders = self.words[identity]
            count = min(len(borders) - 1, draw.randint(*self.options.words))
            first = draw.randrange(len(borders) - count)
            piece = view.cut(identity, borders[first], borders[first + count])
            pieces.append(piece)
            turns.append(Turn(str(number % 2 + 1), 0.0, 0.0, self.tokenizer.decode(piece.tokens).strip()))
        return pieces, turns
