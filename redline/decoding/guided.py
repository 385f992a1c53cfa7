"""Speaker tags written into a text that is given: the draft's words, the language model's voices.

A language model that hears who speaks may still lose its way in a long text. Here it reads the encoder's draft, word by
word, and is only asked where a tag belongs and which: greedy decoding in which every other token is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from redline.decoding.generate import Generation, Step


@dataclass(frozen=True)
class Tags:
    """Ids of the tags that may be written before a word, in the order of the speakers' numbers."""

    speakers: tuple[int, ...]
    speaking: int | None = None
    """The tag of who spoke before the text; None where nobody did."""
    threshold: float = 0.1
    """The probability from which another speaker is believed; tags are rarer than words, so it is low."""


class _Guided:
    """One text while its tags are written."""

    def __init__(self, draft: Sequence[int], starts: Sequence[bool], tags: Tags) -> None:
        self.draft, self.starts, self.tags = draft, starts, tags
        self.at = 0  # the next token of the draft
        self.asked = False  # whether a tag was thought of before it
        self.speaker = tags.speaking
        self.ids: list[int] = []
        self.log_probs: list[float] = []

    @property
    def done(self) -> bool:
        return self.at == len(self.draft)

    def next(self, log_probs: Tensor) -> int:
        """The next token, by log probabilities [V]."""
        id = self._tag(log_probs) if self.starts[self.at] and not self.asked else None
        self.asked = id is not None
        if id is None:
            id = self.draft[self.at]
            self.at += 1
        self.ids.append(id)
        self.log_probs.append(float(log_probs[id]))
        return id

    def _tag(self, log_probs: Tensor) -> int | None:
        if self.speaker is None:  # the first speaker is number one
            self.speaker = self.tags.speakers[0]
            return self.speaker
        others = [one for one in self.tags.speakers if one != self.speaker]
        if not others or float(log_probs[others].logsumexp(0).exp()) < self.tags.threshold:
            return None
        self.speaker = max(others, key=lambda one: float(log_probs[one]))
        return self.speaker


def write_tags(
    first_logits: Tensor, step: Step, drafts: Sequence[Sequence[int]], starts: Sequence[bool], tags: Tags
) -> list[Generation]:
    """Drafts with tags: logits [B, V] that follow each prompt, B drafts of ids -> B generations.

    `starts` tells of every id whether it begins a word. A row leaves the batch when its draft is used up.
    """
    texts = [_Guided(draft, [starts[id] or not at for at, id in enumerate(draft)], tags) for draft in drafts]
    places = [place for place, text in enumerate(texts) if not text.done]
    logits = first_logits[places]
    before: Tensor | None = torch.tensor(places, device=logits.device)  # the prefill's rows
    while places:
        log_probs = logits.float().log_softmax(dim=-1).cpu()
        ids = torch.tensor([texts[place].next(row) for place, row in zip(places, log_probs, strict=True)])
        going = [row for row, place in enumerate(places) if not texts[place].done]
        if not going:
            break
        kept = torch.tensor(going, device=logits.device)
        logits = step(ids.to(logits.device)[kept], kept if before is None else before[kept])
        before = None
        places = [places[row] for row in going]
    return [Generation(tuple(text.ids), "end", tuple(text.log_probs)) for text in texts]
