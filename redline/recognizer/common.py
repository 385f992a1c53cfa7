"""What the recognizers have in common."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from redline.decoding.word_times import LazyWordTimes, scored_word_times, timing_notices
from redline.errors import RecognitionError, RedlineError, UnsupportedTaskError
from redline.models.conformer import EncoderOutput
from redline.threads import check_fork
from redline.types import Hypothesis, Request, Waveform

_log = logging.getLogger(__name__)
_M = TypeVar("_M", bound=nn.Module)
_P = TypeVar("_P")
Answers = list[Hypothesis | RedlineError]


class Holder(Generic[_M]):
    """The device and precision of a recognizer's model."""

    model: _M

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


def answer_requests(
    requests: Sequence[Request],
    prepare: Callable[[Request], _P],
    answer: Callable[[list[Request], list[_P]], Answers],
) -> Answers:
    """One answer per request, in order: what `prepare` refuses is its own error, the others are one batch.

    A batch that fails as a whole, because memory runs out, is halved until the error is that of one request.
    """
    answers: dict[int, Hypothesis | RedlineError] = {}
    prepared: dict[int, _P] = {}
    for place, request in enumerate(requests):
        try:
            check_fork()
            prepared[place] = prepare(request)
        except RedlineError as error:
            answers[place] = error

    def attempt(places: list[int]) -> None:
        batch = [requests[place] for place in places]
        try:
            with memory_errors([request.clip for request in batch]):
                answers.update(zip(places, answer(batch, [prepared[place] for place in places]), strict=True))
        except RedlineError as error:
            _log.debug("%d clips failed", len(places), exc_info=error)
            if len(places) == 1:
                answers[places[0]] = error
            else:
                attempt(places[: len(places) // 2])
                attempt(places[len(places) // 2 :])

    if prepared:
        attempt(list(prepared))
    return [answers[place] for place in range(len(requests))]


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
        raise overflow_error(dtype)


def overflow_error(dtype: torch.dtype) -> RecognitionError:
    """The error of a model that has left the numbers of its precision."""
    return RecognitionError(
        f"the model calculates beyond the numbers of {str(dtype).removeprefix('torch.')} on this clip; take "
        "bfloat16 or float32, and if it does so in each of them, the checkpoint is damaged"
    )


def with_word_times(answers: Answers, encoded: EncoderOutput, frame_s: float, words: Sequence[bool]) -> Answers:
    """Answers with word times by the encoder's characters: now where `words` says so, elsewhere once somebody asks."""
    logits, lengths = encoded.char_logits, encoded.lengths  # [B, T, C], [B]
    frames, timed = lengths.tolist(), list(answers)
    now: dict[int, Hypothesis] = {}
    for row, answer in enumerate(answers):
        if isinstance(answer, Hypothesis) and words[row]:
            now[row] = answer
        elif isinstance(answer, Hypothesis):
            timed[row] = replace(answer, timing=LazyWordTimes(answer.text, logits[row, : frames[row]], frame_s))
    if now:
        texts = [answer.text for answer in now.values()]
        times = scored_word_times(texts, logits[list(now)], lengths[list(now)], frame_s)
        for (row, answer), (aligned, score) in zip(now.items(), times, strict=True):
            notices = answer.warnings + timing_notices(answer.text, score)
            timed[row] = replace(answer, words=tuple(aligned), warnings=notices)
    return timed
