"""CTC forced alignment: the Viterbi path of a known text through posteriors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LONGEST_JUMP = 255
"""States that a path may leave out at once: how far it came is kept in a byte."""


@dataclass(frozen=True)
class Alignment:
    """Frames in which each symbol of one utterance is emitted, and how well the text fits."""

    starts: tuple[int, ...]
    """First frame of each symbol."""
    ends: tuple[int, ...]
    """Frame after the last one of each symbol."""
    score: float
    """Mean log probability of a frame on the best path; 0 is certainty."""


class OptionalSymbols(NamedTuple):
    """Symbols [first, end) of a text that a path may leave out, going from the one before to the one behind."""

    first: int
    end: int
    nats: float
    """What that costs."""


def align_scores(
    log_probs: Tensor,
    lengths: Tensor,
    targets: Sequence[Sequence[int]],
    blank: int,
    optional: Sequence[Sequence[OptionalSymbols]] | None = None,
) -> list[Alignment | None]:
    """The best CTC path through each text: log probabilities [B, T, V], lengths [B], B targets -> B alignments.

    Those of a frame need not add up to one. None stands for a text that has more symbols (and repeats) than the
    utterance has frames. Symbols that are `optional` and left out have no frames: they start and end at 0.
    """
    B, T, _ = log_probs.shape
    device = log_probs.device
    sizes = [2 * len(target) + 1 for target in targets]
    S = max(sizes)
    states = [[blank, *(state for symbol in target for state in (symbol, blank))] for target in targets]
    labels = torch.tensor([[*row, *[blank] * (S - len(row))] for row in states], device=device)  # [B, S]
    # A path may skip the blank between two symbols, unless they are equal.
    skips = torch.zeros(B, S, dtype=torch.bool, device=device)
    skips[:, 2:] = (labels[:, 2:] != blank) & (labels[:, 2:] != labels[:, :-2])
    never = torch.finfo(log_probs.dtype).min / 4
    best = torch.full((B, S), never, device=device)
    best[:, :2] = log_probs[:, 0].gather(1, labels)[:, :2]
    steps = torch.zeros(T, B, S, dtype=torch.uint8, device=device)  # how many states back each frame came from
    scores = torch.full((B, S), never, device=device)  # of the last frame of each utterance
    jumps, fares = _jumps(optional, targets, labels, -never) if optional else (labels, best)
    back = torch.arange(S, device=device) - jumps
    for frame in range(T):
        if frame:
            before = F.pad(best, (1, 0), value=never)[:, :S]
            two_before = F.pad(best, (2, 0), value=never)[:, :S].masked_fill(~skips, never)
            jumped = best.gather(1, jumps) - fares if optional else best
            best, steps[frame] = torch.stack((best, before, two_before)).max(dim=0)
            if optional:
                steps[frame] = torch.where(jumped > best, back, steps[frame]).to(torch.uint8)
                best = torch.maximum(best, jumped)
            best = best + log_probs[:, frame].gather(1, labels)
        scores = torch.where((lengths == frame + 1)[:, None], best, scores)
    rows = zip(scores.cpu(), steps.cpu().transpose(0, 1), lengths.tolist(), sizes, strict=True)
    return [_backtrace(row[:size], row_steps, length, never) for row, row_steps, length, size in rows]


def _jumps(
    optional: Sequence[Sequence[OptionalSymbols]], targets: Sequence[Sequence[int]], labels: Tensor, never: float
) -> tuple[Tensor, Tensor]:
    """Of each state [B, S] the one from which a path gets there that leaves symbols out, and what it pays in nats."""
    jumps, fares = torch.zeros_like(labels), torch.full(labels.shape, never, device=labels.device)
    for row, parts in enumerate(optional):
        for part in parts:
            state, far = 2 * part.end + 1, 2 * (part.end - part.first + 1)
            if part.first > 0 and part.end < len(targets[row]) and far <= LONGEST_JUMP:
                jumps[row, state], fares[row, state] = state - far, part.nats
    return jumps, fares


def _backtrace(scores: Tensor, steps: Tensor, length: int, never: float) -> Alignment | None:
    """Walk one utterance's best path back: scores [S] of its last frame, steps [T, S]."""
    size = len(scores)
    if length == 0:
        return None
    state = size - 1 if size == 1 or scores[-1] >= scores[-2] else size - 2
    total = float(scores[state])
    if total <= never / 2:
        return None
    back = steps.tolist()
    starts, ends = [0] * (size // 2), [0] * (size // 2)
    for frame in range(length - 1, -1, -1):
        if state % 2:
            starts[state // 2] = frame
            ends[state // 2] = max(ends[state // 2], frame + 1)
        state -= back[frame][state]
    return Alignment(tuple(starts), tuple(ends), total / length)
