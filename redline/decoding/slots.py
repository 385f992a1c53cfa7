"""Editing a draft in slots: e x1 e x2 e ... xN e, one prediction per slot (arXiv 2603.08397).

Slot 2i + 1 holds draft token i and can keep, replace or delete it; slot 2i is empty and can insert a token before draft
token i. The predictions are read like a CTC path: neighbouring repeats merge, blanks drop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from redline.decoding.ctc import collapse
from redline.types import Edit

MIN_SLOTS = 8


def with_slots(draft: Sequence[int], blank: int, minimum: int = MIN_SLOTS) -> list[int]:
    """Put an empty slot (the blank) around every draft token, and more at the end up to `minimum` slots."""
    slots = [blank] * max(2 * len(draft) + 1, minimum)
    slots[1 : 2 * len(draft) : 2] = draft
    return slots


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
    draft: Sequence[int],
    path: Sequence[int],
    blank: int,
    pieces: Callable[[Sequence[int]], Sequence[str]],
    written: Sequence[str] | None = None,
) -> list[Edit]:
    """What the editor did to the draft, in order: one edit per draft token, and one per insertion.

    `path` is the best label of each slot; `pieces` decodes ids to one string per id, which together are the whole text;
    `written` are the pieces of the final text where they are written otherwise than they are spoken.
    The `draft` strings of the edits join to the draft's text and the `text` strings to the final text.
    """
    assert len(path) >= 2 * len(draft) + 1, f"{len(path)} slots cannot hold {len(draft)} draft tokens"
    before = iter(pieces(draft))
    after = iter(pieces(collapse(path, blank)) if written is None else written)
    done = []
    for slot, label in enumerate(place(draft, path, blank)):
        at, occupied = divmod(slot, 2)
        text = "" if label is None else next(after)
        if occupied and at < len(draft):
            drafted = next(before)
            if label is None:
                done.append(Edit("delete", drafted, "", at))
            else:
                same = label == draft[at] and (written is None or text == drafted)
                done.append(Edit("keep" if same else "replace", drafted, text, at))
        elif label is not None:
            done.append(Edit("insert", "", text, min(at, len(draft))))
    return done


def confidences(slot_logits: Tensor, path: Sequence[int]) -> Tensor:
    """The probability of the label that each slot got: logits [K, V], path of K -> [K] float32.

    Slot 2i + 1 is that of draft token i.
    """
    chosen = torch.tensor(path, dtype=torch.int64, device=slot_logits.device)
    return torch.softmax(slot_logits.float(), dim=-1).gather(-1, chosen[:, None])[:, 0]
