"""Self-speculative decoding: the encoder's CTC draft, checked by the language model in its prefill (arXiv 2603.11243).

1. `trusted`: a draft whose every frame is sure is the text, and no language model runs.
2. `verify`: the prefill reads the draft too, so its logits tell how much of the draft the model would have written.
3. `rethink`: after cutting its key-value cache of each row to the prompt and the accepted ids, the caller lets the
   rest be generated. Rows that have stopped leave the batch with the first step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from redline.decoding.generate import (
    GenerateOptions,
    Generation,
    Running,
    Step,
    Stop,
    allowed,
    begun,
    likeliest,
    resume,
)
from redline.decoding.repetition import RepetitionOracle
from redline.errors import ConfigError

Mode = Literal["exact", "fast", "trust"]


@dataclass(frozen=True)
class SpeculativeOptions:
    """How far a draft is believed.

    exact gives what greedy decoding gives, only sooner; trust takes every draft for the text. fast believes more than
    exact: WER 5.58 (greedy 5.75) at RTFx 548 (564) with the thresholds here, 6.56 at RTFx 2491 with tau_ctc 3.0 and
    tau_llm 0.1 (arXiv 2603.11243, 1B model).
    """

    mode: Mode = "exact"
    tau_ctc: float = 0.7
    """fast: a draft is the text when no frame's entropy, in nats, is above this."""
    tau_llm: float = 0.2
    """fast: a draft token stands when the language model gives it at least this probability."""

    def __post_init__(self) -> None:
        if self.mode not in ("exact", "fast", "trust"):
            raise ConfigError(f"mode is {self.mode!r}; allowed are 'exact', 'fast' and 'trust'")
        if not self.tau_ctc >= 0:
            raise ConfigError(f"tau_ctc is {self.tau_ctc}; allowed are 0 (trust no draft unseen) and above")
        if not 0 <= self.tau_llm <= 1:
            raise ConfigError(f"tau_llm is {self.tau_llm}; allowed are 0 (accept every draft) to 1")


@dataclass(frozen=True)
class Acceptance:
    """What became of a draft: taken unseen (ctc), as a whole, up to some token, or not at all."""

    drafted: int
    """Tokens of the draft."""
    accepted: int
    how: Literal["ctc", "whole", "prefix", "none"]


@dataclass(frozen=True)
class Verdict:
    """What the language model makes of one draft: the accepted text, and what comes next where it goes on."""

    acceptance: Acceptance
    ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    stop: Stop | None
    """None: the text goes on, with `next_logits`."""
    next_logits: Tensor  # [V]


def frame_entropy(logits: Tensor, lengths: Tensor) -> Tensor:
    """Entropy in nats of each row's least sure frame: logits [B, T, V], lengths [B] -> [B] float32.

    Infinite for a row without frames, so that nothing heard is never taken for certainty.
    """
    entropy = torch.special.entr(logits.float().softmax(dim=-1)).sum(dim=-1)  # [B, T]
    valid = torch.arange(logits.shape[1], device=logits.device) < lengths[:, None]
    padded = torch.nn.functional.pad(entropy.masked_fill(~valid, 0.0), (0, 1))  # a maximum needs at least one frame
    return padded.amax(dim=-1).masked_fill(lengths == 0, torch.inf)


def trusted(logits: Tensor, lengths: Tensor, options: SpeculativeOptions) -> Tensor:
    """Whose CTC draft is the text without a look by the language model: logits [B, T, V], lengths [B] -> [B] bool.

    In exact mode nobody's, in trust mode everybody's.
    """
    sure = frame_entropy(logits, lengths) <= options.tau_ctc
    return sure if options.mode == "fast" else torch.full_like(sure, options.mode == "trust")


def accepted(logits: Tensor, draft: Sequence[int], speculative: SpeculativeOptions, options: GenerateOptions) -> int:
    """How many tokens of a draft stand: logits [K + 1, V], where logits[i] predict draft[i] -> 0 to K.

    In exact mode a token stands where it is the likeliest, in fast mode where it has the probability `tau_llm`; all
    before it must stand too. The end token and suppressed ids never do.
    """
    K = len(draft)
    assert len(logits) > K, f"{len(logits)} rows of logits cannot verify a draft of {K}"
    drafted = torch.tensor(draft, dtype=torch.int64, device=logits.device)
    scores = allowed(logits[:K], options)
    if speculative.mode == "exact":
        stands = scores.argmax(dim=-1) == drafted
    else:
        stands = _log_probs(scores, drafted).exp() >= speculative.tau_llm
    never = torch.tensor((*options.eos_ids, *options.suppress), device=logits.device)
    stands &= ~torch.isin(drafted, never)
    return int(stands.long().cumprod(dim=0).sum())


def verify(
    logits: Iterable[Tensor],
    drafts: Sequence[Sequence[int]],
    budgets: Sequence[int],
    speculative: SpeculativeOptions,
    options: GenerateOptions,
    said: Sequence[RepetitionOracle | None] | None = None,
) -> list[Verdict]:
    """Check each draft against the logits of its prefill: B times logits [K + 1, V] or more rows, B drafts of K ids.

    A draft accepted as a whole ends the text in fast mode; in exact mode the model must end it. Budgets and loops stop
    an accepted draft as they would stop generation. ConfigError where the options are not those of greedy decoding.
    """
    if options.beams > 1 or options.temperature > 0:
        raise ConfigError(
            f"beams is {options.beams} and temperature {options.temperature}; a draft is verified for greedy decoding "
            "only: set beams to 1 and temperature to 0"
        )
    rows = zip(logits, drafts, begun(budgets, said), strict=True)
    return [_verdict(*row, speculative, options) for row in rows]


def _verdict(
    logits: Tensor, draft: Sequence[int], text: Running, speculative: SpeculativeOptions, options: GenerateOptions
) -> Verdict:
    count = accepted(logits, draft, speculative, options)
    ids = torch.tensor(draft[:count], dtype=torch.int64, device=logits.device)
    log_probs = _log_probs(allowed(logits[:count], options), ids)
    for id, log_prob in zip(draft[:count], log_probs.tolist(), strict=True):
        text.take(id, log_prob, options)
    following = logits[count]
    whole = 0 < count == len(draft)
    ends = int(allowed(following, options).argmax()) in options.eos_ids
    if text.stop is None and (ends or (whole and speculative.mode == "fast")):
        text.stop = "end"
    acceptance = Acceptance(len(draft), count, "whole" if whole else "prefix" if count else "none")
    return Verdict(acceptance, tuple(text.ids), tuple(text.log_probs), text.stop, following)


def _log_probs(scores: Tensor, ids: Tensor) -> Tensor:
    """Scores [K, V], ids [K] -> [K]."""
    return scores.log_softmax(dim=-1).gather(-1, ids[:, None])[:, 0]


def rethink(
    verdicts: Sequence[Verdict],
    step: Step,
    budgets: Sequence[int],
    options: GenerateOptions,
    said: Sequence[RepetitionOracle | None] | None = None,
) -> list[Generation]:
    """Go on greedily behind each accepted text, which counts towards its budget: B verdicts -> B generations.

    Before the first `step` the cache of row i ends with `verdicts[i].ids`; the rows that `step` is given select those
    that go on from all B.
    """
    if not verdicts:
        return []
    known = zip(verdicts, budgets, said or [None] * len(budgets), strict=True)
    texts = [Running(budget, list(row.ids), list(row.log_probs), row.stop, one) for row, budget, one in known]
    return resume(torch.stack([row.next_logits for row in verdicts]), step, texts, options, likeliest)
