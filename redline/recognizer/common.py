"""What the recognizers have in common."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from redline import features, prompts
from redline.audio.levels import levelled
from redline.decoding.word_confidence import (
    NOTHING_KNOWN,
    CalibratedTimes,
    ConfidenceMaps,
    TextEvidence,
    calibrated,
)
from redline.decoding.word_times import LazyWordTimes, scored_word_times, timing_notices
from redline.errors import RecognitionError, RedlineError, UnsupportedTaskError, is_memory_error
from redline.models.conformer import EncoderOutput
from redline.threads import check_fork
from redline.tokenizer import Tokenizer
from redline.types import ClipLimits, Hypothesis, Request, Task, Waveform, WordTimes
from redline.word_rewriting import RewrittenTimes, rewritten

_log = logging.getLogger(__name__)
_M = TypeVar("_M", bound=nn.Module)
_P = TypeVar("_P")
_A = TypeVar("_A")
Answers = list[Hypothesis | RedlineError]
MAX_DRAFT_CLIP_S = 30.0
"""The longest clip of which the encoder's draft is the text, or is edited."""


class ModelRecognizer(ABC, Generic[_M, _P]):
    """A `Recognizer` of one model, which prepares requests one by one and answers those it can as one batch."""

    def __init__(self, model: _M, tokenizer: Tokenizer, name: str, languages: Sequence[str]) -> None:
        self.model: _M = model.eval()
        self.engine: Callable[[Sequence[Tensor]], EncoderOutput] | None = None
        """A fast twin of the model's encoder, features [T_i, D] of B clips -> what it makes of them."""
        self.word_confidence: ConfidenceMaps | None = None
        """What calibrates the confidence of words, where the checkpoint has it."""
        self.tokenizer = tokenizer
        self.name = name
        self.languages = tuple(languages)

    @abstractmethod
    def limits(self, task: Task) -> ClipLimits:
        """How long a clip may be; raises `UnsupportedTaskError` for what the model has not learned."""

    @abstractmethod
    def prepare(self, request: Request) -> _P:
        """What a batch needs of a request; raises the error of one that cannot be answered."""

    @abstractmethod
    def answer(self, requests: Sequence[Request], prepared: Sequence[_P]) -> Answers:
        """The answers to a batch."""

    def recognize(self, requests: Sequence[Request]) -> Answers:
        """One answer per request, in order, and one pass of each network for all of them."""
        return self.in_batches(requests, self.answer)

    def in_batches(
        self, requests: Sequence[Request], answer: Callable[[Sequence[Request], Sequence[_P]], Sequence[_A]]
    ) -> list[_A | RedlineError]:
        """What `answer` gives to each request, or its error.

        `AudioError` for samples that are no numbers, `UnsupportedTaskError` for a task that `limits` refuses, and
        `RecognitionError` where the model leaves the numbers of its precision or memory runs out: a batch that fails
        is halved until the error is that of one request.
        """
        answers: dict[int, _A | RedlineError] = {}
        prepared: dict[int, _P] = {}
        for place, request in enumerate(requests):
            try:
                check_fork()
                prepared[place] = self.prepare(request)
            except RedlineError as error:
                answers[place] = error

        batches = [list(prepared)] if prepared else []
        while batches:
            places = batches.pop(0)
            batch = [requests[place] for place in places]
            try:
                with memory_errors([request.clip for request in batch]):
                    answers.update(zip(places, answer(batch, [prepared[at] for at in places]), strict=True))
            except RedlineError as error:
                _log.debug("%d clips failed", len(places), exc_info=error)
                if len(places) == 1:
                    answers[places[0]] = error
                else:
                    half = len(places) // 2
                    batches[:0] = [places[:half], places[half:]]
        return [answers[place] for place in range(len(requests))]

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def measure(self, clip: Waveform, rule: features.Rule) -> Tensor:
        """Features of one clip [T, 160 or 320], measured where the model is."""
        return features.clip_features(features.samples_on(levelled(clip).samples, self.device), rule)

    def padded(self, rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Features [T_i, D] of B clips -> [B, T, D] and lengths [B], as the model takes them."""
        x, lengths = features.pad(rows)
        return x.to(self.device, self.dtype), lengths.to(self.device)

    def encode(self, rows: Sequence[Tensor]) -> EncoderOutput:
        """One encoder pass over the features [T_i, D] of B clips."""
        if self.engine is not None:
            return self.engine(rows)
        encoded: EncoderOutput = getattr(self.model, "encode", self.model)(*self.padded(rows))
        return encoded

    def check_numbers(self, encoded: EncoderOutput) -> None:
        """Raises `RecognitionError` where an encoder has left the numbers: the best would still be called a token."""
        if not bool(encoded.char_logits.masked_fill(~encoded.mask[..., None], 0.0).isfinite().all()):
            raise overflow_error(self.dtype)

    @property
    def told_languages(self) -> tuple[str, ...]:
        """Languages of which the model tells which one it hears."""
        return ()

    def check_language(self, language: str | None, several: Sequence[str] = ()) -> None:
        """Raises `UnsupportedTaskError` for a language that the model does not know, and for several of which it cannot
        tell which is spoken."""
        for each in (language, *several):
            if each is not None and each not in self.languages:
                known = ", ".join(self.languages)
                raise UnsupportedTaskError(f"{self.name} does not know the language {each!r}; it knows {known}")
        if not set(several) <= set(self.told_languages):
            raise UnsupportedTaskError(
                f"{self.name} does not tell which language it hears, and cannot choose among {', '.join(several)}; "
                "name the one that is spoken, or none"
            )

    def check_plain(self, task: Task, does: str, how: str = "") -> None:
        """Raises `UnsupportedTaskError` for what only models that answer prompts can, and for what is not known."""
        plus = f"granite_speech_plus models can{how}, such as granite-speech-4.1-2b-plus or, in English, tiny-plus"
        for what, asked, who in (
            ("translate", task.name != "transcribe", f"granite_speech models can{how}, such as granite-speech-4.1-2b"),
            ("translate", task.target_language, f"leave the target language {task.target_language!r} out"),
            ("tell speakers apart", task.speakers, plus),
            ("follow a prompt", task.prompt, plus),
            ("go on from a prefix", task.prefix, plus),
        ):
            if asked:
                raise UnsupportedTaskError(f"{self.name} {does} and cannot {what}; {who}")
        self.check_language(task.language, task.languages)
        prompts.checked_keywords(task.keywords, prompts.MAX_BIASING)


@contextmanager
def memory_errors(clips: Sequence[Waveform]) -> Iterator[None]:
    """Turn running out of memory, which fewer or shorter clips may not, into `RecognitionError`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_memory_error(error):
            raise
        seconds = sum(clip.duration for clip in clips)
        raise RecognitionError(
            f"out of memory on {len(clips)} clips of {seconds:.1f} s together; free some, or take a smaller model"
        ) from error


def overflow_error(dtype: torch.dtype) -> RecognitionError:
    """The error of a model that has left the numbers of its precision."""
    return RecognitionError(
        f"the model calculates beyond the numbers of {str(dtype).removeprefix('torch.')} on this clip; take "
        "bfloat16 or float32, and if it does so in each of them, the checkpoint is damaged"
    )


class SpokenText(NamedTuple):
    """An answer as it is said, where keywords are written otherwise, and what decided its words."""

    text: str
    evidence: TextEvidence = NOTHING_KNOWN


def with_word_times(
    answers: Answers,
    encoded: EncoderOutput,
    frame_s: float,
    tasks: Sequence[Task],
    spoken: Mapping[int, SpokenText],
    maps: ConfidenceMaps | None,
) -> Answers:
    """Answers with word times by the encoder's characters: now where they are asked for, else once somebody asks.

    `spoken` are some of the answers, by index: their text is what is aligned.
    """
    timed = list(answers)
    now: dict[int, Hypothesis] = {}
    for row, (answer, length) in enumerate(zip(answers, encoded.lengths.tolist(), strict=True)):
        if isinstance(answer, Hypothesis) and tasks[row].words:
            now[row] = answer
        elif isinstance(answer, Hypothesis):
            own = spoken.get(row, SpokenText(answer.text))
            timing: WordTimes = LazyWordTimes(own.text, encoded.char_logits[row, :length], frame_s)
            timing = timing if maps is None else CalibratedTimes(timing, maps, own.evidence)
            timing = timing if own.text == answer.text else RewrittenTimes(timing, answer.text)
            timed[row] = replace(answer, timing=timing)
    if now:
        at, known = list(now), [spoken.get(row, SpokenText(answer.text)) for row, answer in now.items()]
        times = scored_word_times([own.text for own in known], encoded.char_logits[at], encoded.lengths[at], frame_s)
        for (row, answer), own, (aligned, score) in zip(now.items(), known, times, strict=True):
            notices = answer.warnings + timing_notices(answer.text, score)
            words = calibrated(aligned, maps, own.evidence)
            words = words if own.text == answer.text else rewritten(words, answer.text)
            timed[row] = replace(answer, words=words, warnings=notices)
    return timed
