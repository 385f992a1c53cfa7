"""Stage (c): a Granite language model that learns from text alone.

Two objectives: `causal` predicts the next token, as every language model starts; `redline` already edits, without
audio: a damaged copy of the text stands in the slots and CTC asks for the text itself. The second is what a small
model behind an editor needs, because its context is then bidirectional from the first step.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redline.decoding.ctc import collapse
from redline.decoding.slots import with_slots
from redline.errors import ConfigError, DataError
from redline.files import settle
from redline.models.granite import GraniteLM
from redline.punctuation import ENDS
from redline.tokenizer import Tokenizer
from redline.train.data.batches import Letters, Progress, written
from redline.train.data.corrupt import CorruptionOptions, corrupt
from redline.train.loop.stage import rates
from redline.train.objectives.losses import nle_loss


@dataclass(frozen=True)
class TextOptions:
    """What the language model reads and how."""

    objective: Literal["redline", "causal"] = "redline"
    words: tuple[int, int] = (3, 40)
    """Shortest and longest excerpt."""
    batch_tokens: int = 4096
    copy_weight: float = 0.02
    held_out_excerpts: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if self.objective not in ("redline", "causal"):
            raise ConfigError(f"objective is {self.objective!r}; allowed are 'redline' and 'causal'")


def read_books(folder: Path, cache: Path, progress: Progress | None = None, letters: Letters = "a-z") -> list[str]:
    """The paragraphs of every .txt file under a folder in written form, kept in `cache` for the next run."""
    files = sorted(folder.rglob("*.txt")) if folder.is_dir() else [folder]
    if not files or not all(file.is_file() for file in files):
        raise DataError(f"{folder}: no .txt files in it; name a folder of plain text, one paragraph a line")
    stamp = hashlib.sha256("".join(f"{file}{file.stat().st_size}" for file in files).encode()).hexdigest()[:12]
    kept = cache / (f"written-{stamp}.txt" if letters == "a-z" else f"written-{letters}-{stamp}.txt")
    if not kept.exists():
        cache.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".partial")
        with partial.open("w", encoding="utf-8") as out:
            for file in files:
                for line in file.read_text(encoding="utf-8").splitlines():
                    # A line with digits would be read aloud in words that are not on the page.
                    if not any(char.isdigit() for char in line) and (words := written(line, letters)):
                        out.write(words + "\n")
                if progress:
                    progress(1.0)
        settle(partial, kept)
    return kept.read_text(encoding="utf-8").splitlines()


@dataclass(frozen=True)
class TextBatch:
    """Excerpts of text and what a damaged copy of each looks like."""

    texts: tuple[str, ...]
    drafts: tuple[str, ...]


class LMObjective(nn.Module):
    """Batch of text -> loss of the chosen objective."""

    def __init__(self, model: GraniteLM, tokenizer: Tokenizer, options: TextOptions, blank: int) -> None:
        super().__init__()
        self.language_model = model
        self.tokenizer = tokenizer
        self.options = options
        self.blank = blank

    def forward(self, batch: TextBatch) -> tuple[Tensor, dict[str, Tensor]]:
        targets = [self.tokenizer.encode(text) for text in batch.texts]
        if self.options.objective == "causal":
            return self._causal(targets), {}
        slots, lengths = self.slots(batch.drafts)
        logits = self.language_model(slots, lengths, causal=False)
        return nle_loss(logits, slots, lengths, targets, self.blank, self.options.copy_weight), {}

    def slots(self, drafts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Damaged texts -> slots [B, K] and lengths [B]."""
        rows = [torch.tensor(with_slots(self.tokenizer.encode(draft), self.blank)) for draft in drafts]
        lengths = torch.tensor([len(row) for row in rows])
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.blank)
        device = next(self.language_model.parameters()).device
        return ids.to(device), lengths.to(device)

    def _causal(self, targets: Sequence[Sequence[int]]) -> Tensor:
        rows = [torch.tensor([self.blank, *row, self.blank]) for row in targets]
        lengths = torch.tensor([len(row) - 1 for row in rows])
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
        inputs = ids[:, :-1].clamp(min=0)
        device = next(self.language_model.parameters()).device
        logits = self.language_model(inputs.to(device), lengths.to(device), causal=True)  # [B, L, V]
        return F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten().to(device), ignore_index=-100)


