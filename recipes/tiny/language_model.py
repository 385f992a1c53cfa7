"""A language model that learns to edit from text alone, before there is an encoder.

A damaged copy of a text stands in the slots and CTC asks for the text itself. A small model behind an editor needs just
this, because its context is then bidirectional from the first step.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from redline.decoding.ctc import collapse
from redline.decoding.slots import with_slots
from redline.models.granite import GraniteLM
from redline.models.heads import PunctuationHead
from redline.punctuation import strip_punctuation
from redline.tokenizer import Tokenizer
from redline.train.loop.stage import rates
from redline.train.objectives.losses import Terms, nle_loss, weighted
from redline_recipes.tiny.books import Sentences, excerpt
from redline_recipes.tiny.corruption import CorruptionOptions, corrupt
from redline_recipes.tiny.punctuation import punctuation_loss

POOL = 2048
"""Excerpts that are sorted together: a batch has little padding, but any batch may come next."""
DEV_EXCERPTS = 25
"""In a batch."""


@dataclass(frozen=True)
class TextOptions:
    """What the language model reads and how."""

    words: tuple[int, int] = (3, 40)  # shortest and longest excerpt
    batch_tokens: int = 4096
    copy_weight: float = 0.02
    sentences: float = 0.0  # share of the excerpts that are whole sentences
    held_out_excerpts: int = 200
    seed: int = 0


@dataclass(frozen=True)
class TextBatch:
    """Excerpts of text and a damaged copy of each."""

    texts: tuple[str, ...]
    drafts: tuple[str, ...]
    written: tuple[str, ...]  # the texts in written form

    @property
    def seconds(self) -> float:
        """How long it would take to say it, at 15 letters a second."""
        return sum(map(len, self.texts)) / 15


class LMObjective(nn.Module):
    """Batch of text -> NLE loss on slots without audio, and with a head for them that of capitals and marks."""

    def __init__(
        self,
        model: GraniteLM,
        tokenizer: Tokenizer,
        options: TextOptions,
        blank: int,
        punctuation_head: PunctuationHead | None = None,
        punctuation_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.language_model = model
        self.punctuation_head = punctuation_head
        self.punctuation_weight = punctuation_weight
        self.tokenizer = tokenizer
        self.options = options
        self.blank = blank

    def forward(self, batch: TextBatch) -> tuple[Tensor, dict[str, Tensor]]:
        targets = [self.tokenizer.encode(text) for text in batch.texts]
        slots, lengths = self.slots(batch.drafts)
        hidden = self.language_model.hidden(self.language_model.embed(slots), lengths, causal=False)
        logits = self.language_model.logits(hidden)
        terms: Terms = {"edit": (1.0, nle_loss(logits, slots, lengths, targets, self.blank, self.options.copy_weight))}
        if self.punctuation_head is not None and self.punctuation_weight:
            scores, written = self.punctuation_head(hidden), batch.written
            loss = punctuation_loss(scores, logits.detach(), lengths, written, self.tokenizer, self.blank)
            terms["punctuation"] = (self.punctuation_weight, loss)
        return weighted(terms)

    def slots(self, drafts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Damaged texts -> slots [B, K] and lengths [B]."""
        rows = [torch.tensor(with_slots(self.tokenizer.encode(draft), self.blank)) for draft in drafts]
        lengths = torch.tensor([len(row) for row in rows])
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.blank)
        device = next(self.language_model.parameters()).device
        return ids.to(device), lengths.to(device)


class LMStage:
    """Excerpts of books in an order that depends on the seed and the epoch alone."""

    name = "language model"

    def __init__(self, objective: LMObjective, paragraphs: Sequence[str], corruption: CorruptionOptions) -> None:
        """`paragraphs` are in written form."""
        self.source, self.objective, self.corruption = self, objective, corruption
        order = np.random.default_rng(objective.options.seed).permutation(len(paragraphs))
        held = min(objective.options.held_out_excerpts, len(paragraphs) // 10)
        self.held_out = [paragraphs[index] for index in order[:held]]
        self.paragraphs = [paragraphs[index] for index in order[held:]]
        options = objective.options
        self.whole = Sentences(self.paragraphs if options.sentences else [], options.words)

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[TextBatch]:
        """The batches of one epoch after the first `skip`."""
        options = self.objective.options
        draw = random.Random(options.seed * 7919 + epoch)
        order = list(range(len(self.paragraphs)))
        draw.shuffle(order)
        number = 0
        for start in range(0, len(order), POOL):
            part = order[start : start + POOL]
            excerpts = sorted((self._excerpt(self.paragraphs[index], draw) for index in part), key=len)
            groups: list[list[str]] = [[]]
            letters = 0
            for text in excerpts:
                # About two slots for every three letters of text.
                if groups[-1] and letters + len(text) > options.batch_tokens * 3 // 2:
                    groups.append([])
                    letters = 0
                groups[-1].append(text)
                letters += len(text)
            draw.shuffle(groups)
            for group in groups:
                texts = tuple(map(strip_punctuation, group))
                drafts = tuple(corrupt(text, self.corruption, draw) for text in texts)
                if number >= skip:
                    yield TextBatch(texts, drafts, tuple(group))
                number += 1

    def _excerpt(self, paragraph: str, draw: random.Random) -> str:
        words = self.objective.options.words
        if draw.random() < self.objective.options.sentences:
            return self.whole.draw(range(words[0], words[1] + 1), draw) or excerpt(paragraph, words, draw)
        return excerpt(paragraph, words, draw)

    def evaluate(self) -> dict[str, float]:
        """Loss on damaged held-out text, and its word errors before and after editing, in percent."""
        draw, objective = random.Random(1), self.objective
        forms = [excerpt(text, objective.options.words, draw) for text in self.held_out]
        forms = sorted((text for text in forms if len(text.split()) > 1), key=len)
        texts = [strip_punctuation(text) for text in forms]
        drafts = [corrupt(text, self.corruption, draw) for text in texts]
        losses: list[float] = []
        edited: list[str] = []
        for start in range(0, len(texts), DEV_EXCERPTS):
            part = slice(start, start + DEV_EXCERPTS)
            losses.append(float(objective(TextBatch(tuple(texts[part]), tuple(drafts[part]), tuple(forms[part])))[0]))
            slots, lengths = objective.slots(drafts[part])
            best = objective.language_model(slots, lengths, causal=False).argmax(-1).tolist()
            for row, length in zip(best, lengths.tolist(), strict=True):
                edited.append(objective.tokenizer.decode(collapse(row[:length], objective.blank)).strip())
        languages = [""] * len(texts)
        return {
            "held_out_loss": sum(losses) / len(losses),
            "damaged_wer": rates(texts, drafts, languages)[1],
            "edited_wer": rates(texts, edited, languages)[1],
        }
