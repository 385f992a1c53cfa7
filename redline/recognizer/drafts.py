"""Drafts by an encoder's token head: greedy, or by prefix beam search with shallow fusion and contextual biasing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from redline import prompts
from redline.decoding import ctc, ctc_beam, speculative
from redline.decoding.biasing import KeywordTrie
from redline.decoding.ctc_beam import FrameCandidates
from redline.decoding.keyword_patches import KeywordBias, Patch, splice
from redline.decoding.ngram import ALONE, DraftOptions, NgramLM
from redline.decoding.word_confidence import DraftTokens
from redline.decoding.word_times import BLANK
from redline.keywords import KeywordIndex
from redline.models.conformer import EncoderOutput
from redline.models.ctc import CtcModel
from redline.models.draft_head import LOGIT_ROWS, DraftHead
from redline.punctuation import word_pieces
from redline.recognizer.common import overflow_error
from redline.tokenizer import Tokenizer


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
    is_certain: bool
    """Whether it may be the text unread; never where nobody asked."""
    frames: FrameCandidates | None = None
    """What its search knew of the posteriors; None for a greedy one."""


def draft_options(draft_lm: NgramLM | None) -> DraftOptions:
    """How drafts are searched for: as the checkpoint's n-gram LM says."""
    return draft_lm.options if draft_lm else ALONE


def keyword_biases(
    tokenizer: Tokenizer, requests: Sequence[Sequence[str]], draft_lm: NgramLM | None, most: int = prompts.MAX_BIASING
) -> list[KeywordBias | None]:
    """For the keywords of each request what draws a search towards them, as given and in small letters, or None.

    Raises `UnsupportedTaskError` for more than `most`, or too long ones.
    """
    boost = draft_options(draft_lm).keyword_boost
    checked = [prompts.checked_keywords(keywords, most) for keywords in requests]
    return [_keyword_bias(tokenizer, keywords, boost) if keywords and boost else None for keywords in checked]


@lru_cache(maxsize=16)  # as many lists of 20,000 phrases take some 200 MB
def keyword_index(keywords: tuple[str, ...]) -> KeywordIndex:
    """The keywords of a request, ready to be found; raises `UnsupportedTaskError` for what is none."""
    return KeywordIndex(keywords)


@lru_cache(maxsize=16)
def _keyword_bias(tokenizer: Tokenizer, keywords: tuple[str, ...], boost: float) -> KeywordBias:
    index = keyword_index(keywords)
    weights: dict[str, float] = {}
    for keyword in index.keywords:
        for spelling in (keyword.phrase, *keyword.spoken):
            for form in (spelling, spelling.lower()):
                weights[form] = max(weights.get(form, 0.0), keyword.weight)
    inside, first = (tokenizer.encode_all([space + form for form in weights]) for space in (" ", ""))
    trie = KeywordTrie.build(inside, first, tokenizer.word_starts, boost, weights.values())
    return KeywordBias(trie, tokenizer.word_starts, lambda ids: index.spans(tokenizer.pieces(ids)))


@torch.no_grad()
def search_drafts(
    head: DraftHead | CtcModel,
    encoded: EncoderOutput,
    draft_lm: NgramLM | None,
    biases: Sequence[KeywordBias | None],
    tau_ctc: float | None = None,
) -> list[Draft]:
    """The draft of each of B clips, what its keywords, if any, change in it, and by `tau_ctc` whether it is certain."""
    options = draft_options(draft_lm)
    drawn = [row for row, bias in enumerate(biases) if bias is not None]
    paths, candidates, finite, entropy = [], [], [], []
    pooled, lengths = head.pool(encoded)
    for part in pooled.split(max(1, LOGIT_ROWS // len(pooled)), dim=1):
        logits = head.logits(part)  # [B, w, rows]
        finite.append(logits.isfinite().all(dim=-1).all(dim=-1))
        if tau_ctc is not None:
            entropy.append(speculative.frame_entropy(logits))
        if draft_lm is None:
            paths.append(logits.argmax(dim=-1))
        if draft_lm is not None or drawn:
            candidates.append(FrameCandidates.of(logits, lengths, head.blank, options))
    if draft_lm is None:
        rows = torch.cat(paths, dim=1).tolist()
        plain = [ctc.collapse(row[:length], head.blank) for row, length in zip(rows, lengths.tolist(), strict=True)]
    else:
        known = FrameCandidates.join(candidates)
        plain = ctc_beam.search(known, draft_lm, options)
    verdicts = [torch.stack(finite).all(dim=0).tolist(), [False] * len(plain)]
    if tau_ctc is not None:
        verdicts[1] = speculative.trusted(torch.cat(entropy, dim=1), lengths, tau_ctc)
    drafts = [Draft(ids, ids, [], *verdict) for ids, *verdict in zip(plain, *verdicts, strict=True)]
    if draft_lm is not None:
        drafts = [replace(draft, frames=known.rows([row])) for row, draft in enumerate(drafts)]
    if drawn:
        present = [bias for bias in biases if bias is not None]
        trie = KeywordTrie.join([bias.trie for bias in present])
        others = ctc_beam.search(FrameCandidates.join(candidates).rows(drawn), draft_lm, options, trie)
        for row, bias, other in zip(drawn, present, others, strict=True):
            biased_ids, patches = splice(plain[row], other, bias)
            drafts[row] = replace(drafts[row], biased_ids=biased_ids, patches=patches)
    return drafts


def draft_tokens(draft: Draft, ids: Sequence[int], pieces: Sequence[str], frame_s: float) -> DraftTokens | None:
    """What the head that drafts, with frames of `frame_s`, says of the tokens of a text written in these pieces.

    None where no search has kept it.
    """
    if draft.frames is None:
        return None
    length = int(draft.frames.lengths[0])
    words = [[ids[at] for at in word] for word in word_pieces(pieces)]
    ids_there, log_probs = (part[0, :length].cpu().numpy() for part in (draft.frames.ids, draft.frames.log_probs))
    return DraftTokens(ids_there, log_probs, frame_s, words)


def encoder_drafts(
    head: DraftHead | CtcModel | None,
    encoded: EncoderOutput,
    tokenizer: Tokenizer,
    draft_lm: NgramLM | None,
    keywords: Sequence[Sequence[str]],
    most: int = prompts.MAX_BIASING,
    tau_ctc: float | None = None,
) -> list[Draft]:
    """What an encoder alone writes: token ids, or rows of its characters where it has no token head.

    Raises `RecognitionError` where the head leaves the numbers of its precision.
    """
    if head is None:
        return [Draft(ids, ids, [], True, False) for ids in ctc.greedy(encoded.char_logits, encoded.lengths, BLANK)]
    drafts = search_drafts(head, encoded, draft_lm, keyword_biases(tokenizer, keywords, draft_lm, most), tau_ctc)
    if not all(draft.is_finite for draft in drafts):
        raise overflow_error(encoded.hidden.dtype)
    return drafts
