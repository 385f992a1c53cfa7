"""Losses as pure functions of logits, lengths and targets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Terms = dict[str, tuple[float, Tensor]]
"""Parts of a loss by name, each with its weight."""


def weighted(terms: Terms) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of the parts of a loss, and the parts for the log."""
    loss = torch.stack([weight * part for weight, part in terms.values()]).sum()
    return loss, {name: part.detach() for name, (_, part) in terms.items()}


def ctc_loss(logits: Tensor, lengths: Tensor, targets: Sequence[Sequence[int]], blank: int) -> Tensor:
    """CTC per target symbol: logits [B, T, V] with lengths [B] -> a scalar.

    An utterance whose targets do not fit its frames counts as zero.
    """
    sizes = torch.tensor([len(row) for row in targets], device=logits.device)
    return _ctc_sum(logits.float().log_softmax(dim=-1), lengths, targets, blank) / sizes.sum().clamp(min=1)


def nle_loss(
    slot_logits: Tensor,
    slots: Tensor,
    slot_lengths: Tensor,
    targets: Sequence[Sequence[int]],
    blank: int,
    copy_weight: float = 0.02,
) -> Tensor:
    """The loss of the editing pass: CTC over the slots, plus cross-entropy towards the input slots (arXiv 2603.08397).

    Slot logits [B, S, V], input slots [B, S]. The CTC sum is divided by the number of slots, the copy term is a mean
    over slots: the reading of the released code, in which 0.02 keeps its meaning for every length.
    """
    log_probs = slot_logits.float().log_softmax(dim=-1)  # [B, S, V]
    ctc = _ctc_sum(log_probs, slot_lengths, targets, blank)
    valid = torch.arange(slots.shape[1], device=slots.device)[None, :] < slot_lengths[:, None]
    copy = -log_probs.gather(-1, slots[..., None]).squeeze(-1)[valid].mean()
    return ctc / slot_lengths.sum() + copy_weight * copy


def _ctc_sum(log_probs: Tensor, lengths: Tensor, targets: Sequence[Sequence[int]], blank: int) -> Tensor:
    device = log_probs.device
    sizes = torch.tensor([len(row) for row in targets], device=device)
    flat = torch.tensor([symbol for row in targets for symbol in row], dtype=torch.long, device=device)
    return F.ctc_loss(log_probs.transpose(0, 1), flat, lengths, sizes, blank=blank, reduction="sum", zero_infinity=True)
