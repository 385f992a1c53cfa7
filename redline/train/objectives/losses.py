"""Losses as pure functions of logits, lengths and targets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def ctc_loss(logits: Tensor, lengths: Tensor, targets: Sequence[Sequence[int]], blank: int) -> Tensor:
    """CTC per target symbol: logits [B, T, V] with lengths [B] -> a scalar.

    An utterance whose targets do not fit its frames counts as zero.
    """
    device = logits.device
    sizes = torch.tensor([len(row) for row in targets], device=device)
    flat = torch.tensor([symbol for row in targets for symbol in row], dtype=torch.long, device=device)
    log_probs = logits.float().log_softmax(dim=-1).transpose(0, 1)  # [T, B, V]
    total = F.ctc_loss(log_probs, flat, lengths, sizes, blank=blank, reduction="sum", zero_infinity=True)
    return total / sizes.sum().clamp(min=1)


def consistency_loss(logits: Tensor, lengths: Tensor, symbols: int) -> Tensor:
    """How far two hearings of the same utterances disagree, per target symbol of both (CR-CTC, arXiv 2410.05101).

    Logits [2B, T, V] with lengths [2B], row i + B hears what row i hears; each is drawn to what the other says, which
    is taken as given.
    """
    log_probs = logits.float().log_softmax(dim=-1)
    others = log_probs.detach().roll(len(logits) // 2, dims=0)
    apart = (others.exp() * (others - log_probs)).sum(dim=-1)  # [2B, T]
    valid = torch.arange(logits.shape[1], device=logits.device)[None, :] < lengths[:, None]
    return apart[valid].sum() / max(1, symbols)


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
    sizes = torch.tensor([len(row) for row in targets], device=slot_logits.device)
    flat = torch.tensor([symbol for row in targets for symbol in row], dtype=torch.long, device=slot_logits.device)
    log_probs = slot_logits.float().log_softmax(dim=-1)  # [B, S, V]
    ctc = F.ctc_loss(
        log_probs.transpose(0, 1), flat, slot_lengths, sizes, blank=blank, reduction="sum", zero_infinity=True
    )
    valid = torch.arange(slots.shape[1], device=slots.device)[None, :] < slot_lengths[:, None]
    copy = -log_probs.gather(-1, slots[..., None]).squeeze(-1)[valid].mean()
    return ctc / slot_lengths.sum() + copy_weight * copy
