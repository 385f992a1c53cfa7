"""CTC prefix beam search with an n-gram language model: the draft that a good reader would write.

The greedy path takes the best label of every frame; here whole texts compete, and what counts is the probability of all
paths that spell a text, plus a weighted language model, plus a bonus per token against the model's taste for few words.
`search` keeps the texts of all utterances of a batch in tensors; `search_plain` is its readable twin. Words that the
caller expects are favoured while they are written (`decoding.biasing`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from redline.decoding.ctc import collapse
from redline.errors import ConfigError

NEVER = -math.inf
Text = tuple[int, ...]
_MIX = 6364136223846793005  # an odd multiplier spreads the texts over 64 bits (Knuth's MMIX generator)


class LanguageModel(Protocol):
    """What the search asks of a language model; a history is an int64 that only the model can read."""

    def start(self) -> int:
        """The history before the first token."""
        ...

    def advance(self, histories: Tensor, tokens: Tensor) -> Tensor:
        """The histories after one more token each, both [N]."""
        ...

    def score(self, histories: Tensor, tokens: Tensor) -> Tensor:
        """Natural log of each token's probability after its history, [N] float32."""
        ...


@dataclass(frozen=True)
class BeamOptions:
    """How widely the search looks, and how far it trusts the language model."""

    width: int = 32
    """Texts kept per utterance."""
    candidates: int = 8
    """Labels considered in a frame, blank aside."""
    margin: float = 9.0
    """A label whose log probability is this much below the frame's best is not considered."""
    lm_weight: float = 0.7
    token_bonus: float = 3.0
    keyword_boost: float = 3.0
    """What each token of a keyword is worth, in nats; 0 leaves keywords alone."""
    keep_bias: float = 0.0
    """Added by the editor to the logit of what stands in a slot, a draft token or nothing: how sure an edit must be."""

    def __post_init__(self) -> None:
        if not (1 <= self.width <= 4096 and 1 <= self.candidates <= 4096):
            raise ConfigError(f"width is {self.width} and candidates {self.candidates}; allowed are 1 to 4096")
        for name in ("margin", "lm_weight", "token_bonus", "keyword_boost", "keep_bias"):
            if not abs(getattr(self, name)) <= 1e6:
                raise ConfigError(f"{name} is {getattr(self, name)}; allowed are finite numbers up to 1e6")


ALONE = BeamOptions(lm_weight=0.0, token_bonus=0.0)
"""For a search in which nothing reads along."""


@dataclass(frozen=True)
class Candidates:
    """The likeliest labels of every frame, all that a search needs to know of the posteriors."""

    ids: Tensor  # [B, T, C] int64
    log_probs: Tensor  # [B, T, C] float32, minus infinity for what is not considered
    blank: Tensor  # [B, T] float32, log probability of the blank
    lengths: Tensor  # [B]

    @classmethod
    def of(cls, logits: Tensor, lengths: Tensor, blank: int, options: BeamOptions) -> Candidates:
        """Pick them from logits [B, T, V] with lengths [B]."""
        log_probs = logits.float().log_softmax(dim=-1)
        silence = log_probs[..., blank].clone()
        floor = log_probs.amax(dim=-1, keepdim=True) - options.margin  # [B, T, 1]
        log_probs[..., blank] = NEVER
        best, ids = log_probs.topk(min(options.candidates, log_probs.shape[-1] - 1), dim=-1)
        return cls(ids, best.masked_fill(best < floor, NEVER), silence, lengths)

    def greedy(self, blank: int) -> list[list[int]]:
        """The collapsed best path of each row."""
        likeliest, place = self.log_probs.max(dim=-1)
        best = self.ids.gather(-1, place[..., None])[..., 0]
        paths = torch.where(likeliest > self.blank, best, blank).tolist()
        return [collapse(row[:length], blank) for row, length in zip(paths, self.lengths.tolist(), strict=True)]

    def to(self, device: torch.device | str) -> Candidates:
        """The same on another device."""
        return Candidates(*(part.to(device) for part in (self.ids, self.log_probs, self.blank, self.lengths)))


@dataclass
class _Beam:
    """Texts [B, W] that compete for each of B utterances; a dead one has the probability 0."""

    text: Tensor  # hash of the tokens
    parent: Tensor  # hash of the tokens but the last
    last: Tensor  # last token, -1 for the empty text
    ends_blank: Tensor  # log probability of the paths that end in a blank
    ends_token: Tensor  # and of those that end in the last token
    read: Tensor  # log probability of the language model
    count: Tensor  # tokens
    history: Tensor  # for the language model
    favour: Tensor  # what expected words have given
    place: Tensor  # how far into an expected word

    @classmethod
    def empty(cls, rows: int, width: int, device: torch.device, history: int) -> _Beam:
        whole = torch.zeros(rows, width, dtype=torch.int64, device=device)
        never = torch.full((rows, width), NEVER, device=device)
        first = never.clone()
        first[:, 0] = 0.0
        zero = whole.float()
        return cls(whole, whole - 1, whole - 1, first, never, zero, zero, whole + history, zero, whole)

    def parts(self) -> tuple[Tensor, ...]:
        return tuple(vars(self).values())


