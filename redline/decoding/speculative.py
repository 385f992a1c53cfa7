"""Self-speculative decoding: the encoder's CTC draft, verified by the language model in its prefill (arXiv 2603.11243).

1. `trusted`: a draft whose every frame is certain is the text, and no language model runs (for models that edit, too).
2. `judge`: the prefill reads the draft too, so its logits tell what the model would have written.
3. `verify`: the tokens that stand begin the text, and decoding goes on behind them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from redline.decoding.generate import GenerateOptions, Search, allowed
from redline.errors import ConfigError

Mode = Literal["exact", "fast", "trust"]
Judgement = Sequence[float]
"""About one token of a draft: 1 where the logits are finite, the likeliest id, and the token's log probability."""


@dataclass(frozen=True)
class SpeculativeOptions:
    """How far a draft is believed.

    exact gives what greedy decoding gives, only sooner; trust takes every draft for the text. fast believes more than
    exact, here as in the paper's accurate setting (tau_ctc 3.0 and tau_llm 0.1 are its fast one).
    """

    mode: Mode = "exact"
    tau_ctc: float = 0.7
    """fast: a draft is the text when the entropy of every frame, in nats, is below this."""
    tau_llm: float = 0.2
    """fast: a draft token stands when the language model gives it at least this probability."""

    def __post_init__(self) -> None:
        if self.mode not in ("exact", "fast", "trust"):
            raise ConfigError(f"mode is {self.mode!r}; allowed are 'exact', 'fast' and 'trust'")


def frame_entropy(logits: Tensor) -> Tensor:
    """Entropy of each frame in nats, the blank a label like others: logits [..., V] -> [...] float32."""
    rows = logits.reshape(-1, logits.shape[-1])
    # Threads share the sum of a lone row, and on accelerators the number of rows decides the order of a sum.
    missing = int(len(rows) == 1) if logits.device.type == "cpu" else -len(rows) % 256
    posteriors = (F.pad(rows, (0, 0, 0, missing)) if missing else rows).float().softmax(dim=-1)
    entropy: Tensor = torch.special.entr(posteriors).sum(dim=-1)[: len(rows)].view(logits.shape[:-1])
    return entropy


def trusted(entropy: Tensor, lengths: Tensor, tau_ctc: float) -> list[bool]:
    """Whose CTC draft is the text unseen: entropies [B, T] of its frames, lengths [B] -> B; none without frames."""
    certain = (entropy < tau_ctc) | (torch.arange(entropy.shape[1], device=lengths.device) >= lengths[:, None])
    verdicts: list[bool] = (certain.all(dim=1) & (lengths > 0)).tolist()
    return verdicts


def judge(logits: Tensor, draft: Tensor, options: GenerateOptions) -> Tensor:
    """What the language model makes of a draft: logits [N, V] that predict its ids [N] -> judgements [N, 3]."""
    scores = allowed(logits, options)
    log_probs = scores.log_softmax(dim=-1).gather(-1, draft[:, None])
    finite = logits.isfinite().all(dim=-1, keepdim=True)
    return torch.cat((finite, scores.argmax(dim=-1, keepdim=True), log_probs), dim=-1)


def verify(
    search: Search, draft: Sequence[int], judgements: Sequence[Judgement], speculative: SpeculativeOptions
) -> int:
    """Begin a row's text with the tokens of its draft that stand -> how many do.

    In exact mode a token stands where it is the likeliest, in fast mode where it has the probability `tau_llm`; all
    before it must stand too. The end token and suppressed ids never do. Budgets and loops stop an accepted draft as
    they stop generation; in fast mode one that is accepted as a whole is the text, else the model must end it.
    """
    options = search.options
    never = {*options.eos_ids, *options.suppress}

    def stands(id: int, judgement: Judgement) -> bool:
        finite, best, log_prob = judgement
        likely = best == id if speculative.mode == "exact" else math.exp(log_prob) >= speculative.tau_llm
        return bool(finite) and likely and id not in never

    tests = (stands(id, judgement) for id, judgement in zip(draft, judgements, strict=True))
    count = next((at for at, is_standing in enumerate(tests) if not is_standing), len(draft))
    for id, (_, _, log_prob) in zip(draft[:count], judgements, strict=False):
        search.grow({text.place: [(id, log_prob)] for text in search.live})
    if speculative.mode == "fast" and 0 < count == len(draft):
        search.end("end")
    return count
