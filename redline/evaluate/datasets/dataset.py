"""A data set to score, whatever it was read from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from redline import audio
from redline.errors import DataError
from redline.evaluate.metrics.registry import Metric
from redline.manifest import Utterance
from redline.types import Waveform


@dataclass(frozen=True)
class DatasetOptions:
    """Which utterances of a data set are wanted."""

    split: str | None = None
    language: str | None = None  # a code; of what tells no languages: the one that is spoken
    limit: int | None = None


@dataclass(frozen=True)
class Dataset:
    """Utterances with text, how many others were left out, and what loads the recordings that the utterances name."""

    name: str
    utterances: list[Utterance]
    without_text: int = 0
    title: str = ""  # in headings, where it is not the name
    load: Callable[[Path], Waveform] = audio.load
    metrics: tuple[Metric, ...] = ()  # of this data set alone, such as the mean of the sets of a leaderboard


def no_splits(name: str, options: DatasetOptions) -> None:
    """Raise `DataError` where a split is asked for of what has none."""
    if options.split is not None:
        raise DataError(f"{name}: has no splits, but split {options.split} is asked for; leave it out")
