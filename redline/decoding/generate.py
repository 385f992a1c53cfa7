"""Autoregressive decoding over a step callable: beam search; greedy decoding and sampling are a beam of one.

The caller holds what was read. `step(ids [R], parents [R])` appends one token to each of R texts and gives the logits
[R, V] of the next; text i goes on from place `parents[i]` of the call before (of the prefill, at first), and texts that
have ended are left out. `redline.engine.decoder` is the fast twin, which texts join and leave at any step.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from redline.decoding.repetition import RepetitionOptions, RepetitionOracle, repetition_start
from redline.errors import ConfigError

Step = Callable[[Sequence[int], Sequence[int]], Tensor]
Stop = Literal["end", "limit", "loop", "overflow"]
"""The model ended the text; its budget is used up; it was cut behind the first copy of what it repeats; logits were not
finite."""
TokenChoices = list[tuple[int, float]]
"""Tokens that may come next, each with its log probability; none where the logits are not finite."""


@dataclass(frozen=True)
class GenerateOptions:
    """How the next token is chosen, and which never is."""

    eos_id: int
    beams: int = 1
    temperature: float = 0.0
    """0 takes the likeliest token; above it tokens are drawn."""
    suppress: tuple[int, ...] = ()
    """Ids that are never generated, such as the audio placeholder."""
    loops: RepetitionOptions = RepetitionOptions()
    other_eos_ids: tuple[int, ...] = ()
    """More tokens that end a text."""

    def __post_init__(self) -> None:
        if self.beams < 1:
            raise ConfigError(f"beams is {self.beams}; allowed are 1 (no beam) and above")
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature is {self.temperature}; allowed are 0 (the likeliest token) and above")
        if self.beams > 1 and self.temperature > 0:
            raise ConfigError(f"beams is {self.beams} with temperature {self.temperature}; choose one of them")
        if set(self.eos_ids) <= set(self.suppress):
            raise ConfigError(f"suppress names {self.eos_id}, which is eos_id: no text could ever end; leave it out")

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Every token that ends a text."""
        return self.eos_id, *self.other_eos_ids


@dataclass(frozen=True)
class Generation:
    """What was generated for one row: ids without the end token, each with its log probability at temperature 1."""

    ids: tuple[int, ...]
    stop: Stop
    log_probs: tuple[float, ...]


def token_budget(duration_s: float, per_s: float = 8.0, base: int = 16) -> int:
    """How many tokens a clip may take; tags for speakers and times need up to 16 a second."""
    return math.ceil(duration_s * per_s) + base


def clip_seed(samples: NDArray[np.float32], seed: int) -> int:
    """The seed of one clip: of its sound and the seed of the request, so that no two clips draw the same numbers."""
    sound = np.ascontiguousarray(samples, dtype=np.float32).tobytes()
    salt = (seed % 2**64).to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(sound, digest_size=8, salt=salt).digest(), "big")


@dataclass
class _Text:
    """A text that still grows, and its place among the rows of the logits."""

    place: int
    ids: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    total: float = 0.0


class Search:
    """Beam search of one row: texts that still grow, all of one length and best first, and scored ones that ended.

    A text's score is its mean log probability, its end included. A row is done when as many texts as the beam is wide
    have ended and no live one scores, as it stands, above the worst of them; a budget or a loop ends it too.
    """

    def __init__(
        self,
        place: int,
        budget: int,
        options: GenerateOptions,
        oracle: RepetitionOracle | None = None,
        seed: int | None = None,
    ) -> None:
        """`budget` counts the tokens of the whole text; `seed` is what tokens are drawn by."""
        self.budget, self.options, self.oracle = budget, options, oracle
        self.random = random.Random(seed)
        self.live = [_Text(place)]
        self.ended: list[tuple[float, Generation]] = []
        if budget <= 0:
            self.end("limit")

    def grow(self, table: Mapping[int, TokenChoices]) -> None:
        """Continue the live texts with the best of the choices for their places."""
        if not all(table[text.place] for text in self.live):
            self.ended = []
            return self.end("overflow")
        choices = [(text.total + value, text, id, value) for text in self.live for id, value in table[text.place]]
        choices.sort(key=lambda choice: choice[0], reverse=True)
        beams, self.live = self.options.beams, []
        for total, text, id, log_prob in choices:
            if len(self.live) == beams:
                break
            if id in self.options.eos_ids:
                self._ended(text, "end", total, len(text.ids) + 1)
            else:
                self.live.append(_Text(text.place, (*text.ids, id), (*text.log_probs, log_prob), total))
        if not self.live:
            return None
        best = self.live[0]
        length, scores = len(best.ids), sorted((score for score, _ in self.ended), reverse=True)
        if (kept := repetition_start(best.ids, self.options.loops, self.oracle)) is not None:
            # Scored by what is kept: a loop is ever surer of itself.
            first = _Text(best.place, best.ids[:kept], best.log_probs[:kept])
            self._ended(first, "loop", sum(first.log_probs), kept)
            self.live = []
        elif length >= self.budget:
            self.end("limit")
        elif len(scores) >= beams and scores[beams - 1] >= best.total / length:
            self.live = []
        return None

    def end(self, stop: Stop) -> None:
        """End the live texts as they are."""
        for text in self.live:
            self._ended(text, stop, text.total, max(1, len(text.ids)))
        self.live = []

    @property
    def best(self) -> Generation:
        """The text with the highest score among those that ended."""
        return max(self.ended, key=lambda item: item[0])[1]

    def _ended(self, text: _Text, stop: Stop, total: float, length: int) -> None:
        self.ended.append((total / length, Generation(text.ids, stop, text.log_probs)))


