"""CTC prefix beam search with shallow fusion of an n-gram LM (arXiv 1408.2873).

The greedy path takes the best label of every frame; here whole texts compete by the probability of all paths that spell
them, plus a weighted language model, plus a bonus per token against the model's taste for few words. The hypotheses of
all utterances of a batch are kept in NumPy arrays, wherever the posteriors were computed: a frame has some fifty
operations on a few hundred numbers, and what counts is how long it takes to call one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from redline.errors import ConfigError

if TYPE_CHECKING:
    from redline.decoding.biasing import KeywordTrie
    from redline.decoding.ngram import NgramLM, ScorePool
    from redline.types import Floats, Ints

_N = TypeVar("_N", bound=np.generic)
_NEVER = np.float32(-math.inf)
_MIX = np.int64(6364136223846793005)  # an odd multiplier spreads the texts over 64 bits (Knuth's MMIX generator)


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
        log_probs[..., blank] = -math.inf
        best, ids = log_probs.topk(min(options.candidates, log_probs.shape[-1] - 1), dim=-1)
        return cls(ids, best.masked_fill(best < floor, -math.inf), silence, lengths)

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

    text: Ints  # hash of the tokens
    parent: Ints  # hash of the tokens but the last
    last: Ints  # last token, -1 for the empty text
    ends_blank: Floats  # log probability of the paths that end in a blank
    ends_token: Floats  # and of those that end in the last token
    prior: Floats  # what language model, token bonus and keywords have given
    history: Ints  # for the language model
    lm_row: Ints  # and where a pool has its scores
    trie_state: Ints  # how far into a keyword

    @classmethod
    def empty(cls, shape: tuple[int, int], history: int, bias: KeywordTrie | None) -> _Beam:
        whole, zero = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.float32)
        never = np.full(shape, _NEVER)
        first = never.copy()
        first[:, 0] = 0.0
        state = whole if bias is None else whole + bias.start[:, None]
        return cls(whole, whole - 1, whole - 1, first, never, zero, whole + history, whole, state)

    def rows(self, rows: slice | Ints) -> _Beam:
        return _Beam._make(part[rows] for part in self)

    def best(self, bias: KeywordTrie | None) -> Ints:
        """The likeliest hypothesis of each utterance whose text ends here, [B]."""
        score = np.logaddexp(self.ends_blank, self.ends_token) + self.prior
        ends = 0.0 if bias is None else bias.end(self.trie_state)
        best: Ints = (score + ends).argmax(axis=1)
        return best


def search(
    candidates: FrameCandidates, lm: NgramLM | None, options: BeamOptions, bias: KeywordTrie | None = None
) -> list[list[int]]:
    """The best text of each utterance as ids; without a language model the likeliest by CTC alone."""
    B, T, _ = candidates.ids.shape
    lengths = candidates.lengths.cpu().numpy()
    longest_first = np.argsort(-lengths, kind="stable")  # whose text has ended is behind those whose text goes on
    ids, log_probs, blank = (
        part.cpu().numpy()[longest_first] for part in (candidates.ids, candidates.log_probs, candidates.blank)
    )
    beam = _Beam.empty((B, options.width), lm.boundary if lm else 0, bias).rows(longest_first)
    pool = lm.pool(B * options.width) if lm else None
    if pool is not None and B:
        pool.add(beam.history[0, :1])
    parents = np.broadcast_to(np.arange(options.width), (T, B, options.width)).copy()
    tokens = np.full((T, B, options.width), -1)
    best = np.zeros(B, dtype=np.int64)
    for frame in range(T + 1):
        going = int((lengths > frame).sum())
        if going < len(beam.text):
            best[going : len(beam.text)] = beam.rows(slice(going, None)).best(bias)
            beam = beam.rows(slice(going))
        if not going:
            break
        now = slice(going), frame
        beam, parents[now[::-1]], tokens[now[::-1]] = _step(
            beam, ids[now], log_probs[now], blank[now], lm, pool, bias, options
        )
        if pool is not None:
            beam = beam._replace(lm_row=pool.keep(beam.lm_row))
    texts = _trace(best, parents, tokens)
    return [texts[place] for place in np.argsort(longest_first)]


def _step(
    beam: _Beam,
    ids: Ints,
    log_probs: Floats,
    blank: Floats,
    lm: NgramLM | None,
    pool: ScorePool | None,
    bias: KeywordTrie | None,
    options: BeamOptions,
) -> tuple[_Beam, Ints, Ints]:
    """One frame: ids and their log probabilities [B, C], blank [B] -> beam, and where each text came from.

    Each text may stay as it is (a blank, or its last token again) or grow by a candidate. A text that grows into
    another one of the beam gives its probability to that one instead.
    """
    (B, W), C = beam.text.shape, ids.shape[1]
    total = np.logaddexp(beam.ends_blank, beam.ends_token)
    same = ids[:, None, :] == beam.last[:, :, None]  # [B, W, C]
    again = np.where(same, log_probs[:, None, :], _NEVER).max(axis=2)  # [B, W]
    is_alive = total > _NEVER
    # Text `child` of a row is text `parent` and one token more.
    born = (beam.parent[:, :, None] == beam.text[:, None, :]) & is_alive[:, :, None] & is_alive[:, None, :]
    row, child, parent = born.nonzero()
    doubled = beam.last[row, child] == beam.last[row, parent]
    flow = np.full((B, W), _NEVER)
    flow[row, child] = np.where(doubled, beam.ends_blank[row, parent], total[row, parent])
    stay_blank = total + blank[:, None]
    stay_token = np.logaddexp(beam.ends_token, flow) + again
    grown = np.where(same, beam.ends_blank[:, :, None], total[:, :, None]) + log_probs[:, None, :]  # [B, W, C]
    taken, candidate = same[row, child].nonzero()
    grown[row[taken], parent[taken], candidate] = _NEVER

    prior = np.repeat(beam.prior[:, :, None] + np.float32(options.token_bonus), C, axis=2)
    if pool is not None:
        prior += np.float32(options.lm_weight) * pool.rows[beam.lm_row[:, :, None], ids[:, None, :]]
    alive = (grown > _NEVER).nonzero() if bias is not None or (lm is not None and pool is None) else ()
    if alive:
        row, text, candidate = alive
        tokens = ids[row, candidate]
    if lm is not None and pool is None:
        prior[alive] += np.float32(options.lm_weight) * lm.score(beam.history[row, text], tokens)
    if bias is not None:
        states = np.repeat(beam.trie_state[:, :, None], C, axis=2)
        states[alive], gain = bias.step(beam.trie_state[row, text], tokens)
        prior[alive] += gain

    stay = np.logaddexp(stay_blank, stay_token) + beam.prior
    ranked = np.concatenate((stay, (grown + prior).reshape(B, -1)), axis=1)
    kept = np.argpartition(-ranked, W - 1, axis=1)[:, :W]
    is_grown = kept >= W
    choice = np.maximum(kept - W, 0)
    source = np.where(is_grown, choice // C, kept)
    rows = np.arange(B)[:, None]
    at, choice_at = W * rows + source, W * C * rows + choice  # places among those of all rows
    token = np.where(is_grown, ids.ravel()[C * rows + choice % C], -1)

    def of(part: NDArray[_N]) -> NDArray[_N]:
        chosen: NDArray[_N] = part.ravel()[at]
        return chosen

    def grown_or(new: NDArray[_N], old: NDArray[_N]) -> NDArray[_N]:
        return np.where(is_grown, new.ravel()[choice_at], of(old))

    before, history, lm_row = of(beam.text), of(beam.history), of(beam.lm_row)
    if lm is not None:
        history = np.where(is_grown, lm.advance(history, token), history)
    if pool is not None:
        lm_row[is_grown] = pool.add(history[is_grown])
    new = _Beam(
        text=np.where(is_grown, (before + token + 1) * _MIX, before),
        parent=np.where(is_grown, before, of(beam.parent)),
        last=np.where(is_grown, token, of(beam.last)),
        ends_blank=np.where(is_grown, _NEVER, of(stay_blank)),
        ends_token=grown_or(grown, stay_token),
        prior=grown_or(prior, beam.prior),
        history=history,
        lm_row=lm_row,
        trie_state=beam.trie_state if bias is None else grown_or(states, beam.trie_state),
    )
    return new, source, token


def _trace(best: Ints, parents: Ints, tokens: Ints) -> list[list[int]]:
    """Follow the best text of each utterance back: best [B], parents and tokens [T, B, W]."""
    rows = np.arange(len(best))
    path = np.full((len(parents), len(best)), -1)  # [T, B]
    for frame in range(len(parents) - 1, -1, -1):
        path[frame] = tokens[frame, rows, best]
        best = parents[frame, rows, best]
    return [[token for token in row if token >= 0] for row in path.T.tolist()]