class Bias(Protocol):
    """What favours expected words; a place is an int64 that only it can read, 0 at the start."""

    def step(self, places: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The places after one more token each, and what the tokens give: both [N] -> [N] int64, [N] float32."""
        ...

    def end(self, places: Tensor) -> Tensor:
        """What the end of the text gives: mostly, what a half-written word gave is taken back."""
        ...


def log_add(one: Tensor, other: Tensor) -> Tensor:
    """log(exp(one) + exp(other)), elementwise; the same bits wherever an element stands.

    `torch.logaddexp` rounds what is left over behind its last whole vector otherwise, so a row's place would count.
    """
    high = torch.maximum(one, other)
    return torch.where(high > NEVER, high + (-(one - other).abs()).exp().log1p(), high)


def search(
    candidates: Candidates, model: LanguageModel | None, options: BeamOptions, biasing: Bias | None = None
) -> list[list[int]]:
    """The best text of each utterance as ids; without a language model the likeliest by CTC alone."""
    B, T, _ = candidates.ids.shape
    device = candidates.ids.device
    beam = _Beam.empty(B, options.width, device, model.start() if model else 0)
    parents = torch.zeros(T, B, options.width, dtype=torch.int64, device=device)
    tokens = torch.full((T, B, options.width), -1, dtype=torch.int64, device=device)
    for frame in range(T):
        going = (frame < candidates.lengths)[:, None]  # [B, 1]
        ids, heard, blank = (part[:, frame] for part in (candidates.ids, candidates.log_probs, candidates.blank))
        new, parent, token = _step(beam, ids, heard, blank[:, None], model, biasing, options)
        beam = _Beam(*(torch.where(going, a, b) for a, b in zip(new.parts(), beam.parts(), strict=True)))
        parents[frame] = torch.where(going, parent, torch.arange(options.width, device=device))
        tokens[frame] = torch.where(going, token, -1)
    if biasing is not None:
        beam.favour = beam.favour + biasing.end(beam.place.flatten()).view_as(beam.place)
    best = _score(beam.ends_blank, beam.ends_token, beam.read, beam.count, beam.favour, options).argmax(dim=-1)  # [B]
    return _trace(best, parents, tokens)


def _score(
    ends_blank: Tensor, ends_token: Tensor, read: Tensor, count: Tensor, favour: Tensor, options: BeamOptions
) -> Tensor:
    heard = log_add(ends_blank, ends_token)
    return heard + options.lm_weight * read + options.token_bonus * count + favour


def _step(
    beam: _Beam,
    ids: Tensor,
    heard: Tensor,
    blank: Tensor,
    model: LanguageModel | None,
    biasing: Bias | None,
    options: BeamOptions,
) -> tuple[_Beam, Tensor, Tensor]:
    """One frame: ids and their log probabilities [B, C], blank [B, 1] -> beam, and where each text came from.

    Each text may stay as it is (a blank, or its last token again) or grow by a candidate. A text that grows into
    another one of the beam gives its probability to that one instead.
    """
    W = beam.text.shape[1]
    C = ids.shape[1]
    total = log_add(beam.ends_blank, beam.ends_token)
    same = ids[:, None, :] == beam.last[:, :, None]  # [B, W, C]
    again = heard[:, None, :].expand_as(same).masked_fill(~same, NEVER).amax(dim=-1)  # [B, W]
    # Text i is what text j was before its last token.
    before = (beam.text[:, :, None] == beam.parent[:, None, :]) & (total > NEVER)[:, None, :]  # [B, i, j]
    doubled = beam.last[:, :, None] == beam.last[:, None, :]
    flow = torch.where(doubled, beam.ends_blank[:, :, None], total[:, :, None]).masked_fill(~before, NEVER)
    stay_blank = total + blank
    stay_token = log_add(beam.ends_token, flow.amax(dim=1)) + again
    grown = torch.where(same, beam.ends_blank[:, :, None], total[:, :, None]) + heard[:, None, :]  # [B, W, C]
    grown = grown.masked_fill(before.float() @ same.float() > 0, NEVER)
    row, text, one = (grown > NEVER).nonzero(as_tuple=True)
    tokens = ids[row, one]
    read, favour, place = (part[:, :, None].repeat(1, 1, C) for part in (beam.read, beam.favour, beam.place))
    if model is not None:
        read[row, text, one] += model.score(beam.history[row, text], tokens)
    if biasing is not None:
        place[row, text, one], given = biasing.step(beam.place[row, text], tokens)
        favour[row, text, one] += given

    stay = _score(stay_blank, stay_token, beam.read, beam.count, beam.favour, options)
    grow = _score(torch.full_like(grown, NEVER), grown, read, beam.count[:, :, None] + 1, favour, options)
    ranked = torch.cat((stay, grow.flatten(1)), dim=1).topk(W, dim=1).indices  # [B, W]
    is_grown = ranked >= W
    parent = torch.where(is_grown, (ranked - W) // C, ranked)
    choice = (ranked - W).clamp(min=0)
    token = torch.where(is_grown, ids.gather(1, choice % C), -1)

    def of(part: Tensor) -> Tensor:
        return part.gather(1, parent)

    def grown_of(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(is_grown, new.flatten(1).gather(1, choice), of(old))

    before_token, history = of(beam.text), of(beam.history)
    new = _Beam(
        text=torch.where(is_grown, (before_token + token + 1) * _MIX, before_token),
        parent=torch.where(is_grown, before_token, of(beam.parent)),
        last=torch.where(is_grown, token, of(beam.last)),
        ends_blank=of(stay_blank).masked_fill(is_grown, NEVER),
        ends_token=grown_of(grown, stay_token),
        read=grown_of(read, beam.read),
        count=of(beam.count) + is_grown,
        history=torch.where(is_grown, model.advance(history, token), history) if model else history,
        favour=grown_of(favour, beam.favour),
        place=grown_of(place, beam.place),
    )
    return new, parent, token


def _trace(best: Tensor, parents: Tensor, tokens: Tensor) -> list[list[int]]:
    """Follow the best text of each utterance back: best [B], parents and tokens [T, B, W]."""
    rows = torch.arange(len(best), device=best.device)
    found = []
    for frame in range(len(parents) - 1, -1, -1):
        found.append(tokens[frame, rows, best])
        best = parents[frame, rows, best]
    if not found:
        return [[] for _ in rows]
    return [[token for token in row if token >= 0] for row in torch.stack(found[::-1], dim=1).tolist()]


def search_plain(
    candidates: Candidates, model: LanguageModel | None, options: BeamOptions, biasing: Bias | None = None
) -> list[list[int]]:
    """The readable twin of `search`: one utterance after the other, texts in a dictionary."""
    return [_search_one(candidates, row, model, options, biasing) for row in range(len(candidates.ids))]


def _search_one(
    candidates: Candidates, row: int, model: LanguageModel | None, options: BeamOptions, biasing: Bias | None
) -> list[int]:
    def log_add(one: float, other: float) -> float:
        high = max(one, other)
        return high if high == NEVER else high + math.log(math.exp(one - high) + math.exp(other - high))

    def read(text: Sequence[int]) -> float:
        """Log probability of a text, token by token."""
        if model is None:
            return 0.0
        history, total = torch.tensor([model.start()]), 0.0
        for token in text:
            last = torch.tensor([token])
            total += float(model.score(history, last))
            history = model.advance(history, last)
        return total

    def favour(text: Sequence[int], ended: bool) -> float:
        """What expected words in a text give, token by token."""
        if biasing is None:
            return 0.0
        place, total = torch.zeros(1, dtype=torch.int64), 0.0
        for token in text:
            place, given = biasing.step(place, torch.tensor([token]))
            total += float(given)
        return total + (float(biasing.end(place)) if ended else 0.0)

    def score(text: Text, ended: bool = False) -> float:
        heard = log_add(*beam[text])
        return heard + options.lm_weight * read(text) + options.token_bonus * len(text) + favour(text, ended)

    def add(text: Text, to_blank: float, to_token: float) -> None:
        have = beam.get(text, (NEVER, NEVER))
        beam[text] = log_add(have[0], to_blank), log_add(have[1], to_token)

    beam: dict[Text, tuple[float, float]] = {(): (0.0, NEVER)}  # log probability of ending in a blank, in the token
    for frame in range(int(candidates.lengths[row])):
        ids, heard = candidates.ids[row, frame].tolist(), candidates.log_probs[row, frame].tolist()
        blank = float(candidates.blank[row, frame])
        before, beam = beam, {}
        for text, (ends_blank, ends_token) in before.items():
            total = log_add(ends_blank, ends_token)
            add(text, total + blank, NEVER)
            for token, prob in zip(ids, heard, strict=True):
                if prob == NEVER:
                    continue
                if text and token == text[-1]:
                    add(text, NEVER, ends_token + prob)
                    add((*text, token), NEVER, ends_blank + prob)
                else:
                    add((*text, token), NEVER, total + prob)
        alive = [text for text in beam if log_add(*beam[text]) > NEVER]
        beam = {text: beam[text] for text in sorted(alive, key=score, reverse=True)[: options.width]}
    return list(max(beam, key=lambda text: score(tuple(text), ended=True)))