def decode(searches: Sequence[Search], logits: Tensor, step: Step) -> list[Generation]:
    """Let the one live text of each row grow to its end: logits [B, V] that follow them -> B generations.

    A row's result never depends on its neighbours nor on its place.
    """
    active = [search for search in searches if search.live]
    while active:
        table = dict(enumerate(_choices(logits, active)))
        for search in active:
            search.grow(table)
        active = [search for search in active if search.live]
        texts = [text for search in active for text in search.live]
        if texts:
            logits = step([text.ids[-1] for text in texts], [text.place for text in texts])
        for place, text in enumerate(texts):
            text.place = place
    return [search.best for search in searches]


def allowed(logits: Tensor, options: GenerateOptions) -> Tensor:
    """Float32 logits [..., V] in which suppressed ids are impossible."""
    scores = logits.to(torch.float32, copy=True)
    for id in options.suppress:
        scores[..., id] = -math.inf
    return scores


def candidates(logits: Tensor, options: GenerateOptions, draws: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """What may come next: logits [..., V] -> ids and log probabilities [..., C], the best first, and whether all are
    finite [..., 1]. Where tokens are drawn, `draws` [...] are numbers from [0, 1)."""
    scores = allowed(logits, options)
    if options.beams > 1:
        # By logits, so that rounding of their logarithms makes no ties that the greedy choice does not know.
        ids = scores.topk(min(options.beams + len(options.eos_ids), scores.shape[-1]), dim=-1).indices
    elif draws is not None:
        ids = pick(scores, draws, options.temperature)[..., None]
    else:
        ids = scores.argmax(dim=-1, keepdim=True)
    return ids, scores.log_softmax(dim=-1).gather(-1, ids), logits.isfinite().all(dim=-1, keepdim=True)


def token_choices(rows: Sequence[Sequence[float]]) -> list[TokenChoices]:
    """`candidates` as lists for a search: rows of the flag, then C ids, then C log probabilities."""
    C = len(rows[0]) // 2
    pairs = [zip(map(int, row[1 : C + 1]), row[C + 1 :], strict=True) if row[0] else () for row in rows]
    return [[(id, log_prob) for id, log_prob in row if log_prob > -math.inf] for row in pairs]


def _choices(logits: Tensor, active: Sequence[Search]) -> list[TokenChoices]:
    """What may come next in each place: logits [R, V] -> R lists, the best first."""
    draws = None
    if active[0].options.temperature > 0:
        draws = torch.zeros(len(logits))
        for search in active:
            draws[search.live[0].place] = search.random.random()
        draws = draws.to(logits.device)
    ids, log_probs, finite = candidates(logits, active[0].options, draws)
    return token_choices(torch.cat((finite, ids, log_probs), dim=-1).tolist())


def pick(scores: Tensor, draws: Tensor, temperature: float) -> Tensor:
    """Sample by numbers drawn from [0, 1): allowed logits [..., V], draws [...] -> ids [...]."""
    probs, ids = (scores / temperature).softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    reached = probs.cumsum(dim=-1)
    at = torch.searchsorted(reached, draws[..., None] * reached[..., -1:], right=True)
    # A draw that rounds to 1 would lie behind the last token that is possible.
    at = at.minimum((probs > 0).sum(dim=-1, keepdim=True) - 1).clamp(min=0)
    return ids.gather(-1, at)[..., 0]
