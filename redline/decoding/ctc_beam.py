"""CTC prefix beam search with shallow fusion of an n-gram LM (arXiv 1408.2873).

The greedy path takes the best label of every frame; here whole texts compete by the probability of all paths that spell
them, plus a weighted language model, plus a bonus per token against the model's taste for few words. The hypotheses of
all utterances of a batch are kept in tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from redline.decoding.biasing import KeywordTrie
from redline.errors import ConfigError

if TYPE_CHECKING:
    from redline.decoding.ngram import NgramLM, ScorePool

_NEVER = -math.inf
_MIX = 6364136223846793005  # an odd multiplier spreads the texts over 64 bits (Knuth's MMIX generator)


@dataclass(frozen=True)
class BeamOptions:
    """How widely the search looks and how far it trusts the language model."""

    width: int = 32
    """Hypotheses kept per utterance."""
    candidates: int = 8
    """Labels considered in a frame, blank aside."""
    margin: float = 9.0
    """A label whose log probability is this much below the frame's best is not considered."""
    lm_weight: float = 0.7
    token_bonus: float = 3.0

    def __post_init__(self) -> None:
        if not (1 <= self.width <= 4096 and 1 <= self.candidates <= 4096):
            raise ConfigError(f"width is {self.width} and candidates {self.candidates}; allowed are 1 to 4096")
        for name, value in asdict(self).items():
            if not abs(value) <= 1e6:
                raise ConfigError(f"{name} is {value}; allowed are finite numbers up to 1e6")


@dataclass(frozen=True)
class FrameCandidates:
    """The likeliest labels of every frame, all that a search needs to know of the posteriors."""

    ids: Tensor  # [B, T, C] int64
    log_probs: Tensor  # [B, T, C] float32, minus infinity for what is not considered
    blank: Tensor  # [B, T] float32, log probability of the blank
    lengths: Tensor  # [B]

    @classmethod
    def of(cls, logits: Tensor, lengths: Tensor, blank: int, options: BeamOptions) -> FrameCandidates:
        """Pick them from logits [B, T, V] with lengths [B]."""
        log_probs = logits.float().log_softmax(dim=-1)
        silence = log_probs[..., blank].clone()
        floor = log_probs.amax(dim=-1, keepdim=True) - options.margin  # [B, T, 1]
        log_probs[..., blank] = _NEVER
        best, ids = log_probs.topk(min(options.candidates, log_probs.shape[-1] - 1), dim=-1)
        return cls(ids, best.masked_fill(best < floor, _NEVER), silence, lengths)

    @classmethod
    def join(cls, parts: Sequence[FrameCandidates]) -> FrameCandidates:
        """Those of one batch that were picked frames by frames."""
        ids, log_probs, blank = (
            torch.cat([getattr(part, name) for part in parts], 1) for name in ("ids", "log_probs", "blank")
        )
        return cls(ids, log_probs, blank, parts[0].lengths)

    def rows(self, rows: Sequence[int]) -> FrameCandidates:
        return FrameCandidates(*(part[list(rows)] for part in vars(self).values()))


class _Beam(NamedTuple):
    """Hypotheses [B, W] that compete for each of B utterances; a dead one has the probability 0."""

    text: Tensor  # hash of the tokens
    parent: Tensor  # hash of the tokens but the last
    last: Tensor  # last token, -1 for the empty text
    ends_blank: Tensor  # log probability of the paths that end in a blank
    ends_token: Tensor  # and of those that end in the last token
    lm_score: Tensor  # log probability of the language model
    size: Tensor  # tokens
    history: Tensor  # for the language model
    lm_row: Tensor  # and where a pool has its scores
    bias_score: Tensor  # what keywords have given
    trie_state: Tensor  # how far into a keyword

    @classmethod
    def empty(cls, shape: tuple[int, int], device: torch.device, history: int, bias: KeywordTrie | None) -> _Beam:
        whole = torch.zeros(shape, dtype=torch.int64, device=device)
        never = torch.full(shape, _NEVER, device=device)
        first = never.clone()
        first[:, 0] = 0.0
        zero = whole.float()
        state = whole if bias is None else whole + bias.start[:, None]
        return cls(whole, whole - 1, whole - 1, first, never, zero, zero, whole + history, whole, zero, state)


def log_add(a: Tensor, b: Tensor) -> Tensor:
    """log(exp(a) + exp(b)), elementwise; the same bits wherever an element stands.

    `torch.logaddexp` rounds what is left over behind its last whole vector otherwise, so a row's place would count.
    """
    high = torch.maximum(a, b)
    return torch.where(high > _NEVER, high + (-(a - b).abs()).exp().log1p(), high)


def search(
    candidates: FrameCandidates, lm: NgramLM | None, options: BeamOptions, bias: KeywordTrie | None = None
) -> list[list[int]]:
    """The best text of each utterance as ids; without a language model the likeliest by CTC alone."""
    B, T, _ = candidates.ids.shape
    device = candidates.ids.device
    beam = _Beam.empty((B, options.width), device, lm.boundary if lm else 0, bias)
    pool = lm.pool(B * options.width) if lm else None
    if pool is not None:
        pool.add(beam.history[0, :1])
    parents = torch.zeros(T, B, options.width, dtype=torch.int64, device=device)
    tokens = torch.full((T, B, options.width), -1, dtype=torch.int64, device=device)
    for frame in range(T):
        going = (frame < candidates.lengths)[:, None]  # [B, 1]
        ids, log_probs, blank = (part[:, frame] for part in (candidates.ids, candidates.log_probs, candidates.blank))
        new, parent, token = _step(beam, ids, log_probs, blank[:, None], lm, pool, bias, options)
        beam = _Beam(*(torch.where(going, a, b) for a, b in zip(new, beam, strict=True)))
        parents[frame] = torch.where(going, parent, torch.arange(options.width, device=device))
        tokens[frame] = torch.where(going, token, -1)
        if pool is not None:
            beam = beam._replace(lm_row=pool.keep(beam.lm_row))
    total, bias_score = log_add(beam.ends_blank, beam.ends_token), beam.bias_score
    if bias is not None:
        bias_score = bias_score + bias.end(beam.trie_state.flatten()).view_as(beam.trie_state)
    best = _score(total, beam.lm_score, beam.size, bias_score, options).argmax(dim=-1)  # [B]
    return _trace(best, parents, tokens)