def excerpt(text: str, words: tuple[int, int], draw: random.Random, sentences: float = 0.0) -> str:
    """A random run of words of a written paragraph, between the two sizes or as long as the paragraph.

    The share `sentences` of the runs begins where a sentence does, and as many end with one, where any such run fits.
    """
    shortest, longest = words
    found = text.split()
    if sentences and (runs := _sentences(found, words, draw.random() < sentences, draw.random() < sentences)):
        start, end = draw.choice(runs)
        return " ".join(found[start:end])
    size = min(len(found), draw.randint(shortest, longest))
    start = draw.randint(0, len(found) - size)
    return " ".join(found[start : start + size])


def _sentences(words: Sequence[str], sizes: tuple[int, int], begins: bool, ends: bool) -> list[tuple[int, int]]:
    """Runs of words that begin where a sentence does, end with one, or both; where none does both, those with one."""
    after = [at + 1 for at, word in enumerate(words) if word[-1] in ENDS]
    lengths = range(sizes[0], sizes[1] + 1)
    opened = [(start, start + size) for start in (0, *after) for size in lengths if start + size <= len(words)]
    closed = [(end - size, end) for end in after for size in lengths if size <= end]
    if begins and ends:
        return sorted(set(opened) & set(closed)) or opened + closed
    return opened if begins else closed if ends else []


class LMStage:
    """Excerpts of books in an order that depends on the seed and the epoch alone."""

    name = "language model"

    def __init__(self, objective: LMObjective, paragraphs: Sequence[str], corruption: CorruptionOptions) -> None:
        self.objective = objective
        self.corruption = corruption
        order = np.random.default_rng(objective.options.seed).permutation(len(paragraphs))
        held = min(objective.options.held_out_excerpts, len(paragraphs) // 10)
        self.held_out = [paragraphs[index] for index in order[:held]]
        self.paragraphs = [paragraphs[index] for index in order[held:]]

    def batches(self, epoch: int, skip: int) -> Iterator[TextBatch]:
        options = self.objective.options
        draw = random.Random(options.seed * 7919 + epoch)
        order = list(range(len(self.paragraphs)))
        draw.shuffle(order)
        # Sorted inside a window of excerpts, so that a batch has little padding but any batch may come next.
        pool = 2048
        number = 0
        for start in range(0, len(order), pool):
            excerpts = [
                excerpt(self.paragraphs[index], self.objective.options.words, draw)
                for index in order[start : start + pool]
            ]
            excerpts.sort(key=len)
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
                drafts = tuple(corrupt(text, self.corruption, draw) for text in group)
                if number >= skip:
                    yield TextBatch(tuple(group), drafts)
                number += 1

    def seconds(self, batch: TextBatch) -> float:
        """Seconds it would take to say the batch, at 15 letters a second."""
        return sum(map(len, batch.texts)) / 15

    def evaluate(self) -> dict[str, float]:
        """Word errors of damaged held-out text before and after editing, or the loss of the causal objective."""
        draw = random.Random(1)
        texts = [excerpt(text, self.objective.options.words, draw) for text in self.held_out]
        texts = sorted((text for text in texts if len(text.split()) > 1), key=len)
        drafts = [corrupt(text, self.corruption, draw) for text in texts]
        losses: list[float] = []
        edited: list[str] = []
        for start in range(0, len(texts), 25):
            part = slice(start, start + 25)
            losses.append(float(self.objective(TextBatch(tuple(texts[part]), tuple(drafts[part])))[0]))
            if self.objective.options.objective == "redline":
                slots, lengths = self.objective.slots(drafts[part])
                best = self.objective.language_model(slots, lengths, causal=False).argmax(-1).tolist()
                for row, length in zip(best, lengths.tolist(), strict=True):
                    edited.append(self.objective.tokenizer.decode(collapse(row[:length], self.objective.blank)))
        scores = {"held_out_loss": sum(losses) / len(losses)}
        if edited:
            tidy = [text.strip() for text in edited]
            languages = [""] * len(texts)
            scores["damaged_wer"] = rates(texts, drafts, languages)[1]
            scores["edited_wer"] = rates(texts, tidy, languages)[1]
        return scores
