"""The loss of the punctuation head: which slots stand for a word's beginning and end, and how it is written."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from redline.decoding.align import align_scores
from redline.models.heads import CASES
from redline.punctuation import MARKS, Punctuation, strip_punctuation, word_pieces
from redline.tokenizer import Tokenizer

UNKNOWN = -100


def punctuation_loss(
    head_logits: Tensor,
    slot_logits: Tensor,
    slot_lengths: Tensor,
    written: Sequence[str | None],
    tokenizer: Tokenizer,
    blank: int,
) -> Tensor:
    """Mean cross-entropy of capitals at the slots where words begin, and of marks where they end.

    Head logits [B, K, F], slot logits [B, K, V], lengths [B], B texts in written form (None: not known). Which slot
    stands for which token is the best path of the text through the slots.
    """
    labels = punctuation_labels(slot_logits, slot_lengths, written, tokenizer, blank).to(
        head_logits.device
    )  # [2, B, K]
    return sum(
        (
            F.cross_entropy(part.float().flatten(0, 1), label.flatten(), ignore_index=UNKNOWN, reduction="sum")
            / (label != UNKNOWN).sum().clamp(min=1)
            for part, label in zip(head_logits.split((CASES, len(MARKS)), dim=-1), labels, strict=True)
        ),
        start=head_logits.new_zeros(()),
    )


def punctuation_labels(
    slot_logits: Tensor, slot_lengths: Tensor, written: Sequence[str | None], tokenizer: Tokenizer, blank: int
) -> Tensor:
    """Labels [2, B, K] of the case and the mark in each slot, `UNKNOWN` where no word begins or ends."""
    labels = torch.full((2, *slot_logits.shape[:2]), UNKNOWN)
    rows = [row for row, text in enumerate(written) if text]
    texts = [text for text in written if text]
    targets = [tokenizer.encode(strip_punctuation(text)) for text in texts]
    if not rows:
        return labels
    log_probs = slot_logits[rows].float().log_softmax(dim=-1)
    aligned = align_scores(log_probs, slot_lengths[rows], targets, blank)
    for row, text, tokens, alignment in zip(rows, texts, targets, aligned, strict=True):
        words = word_pieces(tokenizer.pieces(tokens))
        if alignment is None or len(words) != len(text.split()):
            continue
        for word, form in zip(words, map(Punctuation.of, text.split()), strict=True):
            first, last = word[0], word[-1]
            labels[0, row, alignment.starts[first] : alignment.ends[first]] = int(form.capital)
            labels[1, row, alignment.starts[last] : alignment.ends[last]] = MARKS.index(form.mark)
    return labels
