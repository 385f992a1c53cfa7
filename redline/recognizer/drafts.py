"""Drafts by an encoder's token head: greedy, or by prefix beam search with shallow fusion and contextual biasing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from redline.decoding import ctc_beam
from redline.decoding.biasing import KeywordTrie
from redline.decoding.ctc import collapse
from redline.decoding.ctc_beam import BeamOptions, FrameCandidates
from redline.decoding.keyword_patches import KeywordBias, Patch, splice
from redline.decoding.ngram import NgramLM
from redline.models.conformer import EncoderOutput
from redline.models.draft_head import LOGIT_ROWS


class TokenHead(Protocol):
    """A CTC head whose row i writes token i, and row `blank` nothing."""

    blank: int

    def pool(self, encoded: EncoderOutput) -> tuple[Tensor, Tensor]:
        """Encoder output -> the states [B, W, D] that it reads and lengths [B]."""
        ...

    def logits(self, pooled: Tensor) -> Tensor:
        """States [..., D] -> logits [..., rows]."""
        ...


@dataclass(frozen=True)
class Draft:
    """The encoder's own transcript of one clip as token ids."""

    ids: list[int]
    biased_ids: list[int]
    """The same but for the words at which the biased search found a keyword."""
    patches: list[Patch]
    """Where they are."""
    is_finite: bool
    """Whether all logits are numbers: the best of others would still be called a token."""


def beam_options(draft_lm: NgramLM | None) -> BeamOptions:
    """How drafts are searched for: as the checkpoint's n-gram LM says."""
    return draft_lm.options if draft_lm else ctc_beam.ALONE


@torch.no_grad()
def search_drafts(
    head: TokenHead, encoded: EncoderOutput, draft_lm: NgramLM | None, biases: Sequence[KeywordBias | None]
) -> list[Draft]:
    """The draft of each of B clips, and what the keywords of each, where it has some, change in it."""
    options = beam_options(draft_lm)
    if draft_lm is not None:
        draft_lm.to(encoded.hidden.device)
    drawn = [row for row, bias in enumerate(biases) if bias is not None]
    paths, candidates, finite = [], [], []
    pooled, lengths = head.pool(encoded)
    for part in pooled.split(max(1, LOGIT_ROWS // len(pooled)), dim=1):
        logits = head.logits(part)  # [B, w, rows]
        finite.append(logits.isfinite().all(dim=-1).all(dim=-1))
        if draft_lm is None:
            paths.append(logits.argmax(dim=-1))
        if draft_lm is not None or drawn:
            candidates.append(FrameCandidates.of(logits, lengths, head.blank, options))
    if draft_lm is None:
        rows = torch.cat(paths, dim=1).tolist()
        plain = [collapse(row[:length], head.blank) for row, length in zip(rows, lengths.tolist(), strict=True)]
    else:
        plain = ctc_beam.search(FrameCandidates.join(candidates), draft_lm, options)
    are_finite = torch.stack(finite).all(dim=0).tolist()
    drafts = [Draft(ids, ids, [], is_finite) for ids, is_finite in zip(plain, are_finite, strict=True)]
    if drawn:
        present = [bias for bias in biases if bias is not None]
        trie = KeywordTrie.join([bias.trie for bias in present]).to(lengths.device)
        others = ctc_beam.search(FrameCandidates.join(candidates).rows(drawn), draft_lm, options, trie)
        for row, bias, other in zip(drawn, present, others, strict=True):
            drafts[row] = Draft(plain[row], *splice(plain[row], other, bias), are_finite[row])
    return drafts
