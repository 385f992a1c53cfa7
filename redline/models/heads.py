"""Small heads that the published layouts do not have; each reads states that are there anyway."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from redline.models.invariant import Layer, Linear
from redline.punctuation import MARKS

CASES = 2


class PunctuationHead(Layer):
    """States of slots [..., H] -> logits [..., 2 + marks]: small letter or capital, then the mark behind the word."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.out = Linear(hidden_size, CASES + len(MARKS))

    def forward(self, hidden: Tensor) -> Tensor:
        return self.out(hidden)


class LanguageHead(Layer):
    """Language identification: encoder states [B, T, D], averaged over its frames -> logits [B, languages]."""

    def __init__(self, hidden_dim: int, languages: Sequence[str]) -> None:
        super().__init__()
        self.languages = tuple(languages)
        self.out = Linear(hidden_dim, len(self.languages))

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        # Clip by clip: the order of a sum depends on its length, padding included.
        sums = [row[:length].float().sum(dim=0) for row, length in zip(hidden, lengths.tolist(), strict=True)]
        mean = torch.stack(sums) / lengths.clamp(min=1)[:, None]  # [B, D]
        return self.out(mean.to(hidden.dtype))

    def best(self, logits: Tensor, candidates: Sequence[str] = ()) -> str:
        """The likeliest language of one clip's logits, among all or among `candidates`."""
        places = [place for place, name in enumerate(self.languages) if not candidates or name in candidates]
        return self.languages[places[int(logits[places].argmax())]]
