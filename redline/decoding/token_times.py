"""Word times of a text's own tokens, for encoders without a character head: forced alignment on token posteriors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from redline.decoding.align import align_scores
from redline.types import Word


class TokenTimes:
    """Word times of one text, computed when they are first asked for.

    It holds no more of the posteriors than the columns of the text's tokens and of the blank.
    """

    def __init__(
        self, words: Sequence[str], tokens: Sequence[Sequence[int]], logits: Tensor, blank: int, frame_s: float
    ) -> None:
        """Words with the token ids of each, and the token logits [T, V] of their clip, a frame every `frame_s`."""
        columns = sorted({blank, *(id for ids in tokens for id in ids)})
        log_probs = logits.float() - logits.float().logsumexp(dim=-1, keepdim=True)
        self.log_probs = log_probs[:, columns].cpu()  # [T, K]
        self.words = list(words)
        self.tokens = [[columns.index(id) for id in ids] for ids in tokens]
        self.blank = columns.index(blank)
        self.frame_s = frame_s

    def __call__(self) -> tuple[Word, ...]:
        """All words in seconds from the start of the clip, each with the mean probability of its tokens."""
        if not self.words:
            return ()
        targets = [[column for columns in self.tokens for column in columns]]
        (alignment,) = align_scores(self.log_probs[None], torch.tensor([len(self.log_probs)]), targets, self.blank)
        if alignment is None:
            return ()
        words, first = [], 0
        for text, columns in zip(self.words, self.tokens, strict=True):
            last = first + len(columns)
            scores = [
                float(self.log_probs[start:end, column].mean())
                for column, start, end in zip(
                    columns, alignment.starts[first:last], alignment.ends[first:last], strict=True
                )
            ]
            start_s, end_s = alignment.starts[first] * self.frame_s, alignment.ends[last - 1] * self.frame_s
            confidence = round(math.exp(sum(scores) / len(scores)), 3)
            words.append(Word(round(start_s, 3), round(end_s, 3), text, confidence))
            first = last
        return tuple(words)
