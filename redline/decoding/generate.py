"""Autoregressive decoding over a step callable: greedy, sampled or with a beam, and never round in circles.

The caller holds the key-value cache. `step(ids [R], rows [R] or None)` appends one token to each row and gives the
logits [R, V] of the next; rows[i] is the row of the previous call (the prefill, at first) that row i continues, and
None means that all go on as they were. Rows that are finished leave the batch, and beams are repeated and reordered, by
the same argument.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from redline.decoding.repetition import RepetitionOptions, RepetitionOracle, repetition_start
from redline.errors import ConfigError

Step = Callable[[Tensor, Tensor | None], Tensor]
Choose = Callable[[Tensor, Sequence[int]], Tensor]
"""Allowed logits [R, V] and the place in the batch of each row -> the chosen ids [R]."""
Stop = Literal["end", "limit", "loop"]
NEVER = -math.inf


@dataclass(frozen=True)
class GenerateOptions:
    """How the next token is chosen, and which never is."""

    eos_id: int
    beams: int = 1
    length_penalty: float = 1.0
    """A beam's score is its log probability divided by its length to this power: 0 favours short texts."""
    temperature: float = 0.0
    """0 takes the likeliest token; above it tokens are drawn."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that together have this probability."""
    top_k: int | None = None
    """Draw from this many of the likeliest tokens; None from all."""
    suppress: tuple[int, ...] = ()
    """Ids that are never generated, such as the audio placeholder."""
    loops: RepetitionOptions = RepetitionOptions()
    other_eos_ids: tuple[int, ...] = ()
    """More tokens that end a text."""

    def __post_init__(self) -> None:
        if self.beams < 1:
            raise ConfigError(f"beams is {self.beams}; allowed are 1 (no beam) and above")
        if not 0 <= self.length_penalty < math.inf:
            raise ConfigError(f"length_penalty is {self.length_penalty}; allowed are 0 and above")
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature is {self.temperature}; allowed are 0 (the likeliest token) and above")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}; allowed are above 0 to 1 (all tokens)")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k is {self.top_k}; allowed are 1 and above, or None for all tokens")
        if self.beams > 1 and self.temperature > 0:
            raise ConfigError(f"beams is {self.beams} with temperature {self.temperature}; choose one of them")
        if self.beams == 1 and self.length_penalty != 1.0:
            raise ConfigError(f"length_penalty is {self.length_penalty} without a beam; set beams to 2 or more")
        if self.temperature == 0 and (self.top_p < 1 or self.top_k is not None):
            raise ConfigError(
                f"top_p is {self.top_p} and top_k {self.top_k} without drawing; set a temperature above 0"
            )
        if set(self.eos_ids) <= set(self.suppress):
            raise ConfigError(f"suppress names {self.eos_id}, which is eos_id: no text could ever end; leave it out")

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Every token that ends a text."""
        return self.eos_id, *self.other_eos_ids


@dataclass(frozen=True)
class Generation:
    """What was generated for one row: ids without the end token, and why it stopped there."""

    ids: tuple[int, ...]
    stop: Stop
    """end: the model ended it; limit: the budget is used up; loop: cut behind the first copy of what it repeated."""
    log_probs: tuple[float, ...]
    """Log probability of each id among the allowed ones, at temperature 1."""


def token_budget(duration_s: float, per_s: float = 8.0, base: int = 16) -> int:
    """How many tokens a clip may take; tags for speakers and times need up to 16 a second."""
    return math.ceil(duration_s * per_s) + base


@dataclass
class Running:
    """A text while it grows; `budget` counts the tokens of the whole text."""

    budget: int
    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    stop: Stop | None = None
    said: RepetitionOracle | None = None

    def __post_init__(self) -> None:
        assert self.budget >= 0, f"budget is {self.budget}"
        if self.stop is None and len(self.ids) >= self.budget:
            self.stop = "limit"

    def take(self, id: int, log_prob: float, options: GenerateOptions) -> None:
        """Append a token, unless it ends the text or the text has stopped before."""
        if self.stop is not None:
            return
        if id in options.eos_ids:
            self.stop = "end"
            return
        self.ids.append(id)
        self.log_probs.append(log_prob)
        if (kept := repetition_start(self.ids, options.loops, self.said)) is not None:
            self.stop = "loop"
            del self.ids[kept:], self.log_probs[kept:]
        elif len(self.ids) == self.budget:
            self.stop = "limit"

    def generation(self) -> Generation:
        """The finished text."""
        assert self.stop is not None
        return Generation(tuple(self.ids), self.stop, tuple(self.log_probs))


def allowed(logits: Tensor, options: GenerateOptions) -> Tensor:
    """Float32 logits [..., V] in which suppressed ids are impossible."""
    if not options.suppress:
        return logits.float()
    return logits.float().index_fill(-1, torch.tensor(options.suppress, device=logits.device), NEVER)


def generate(
    first_logits: Tensor,
    step: Step,
    budgets: Sequence[int],
    options: GenerateOptions,
    seeds: Sequence[int] = (),
    said: Sequence[RepetitionOracle | None] | None = None,
) -> list[Generation]:
    """Continue every row as the options say: logits [B, V] of the prefill, B budgets in tokens -> B generations.

    `said` is what is known of each row to tell repetition from loops. A row's result never depends on its neighbours
    nor on its place. Tokens are drawn by the `seeds`, one a row; ConfigError where a temperature is set without them.
    """
    if options.temperature > 0:
        if len(seeds) != len(budgets):
            raise ConfigError(
                f"temperature is {options.temperature}, so tokens are drawn: give a seed for each of {len(budgets)} "
                f"rows, not {len(seeds)}"
            )
        return sample(first_logits, step, budgets, options, seeds, said)
    return (greedy if options.beams == 1 else beam)(first_logits, step, budgets, options, said)


def clip_seed(samples: NDArray[np.float32], seed: int) -> int:
    """The seed of one clip: of its sound and the seed of the request, so that no two clips draw the same numbers."""
    sound = np.ascontiguousarray(samples, dtype=np.float32).tobytes()
    return int.from_bytes(
        hashlib.blake2b(sound, digest_size=8, salt=(seed % 2**64).to_bytes(8, "little")).digest(), "big"
    )


def greedy(
    first_logits: Tensor,
    step: Step,
    budgets: Sequence[int],
    options: GenerateOptions,
    said: Sequence[RepetitionOracle | None] | None = None,
) -> list[Generation]:
    """The likeliest token, again and again: logits [B, V], B budgets -> B generations."""
    return resume(first_logits, step, begun(budgets, said), options, likeliest)


def begun(budgets: Sequence[int], said: Sequence[RepetitionOracle | None] | None) -> list[Running]:
    """Texts without a token yet."""
    known = said or [None] * len(budgets)
    return [Running(budget, said=one) for budget, one in zip(budgets, known, strict=True)]


def sample(
    first_logits: Tensor,
    step: Step,
    budgets: Sequence[int],
    options: GenerateOptions,
    seeds: Sequence[int],
    said: Sequence[RepetitionOracle | None] | None = None,
) -> list[Generation]:
    """Tokens drawn at a temperature: logits [B, V], B budgets, B seeds -> B generations.

    What a row draws depends on its own seed, not on its place in the batch or on how long other rows go on.
    """
    assert options.temperature > 0, "drawing needs a temperature above 0"
    sources = [random.Random(seed) for seed in seeds]

    def choose(logits: Tensor, places: Sequence[int]) -> Tensor:
        draws = torch.tensor([sources[place].random() for place in places], device=logits.device)
        return pick(logits, draws, options)

    return resume(first_logits, step, begun(budgets, said), options, choose)


def likeliest(logits: Tensor, places: Sequence[int]) -> Tensor:
    """Choose the best of each row: logits [R, V] -> ids [R]."""
    return logits.argmax(dim=-1)


def pick(logits: Tensor, draws: Tensor, options: GenerateOptions) -> Tensor:
    """Choose by numbers drawn from [0, 1): allowed logits [R, V], draws [R] -> ids [R]."""
    probs, ids = (logits / options.temperature).softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    probs = probs[:, : options.top_k]
    before = probs.cumsum(dim=-1) - probs
    probs = probs.masked_fill(before >= options.top_p * probs.sum(dim=-1, keepdim=True), 0.0)
    reached = probs.cumsum(dim=-1)
    at = torch.searchsorted(reached, draws[:, None] * reached[:, -1:], right=True)
    # A draw that rounds to 1 would lie behind the last token that is possible.
    at = at.minimum((probs > 0).sum(dim=-1, keepdim=True) - 1)
    return ids.gather(-1, at)[:, 0]


def resume(
    logits: Tensor, step: Step, texts: Sequence[Running], options: GenerateOptions, choose: Choose
) -> list[Generation]:
    """Let begun texts grow to their end: logits [B, V] that follow each of B texts -> B generations.

    Texts that have stopped already take no part; the first call of `step` leaves their rows out.
    """
    assert len(logits) == len(texts), f"{len(logits)} rows of logits for {len(texts)} texts"
    places = list(range(len(texts)))
    while True:
        logits = allowed(logits, options)
        ids = choose(logits, places)
        log_probs = logits.log_softmax(dim=-1).gather(-1, ids[:, None])[:, 0]
        for place, id, log_prob in zip(places, ids.tolist(), log_probs.tolist(), strict=True):
            texts[place].take(id, log_prob, options)
        going = [row for row, place in enumerate(places) if texts[place].stop is None]
        if not going:
            return [text.generation() for text in texts]
        rows = None
        if len(going) < len(places):
            rows = torch.tensor(going, device=ids.device)
            ids, places = ids[rows], [places[row] for row in going]
        logits = step(ids, rows)


def _score(total: float, length: int, options: GenerateOptions) -> float:
    return total / math.pow(length, options.length_penalty)


@dataclass(frozen=True)
class _Text:
    """One text of a beam."""

    ids: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    total: float = 0.0


class _Search:
    """The beam of one row: texts that still grow, all of one length and best first, and finished ones with a score."""

    def __init__(self, budget: int, said: RepetitionOracle | None = None) -> None:
        assert budget >= 0, f"budget is {budget}"
        self.budget = budget
        self.said = said
        self.live = [_Text()]
        self.finished = [] if budget else [(0.0, Generation((), "limit", ()))]

    def grow(self, ids: list[list[int]], log_probs: list[list[float]], options: GenerateOptions) -> list[int]:
        """Continue the live texts with the best of these tokens [live, K + 1]; which text each new one continues."""
        candidates = [
            (text.total + log_prob, at, id, log_prob)
            for at, text in enumerate(self.live)
            for id, log_prob in zip(ids[at], log_probs[at], strict=True)
            if self.budget and log_prob > NEVER
        ]
        candidates.sort(key=lambda candidate: candidate[0], reverse=True)
        new: list[_Text] = []
        parents: list[int] = []
        for total, at, id, log_prob in candidates:
            text = self.live[at]
            if len(new) == options.beams:
                break
            if id not in options.eos_ids:
                new.append(_Text((*text.ids, id), (*text.log_probs, log_prob), total))
                parents.append(at)
            else:
                self._finish(text, "end", total, len(text.ids) + 1, options)
        self.live = new
        if self._is_over(options):
            self.live = []
        return parents[: len(self.live)]

    def _is_over(self, options: GenerateOptions) -> bool:
        if not self.live:
            return True
        best = self.live[0]
        length = len(best.ids)
        if (kept := repetition_start(best.ids, options.loops, self.said)) is not None:
            # Judged by what is kept: a loop is ever surer of itself.
            heard = _Text(best.ids[:kept], best.log_probs[:kept])
            self._finish(heard, "loop", sum(heard.log_probs), kept, options)
            return True
        if length == self.budget:
            for text in self.live:
                self._finish(text, "limit", text.total, length, options)
            return True
        if len(self.finished) < options.beams:
            return False
        worst = sorted((score for score, _ in self.finished), reverse=True)[options.beams - 1]
        return worst >= _score(best.total, length, options)

    def _finish(self, text: _Text, stop: Stop, total: float, length: int, options: GenerateOptions) -> None:
        self.finished.append((_score(total, length, options), Generation(text.ids, stop, text.log_probs)))

    def best(self) -> Generation:
        """The finished text with the highest score."""
        assert self.finished, "no token was possible: the logits are not numbers"
        return max(self.finished, key=lambda item: item[0])[1]


def beam(
    first_logits: Tensor,
    step: Step,
    budgets: Sequence[int],
    options: GenerateOptions,
    said: Sequence[RepetitionOracle | None] | None = None,
) -> list[Generation]:
    """The best of `beams` texts that grow side by side: logits [B, V], B budgets -> B generations.

    A text's score is its log probability, its end included, over length ** length_penalty. A row is done when K texts
    are finished and no live one scores, as it stands, above the worst of the K best; a budget or a loop ends it too.
    """
    searches = [_Search(*one) for one in zip(budgets, said or [None] * len(budgets), strict=True)]
    logits = first_logits
    assert len(logits) == len(budgets), f"{len(logits)} rows of logits for {len(budgets)} budgets"
    while True:
        logits = allowed(logits, options)
        # By logits, so that rounding of their logarithms makes no ties that the greedy choice does not know.
        best = logits.topk(min(options.beams + len(options.eos_ids), logits.shape[-1]), dim=-1).indices  # [R, K + 1]
        log_probs = logits.log_softmax(dim=-1).gather(-1, best).tolist()
        ids = best.tolist()
        parents: list[int] = []
        first = 0
        for search in searches:
            last = first + len(search.live)
            parents += [first + parent for parent in search.grow(ids[first:last], log_probs[first:last], options)]
            first = last
        if not parents:
            return [search.best() for search in searches]
        chosen = [text.ids[-1] for search in searches for text in search.live]
        rows = None if parents == list(range(first)) else torch.tensor(parents, device=logits.device)
        logits = step(torch.tensor(chosen, device=logits.device), rows)
