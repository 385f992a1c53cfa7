"""What the recognizers have in common."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from redline import features
from redline.decoding.word_times import LazyWordTimes
from redline.errors import RecognitionError, RedlineError, UnsupportedTaskError
from redline.models.conformer import EncoderOutput
from redline.types import SAMPLE_RATE, Hypothesis, Request, Task, Waveform

_log = logging.getLogger(__name__)
M = TypeVar("M", bound=nn.Module)


class Holder(Generic[M]):
    """What has a model, wherever that is and in whatever precision."""

    model: M

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return next(self.model.parameters()).dtype


def check_language(name: str, language: str | None, known: Sequence[str]) -> None:
    """Raises `UnsupportedTaskError` for a language that a model does not know."""
    if language is not None and language not in known:
        raise UnsupportedTaskError(f"{name} does not know the language {language!r}; it knows {', '.join(known)}")


@contextmanager
def memory_errors(clips: Sequence[Waveform]) -> Iterator[None]:
    """Turn running out of memory, which fewer or shorter clips may not, into `RecognitionError`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # Memory of the CPU has no error of its own in PyTorch.
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "can't allocate memory" not in str(error):
            raise
        seconds = sum(clip.duration for clip in clips)
        raise RecognitionError(
            f"out of memory on {len(clips)} clips of {seconds:.1f} s together; free some, or take a smaller model"
        ) from error


def check_numbers(values: Tensor, dtype: torch.dtype) -> None:
    """Raises `RecognitionError` where a model has left the numbers: the best of them would still be called a token."""
    if not bool(values.isfinite().all()):
        raise RecognitionError(
            f"the model calculates beyond the numbers of {str(dtype).removeprefix('torch.')} on this clip; take "
            "bfloat16 or float32, and if it does so in each of them, the checkpoint is damaged"
        )


def answer_requests(
    requests: Sequence[Request], answer: Callable[[Sequence[Waveform], Task], list[Hypothesis]]
) -> list[Hypothesis | RedlineError]:
    """Requests answered task by task; when clips fail together each is tried alone, so a bad one harms only itself."""
    answers: dict[int, Hypothesis | RedlineError] = {}
    groups: dict[Task, list[int]] = {}
    for place, request in enumerate(requests):
        groups.setdefault(request.task, []).append(place)
    for task, places in groups.items():
        try:
            answers |= dict(zip(places, answer([requests[place].clip for place in places], task), strict=True))
        except RedlineError as error:
            _log.debug("%d clips failed", len(places), exc_info=error)
            for place in places:
                answers[place] = error if len(places) == 1 else answer_requests([requests[place]], answer)[0]
    return [answers[place] for place in range(len(requests))]


def batches(clips: Sequence[Waveform], batch_s: float) -> Iterator[list[Waveform]]:
    """Neighbours as long as a batch may be."""
    batch: list[Waveform] = []
    for clip in clips:
        longest = max(len(one.samples) for one in [*batch, clip])
        if batch and (len(batch) + 1) * longest > batch_s * SAMPLE_RATE:
            yield batch
            batch = []
        batch.append(clip)
    if batch:
        yield batch


def timings(texts: Sequence[str], encoded: EncoderOutput, subsampling: int, before: str = "") -> list[LazyWordTimes]:
    """When the words of each clip's text are said, for whoever asks; `before` is said first in each."""
    logits, lengths, frame_s = characters(encoded, subsampling)
    return [
        LazyWordTimes(text, row[:length], frame_s, before)
        for text, row, length in zip(texts, logits, lengths.tolist(), strict=True)
    ]


def characters(encoded: EncoderOutput, subsampling: int) -> tuple[Tensor, Tensor, float]:
    """What the words are aligned with: character logits [B, T, C], lengths [B], and the seconds of a frame.

    Of so many frames of 20 ms the encoder makes one.
    """
    return encoded.char_logits, encoded.lengths, subsampling / features.FRAME_RATE


def without(heard: Hypothesis, count: int) -> Hypothesis:
    """The hypothesis without its first words, which a prefix gave."""
    if not count:
        return heard
    turns, left = [], count
    for turn in heard.turns:
        said = turn.text.split()
        if left < len(said):
            first = heard.words[sum(len(one.text.split()) for one in heard.turns[: heard.turns.index(turn)]) + left]
            turns.append(replace(turn, start=first.start, text=" ".join(said[left:])))
        left = max(0, left - len(said))
    words = heard.words[count:]
    return replace(heard, text=" ".join(word.text for word in words), words=words, turns=tuple(turns))


class Once:
    """Texts that are made when they are first asked for: hardly a clip makes a model go round in circles."""

    def __init__(self, make: Callable[[], list[str]]) -> None:
        self.make = make
        self.made: list[str] | None = None

    def __call__(self) -> list[str]:
        if self.made is None:
            self.made = self.make()
        return self.made
