"""What the training loop needs to know of a stage, and what stages on speech have in common."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from redline.features import pad
from redline.manifest import Utterance
from redline.normalize import normalised

if TYPE_CHECKING:
    from redline.train.data.feature_cache import FeatureCache

DEV_BATCH = 8


class EpochSource(Protocol):
    """Where batches come from; each has `seconds`, of its audio or of what it would take to say it.

    In place of a batch there may be a function that gives it, which only the process whose turn it is will call.
    """

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Any]:
        """The batches of one epoch after the first `skip`; the order depends on the epoch alone."""


class TrainingStage(Protocol):
    """An objective with its data, as the loop sees it."""

    name: str
    objective: Any  # a module: batch -> loss and its parts
    source: EpochSource

    def evaluate(self) -> dict[str, float]:
        """Scores of the objective as it stands, on data it does not train on."""


class SpeechStage:
    """A stage with a dev set in batches of similar length."""

    def __init__(self, objective: Any, source: EpochSource, dev: Sequence[Utterance], dev_view: FeatureCache) -> None:
        self.objective, self.source, self.dev_view = objective, source, dev_view
        self.dev = sorted((row for row in dev if row.id in dev_view.offsets), key=lambda row: row.duration)
        self.references = [row.text for row in self.dev]
        self.languages = [row.language or "en" for row in self.dev]  # what has none is taken for English, as texts are

    def dev_batches(self, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Features [B, T, 160] and lengths [B] of the dev set, in the order of `references`."""
        for start in range(0, len(self.dev), DEV_BATCH):
            features, lengths = pad([self.dev_view[row.id] for row in self.dev[start : start + DEV_BATCH]])
            yield features.to(device), lengths.to(device)


def rates(references: Sequence[str], hypotheses: Sequence[str], languages: Sequence[str]) -> tuple[float, float]:
    """Character and word error rate in percent, of normalised texts; references without words do not count."""
    import jiwer

    pairs = [
        (words, normalised(hypothesis, language))
        for reference, hypothesis, language in zip(references, hypotheses, languages, strict=True)
        if (words := normalised(reference, language))
    ]
    if not pairs:
        return 100.0, 100.0
    truth, texts = [list(side) for side in zip(*pairs, strict=True)]
    return 100 * jiwer.cer(truth, texts), 100 * jiwer.wer(truth, texts)


def share_done(say: Callable[[str], None], label: str, total: float) -> Callable[[float], None]:
    """A progress function that says every few seconds how much of something is done."""
    done, started = 0.0, time.monotonic()
    last = started

    def report(amount: float) -> None:
        nonlocal done, last
        done += amount
        now = time.monotonic()
        if now - last > 5:
            last = now
            left = (now - started) * max(0.0, total / done - 1)
            say(f"{label}: {min(1.0, done / total):.0%}, {left:.0f} s left")

    return report
