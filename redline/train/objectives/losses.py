"""Losses as pure functions of logits, lengths and targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from redline.models.conformer import ConformerEncoder, EncoderOutput
from redline.models.draft_head import CHAR_BLANK
from redline.tokenizer import Tokenizer

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
    symbols = max(1, sum(map(len, targets)))
    return _ctc_sum(logits.float().log_softmax(dim=-1), lengths, targets, blank) / symbols


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


@dataclass(frozen=True)
class CtcWeights:
    """Weights of an encoder's three CTC losses."""

    top: float = 1.0
    middle: float = 0.3
    tokens: float = 0.4


def encoder_terms(
    encoder: ConformerEncoder, out: EncoderOutput, texts: Sequence[str], tokenizer: Tokenizer, weights: CtcWeights
) -> Terms:
    """CTC over characters at the top and the middle, and over tokens on pooled frames, of the texts of B clips.

    A row of the character head is a code point; characters without a row are left out.
    """
    assert encoder.out_bpe is not None
    chars = [[ord(char) for char in text if 0 < ord(char) < encoder.config.output_dim] for text in texts]
    tokens = [tokenizer.encode(text) for text in texts]
    token_logits, windows = encoder.out_bpe(out)  # [B, W, V], [B]
    return {
        "top": (weights.top, ctc_loss(out.char_logits, out.lengths, chars, CHAR_BLANK)),
        "middle": (weights.middle, ctc_loss(out.mid_logits, out.lengths, chars, CHAR_BLANK)),
        "tokens": (weights.tokens, ctc_loss(token_logits, windows, tokens, encoder.config.blank_token_id)),
    }
