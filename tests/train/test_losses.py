"""Losses: CTC and NLE."""

from __future__ import annotations

import torch

from redline.decoding.slots import with_slots
from redline.train.objectives.losses import ctc_loss, nle_loss


def test_ctc_loss_prefers_the_spelled_target() -> None:
    logits = torch.full((1, 6, 4), -5.0)
    for step, label in enumerate([1, 0, 2, 0, 3, 0]):
        logits[0, step, label] = 5.0
    lengths = torch.tensor([6])
    right, wrong = (ctc_loss(logits, lengths, [target], 0) for target in ([1, 2, 3], [3, 2, 1]))
    assert right < 0.01 < wrong


def test_ctc_loss_ignores_padding() -> None:
    logits = torch.randn(2, 9, 5)
    lengths = torch.tensor([9, 5])
    before = ctc_loss(logits, lengths, [[1, 2], [3]], 0)
    logits[1, 5:] = 100.0
    torch.testing.assert_close(ctc_loss(logits, lengths, [[1, 2], [3]], 0), before)


def test_nle_loss_is_smallest_for_the_reference_and_likes_the_draft() -> None:
    blank, draft, target = 5, [1, 2], [1, 3]
    slots = torch.tensor([with_slots(draft, blank)])
    lengths = torch.tensor([slots.shape[1]])

    def logits(path: list[int]) -> torch.Tensor:
        rows = torch.full((1, slots.shape[1], 6), -8.0)
        for slot, label in enumerate(path):
            rows[0, slot, label] = 8.0
        return rows

    corrected = [5, 1, 5, 3, 5, 5, 5, 5]
    copied = slots[0].tolist()
    assert nle_loss(logits(corrected), slots, lengths, [target], blank) < nle_loss(
        logits(copied), slots, lengths, [target], blank
    )
    # Between two spellings of the same text, the copy term prefers the one nearer to the input.
    moved = [5, 5, 1, 3, 5, 5, 5, 5]
    assert nle_loss(logits(corrected), slots, lengths, [target], blank) < nle_loss(
        logits(moved), slots, lengths, [target], blank
    )
