"""Editing a draft in slots: e x1 e x2 e ... xN e, one prediction per slot (arXiv 2603.08397).

Slot 2i + 1 holds draft token i and can keep, replace or delete it; slot 2i is empty and can insert a token before draft
token i. The predictions are read like a CTC path: neighbouring repeats merge, blanks drop.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, groupby, pairwise

import torch
from torch import Tensor

from redline.decoding.align import Alignment
from redline.punctuation import MARKS, Punctuation
from redline.types import Edit

MIN_SLOTS = 8


def with_slots(draft: Sequence[int], blank: int, minimum: int = MIN_SLOTS) -> list[int]:
    """Put an empty slot (the blank) around every draft token, and more at the end up to `minimum` slots."""
    slots = [blank] * max(2 * len(draft) + 1, minimum)
    slots[1 : 2 * len(draft) : 2] = draft
    return slots


def slot_batch(drafts: Sequence[Sequence[int]], blank: int, minimum: int = MIN_SLOTS) -> tuple[Tensor, Tensor]:
    """Slots of B drafts [B, K], padded with the blank, and lengths [B]."""
    rows = [torch.tensor(with_slots(draft, blank, minimum)) for draft in drafts]
    lengths = torch.tensor([len(row) for row in rows])
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=blank), lengths


def choose(
    slots: Tensor, log_probs: Tensor, other_ids: Tensor, other_log_probs: Tensor, keep_bias: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    """Keep what stands in each slot, or take the likeliest other id: all [B, K] -> ids, log probabilities [B, K].

    `keep_bias` (nats) is added to the slot's own log probability: the margin that an edit needs.
    """
    keeps = log_probs + keep_bias >= other_log_probs
    return torch.where(keeps, slots, other_ids), torch.where(keeps, log_probs, other_log_probs)


def sound_scores(
    log_probs: Tensor, alignment: Alignment | None, draft: Sequence[int], slots: int, blank: int
) -> Tensor:
    """How much likelier the draft head hears each id in each slot than what stands there, in nats.

    Log probabilities [W, V] of a clip's windows, and the path of its draft through them -> [slots, V]. A token is heard
    in its own windows, an empty slot in those between two tokens; where there are none, nothing else can be heard.
    """
    scores = torch.full((slots, log_probs.shape[1]), -torch.inf, device=log_probs.device)
    scores[:, blank] = 0.0
    if alignment is None:
        scores[torch.arange(len(draft)) * 2 + 1, list(draft)] = 0.0
        return scores
    borders = (0, *chain(*zip(alignment.starts, alignment.ends, strict=True)), len(log_probs))
    for slot, (start, end) in enumerate(pairwise(borders)):
        if start < end:
            against_draft = log_probs[start:end] - log_probs[start:end, draft[slot // 2] if slot % 2 else blank, None]
            scores[slot] = against_draft.amax(dim=0)
            scores[slot, blank] = against_draft[:, blank].sum()
    return scores


def punctuate(logits: Tensor) -> list[list[Punctuation]]:
    """The likeliest casing and mark of the word in each slot: logits [B, K, cases + marks] -> B lists of K."""
    cases, marks = logits[..., : -len(MARKS)].argmax(dim=-1), logits[..., -len(MARKS) :].argmax(dim=-1)
    rows = torch.stack((cases, marks), dim=-1).tolist()
    return [[Punctuation(bool(case), MARKS[mark]) for case, mark in row] for row in rows]


def place(draft: Sequence[int], path: Sequence[int], blank: int) -> list[int | None]:
    """Give each token of the final text one slot: the token of slot j, or None where slot j adds nothing.

    A run of equal predictions makes one token. It belongs to the first slot of the run that keeps its draft token, else
    to the first that holds a draft token (a replacement), else to the first empty one (an insertion).
    """
    placed: list[int | None] = [None] * len(path)
    for label, members in groupby(range(len(path)), key=lambda slot: path[slot]):
        if label == blank:
            continue
        run = list(members)
        drafted = [slot for slot in run if slot % 2 == 1 and slot // 2 < len(draft)]
        kept = [slot for slot in drafted if draft[slot // 2] == label]
        placed[(kept or drafted or run)[0]] = label
    return placed


def edits(
    draft: Sequence[int], path: Sequence[int], blank: int, before: Sequence[str], after: Sequence[str]
) -> list[Edit]:
    """What editing did to the draft, in order: one edit per draft token, and one per insertion.

    `path` is the chosen label of each slot; `before` and `after` are the decoded pieces of the draft and of the final
    text as it is written. The `draft` strings of the edits join to the draft's text and the `text` strings to the
    final text.
    """
    drafted, written = iter(before), iter(after)
    result = []
    for slot, label in enumerate(place(draft, path, blank)):
        at = min(slot // 2, len(draft))
        text = "" if label is None else next(written)
        if slot % 2 and slot // 2 < len(draft):
            old = next(drafted)
            same = label == draft[at] and text == old
            result.append(Edit("keep" if same else "replace" if text else "delete", old, text, at))
        elif label is not None:
            result.append(Edit("insert", "", text, at))
    return result