def _score(ctc_score: Tensor, lm_score: Tensor, count: Tensor, bias_score: Tensor, options: BeamOptions) -> Tensor:
    return ctc_score + options.lm_weight * lm_score + options.token_bonus * count + bias_score


def _step(
    beam: _Beam,
    ids: Tensor,
    log_probs: Tensor,
    blank: Tensor,
    lm: NgramLM | None,
    pool: ScorePool | None,
    bias: KeywordTrie | None,
    options: BeamOptions,
) -> tuple[_Beam, Tensor, Tensor]:
    """One frame: ids and their log probabilities [B, C], blank [B, 1] -> beam, and where each text came from.

    Each text may stay as it is (a blank, or its last token again) or grow by a candidate. A text that grows into
    another one of the beam gives its probability to that one instead.
    """
    W, C = beam.text.shape[1], ids.shape[1]
    total = log_add(beam.ends_blank, beam.ends_token)
    same = ids[:, None, :] == beam.last[:, :, None]  # [B, W, C]
    again = log_probs[:, None, :].expand_as(same).masked_fill(~same, _NEVER).amax(dim=-1)  # [B, W]
    # Text i is what text j was before its last token.
    before = (beam.text[:, :, None] == beam.parent[:, None, :]) & (total > _NEVER)[:, None, :]  # [B, i, j]
    doubled = beam.last[:, :, None] == beam.last[:, None, :]
    flow = torch.where(doubled, beam.ends_blank[:, :, None], total[:, :, None]).masked_fill(~before, _NEVER)
    stay_blank = total + blank
    stay_token = log_add(beam.ends_token, flow.amax(dim=1)) + again
    grown = torch.where(same, beam.ends_blank[:, :, None], total[:, :, None]) + log_probs[:, None, :]  # [B, W, C]
    grown = grown.masked_fill(before.float() @ same.float() > 0, _NEVER)
    alive = (grown > _NEVER).nonzero(as_tuple=True)  # row, text, candidate
    row, text, _ = alive
    tokens = ids[row, alive[2]]
    lm_score, bias_score, trie_state = (
        part[:, :, None].repeat(1, 1, C) for part in (beam.lm_score, beam.bias_score, beam.trie_state)
    )
    if pool is not None:
        lm_score[alive] += pool.rows[beam.lm_row[row, text], tokens]
    elif lm is not None:
        lm_score[alive] += lm.score(beam.history[row, text], tokens)
    if bias is not None:
        trie_state[alive], gain = bias.step(beam.trie_state[row, text], tokens)
        bias_score[alive] += gain

    stay = _score(log_add(stay_blank, stay_token), beam.lm_score, beam.size, beam.bias_score, options)
    grow = _score(grown, lm_score, beam.size[:, :, None] + 1, bias_score, options)
    ranked = torch.cat((stay, grow.flatten(1)), dim=1).topk(W, dim=1).indices  # [B, W]
    is_grown = ranked >= W
    parent = torch.where(is_grown, (ranked - W) // C, ranked)
    choice = (ranked - W).clamp(min=0)
    token = torch.where(is_grown, ids.gather(1, choice % C), -1)

    def of(part: Tensor) -> Tensor:
        return part.gather(1, parent)

    def grown_or(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(is_grown, new.flatten(1).gather(1, choice), of(old))

    before_token, history, lm_row = of(beam.text), of(beam.history), of(beam.lm_row)
    if lm is not None:
        history = torch.where(is_grown, lm.advance(history, token), history)
    if pool is not None:
        lm_row[is_grown] = pool.add(history[is_grown])
    new = _Beam(
        text=torch.where(is_grown, (before_token + token + 1) * _MIX, before_token),
        parent=torch.where(is_grown, before_token, of(beam.parent)),
        last=torch.where(is_grown, token, of(beam.last)),
        ends_blank=of(stay_blank).masked_fill(is_grown, _NEVER),
        ends_token=grown_or(grown, stay_token),
        lm_score=grown_or(lm_score, beam.lm_score),
        size=of(beam.size) + is_grown,
        history=history,
        lm_row=lm_row,
        bias_score=grown_or(bias_score, beam.bias_score),
        trie_state=grown_or(trie_state, beam.trie_state),
    )
    return new, parent, token


def _trace(best: Tensor, parents: Tensor, tokens: Tensor) -> list[list[int]]:
    """Follow the best text of each utterance back: best [B], parents and tokens [T, B, W]."""
    rows = torch.arange(len(best), device=best.device)
    path = torch.full((len(parents), len(best)), -1, device=best.device)  # [T, B]
    for frame in range(len(parents) - 1, -1, -1):
        path[frame] = tokens[frame, rows, best]
        best = parents[frame, rows, best]
    return [[token for token in row if token >= 0] for row in path.T.tolist()]
