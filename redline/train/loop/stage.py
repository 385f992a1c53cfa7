"""What the stages that listen have in common: batches to train on, and whole dev utterances to be scored on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from redline.features import pad
from redline.manifest import Utterance
from redline.normalize import normalizer
from redline.train.data.batches import FeatureView, Progress

DEV_BATCH = 8


def rates(references: Sequence[str], hypotheses: Sequence[str], languages: Sequence[str]) -> tuple[float, float]:
    """Character and word error rate in percent, of normalised texts; references without words do not count."""
    import jiwer

    pairs = [
        (said, normalizer(language)(hypothesis))
        for reference, hypothesis, language in zip(references, hypotheses, languages, strict=True)
        if (said := normalizer(language)(reference).strip())
    ]
    if not pairs:
        return 100.0, 100.0
    texts = [one for one, _ in pairs], [other for _, other in pairs]
    return 100 * jiwer.cer(*texts), 100 * jiwer.wer(*texts)


def share_done(say: Callable[[str], None], label: str, total: float) -> Progress:
    """A progress function that says every few seconds how much of something is done."""
    done, started = 0.0, time.monotonic()
    said = started

    def report(amount: float) -> None:
        nonlocal done, said
        done += amount
        now = time.monotonic()
        if now - said > 5:
            said = now
            left = (now - started) * max(0.0, total / done - 1)
            say(f"{label}: {min(1.0, done / total):.0%}, {left:.0f} s left")

    return report


class Timed(Protocol):
    """A batch that knows how long it sounds."""

    @property
    def seconds(self) -> float:
        """Seconds of audio."""
        ...


B_co = TypeVar("B_co", bound=Timed, covariant=True)


class Source(Protocol[B_co]):
    """Where batches come from."""

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[B_co]:
        """The batches of one epoch after the first `skip`; the order depends on the epoch alone."""
        ...


class SpeechStage:
    """Batches of a source, and a dev set in batches of similar length."""

    def __init__(self, source: Source[Timed], dev: Sequence[Utterance], dev_view: FeatureView) -> None:
        self.source = source
        self.dev = sorted((item for item in dev if item.id in dev_view.offsets), key=lambda item: item.duration)
        self.dev_view = dev_view

    @property
    def references(self) -> list[str]:
        """What the dev set says, in the order of `dev_batches`."""
        return [item.text for item in self.dev]

    @property
    def languages(self) -> list[str]:
        """The language of each of them; what has none is taken for English, as the texts are."""
        return [item.language or "en" for item in self.dev]

    def batches(self, epoch: int, skip: int) -> Iterator[Timed]:
        """Training batches of one epoch after the first `skip`."""
        return self.source.epoch(epoch, skip)

    def seconds(self, batch: Timed) -> float:
        """Seconds of audio in a batch."""
        return batch.seconds

    def dev_batches(self, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Features [B, T, 160] and lengths [B] of the dev set."""
        for start in range(0, len(self.dev), DEV_BATCH):
            features, lengths = pad([self.dev_view[item.id] for item in self.dev[start : start + DEV_BATCH]])
            yield features.to(device), lengths.to(device)
