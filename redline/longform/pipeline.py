"""Hours of audio from a recognizer of seconds: listen for speech, cut, batch, recognize, stitch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from redline.audio.check import checked_waveform
from redline.audio.levels import CLIPPED, LOUD_DB, clipped_share, is_silent
from redline.errors import RecognitionError, RedlineError, UnsupportedTaskError
from redline.longform import stitch, vad, windows
from redline.longform.stitch import WindowResult
from redline.longform.vad import VadOptions
from redline.longform.windows import WindowOptions
from redline.types import (
    SAMPLE_RATE,
    Hypothesis,
    Notice,
    Recognizer,
    Request,
    Segment,
    Span,
    SpeakerEmbedding,
    Task,
    Transcript,
    Waveform,
)

SHORTEST_S = 0.02
"""Shorter recordings hold no sound that could be recognized."""
_TOGETHER_S = 600.0  # speech within which windows share batches by length, so that work is done from the start on
_RAISED_DB = -20.0  # what the detector gets the loudest frame of a quieter or overdriven recording brought to
_SECOND_LOOK = VadOptions(onset=0.15, offset=0.1)


@dataclass(frozen=True)
class PipelineOptions:
    """How a recording is cut and batched."""

    vad: VadOptions | None = field(default_factory=VadOptions)
    """How speech is found; None recognizes all of the recording, silence and music too."""
    window: WindowOptions = field(default_factory=WindowOptions)
    batch_s: float = 120.0
    """Seconds of audio in one batch, counted with its padding."""

    def __post_init__(self) -> None:
        if self.batch_s <= 0:
            raise ValueError(f"batch_s is {self.batch_s}; a batch must hold some audio")


class Interrupted(KeyboardInterrupt):
    """Work was stopped before its end.

    `results` has what is done of each recording, in order: all of it, or the windows that were finished, with notices
    of the code "interrupted" for what is missing; None where there is none.
    """

    def __init__(self, results: Sequence[Transcript | RedlineError | None]) -> None:
        super().__init__()
        self.results = list(results)


def listen(wave: Waveform, max_clip_s: float, options: PipelineOptions) -> tuple[list[Span], list[Notice]]:
    """Where to recognize: windows in time order, and what the user should know about finding none or doubtful ones.

    The detector hears the recording at a common level, because it misses words of quiet and overdriven ones. Where it
    finds no speech, a second look at a lower threshold decides. Raises `AudioError` for samples that are no numbers.
    """
    checked_waveform(wave)
    samples, N = wave.samples, len(wave.samples)
    if N < SHORTEST_S * SAMPLE_RATE:
        message = f"{1000 * N / SAMPLE_RATE:g} ms of audio; at least {1000 * SHORTEST_S:g} ms are needed"
        return [], [Notice("too-short", message)]
    window = replace(options.window, max_s=min(options.window.max_s, max_clip_s))
    levels = vad.frame_levels(samples)
    notices = _clipping(samples)
    if options.vad is None:
        return windows.cut([Span(0, N)], levels, vad.FRAME, N, window), notices
    if is_silent(samples):
        return [], [Notice("no-speech", "no speech; the recording is silent")]
    loudest = float(levels.max())
    gain = 1.0 if _RAISED_DB <= loudest <= LOUD_DB else 10 ** ((_RAISED_DB - loudest) / 20)
    probabilities = vad.speech_probabilities(samples, gain=gain)
    speech = vad.speech_spans(probabilities, N, options.vad)
    if not speech:
        speech = vad.speech_spans(probabilities, N, _SECOND_LOOK)
        notices.append(_no_clear_speech(speech, loudest))
    # Speech is equally certain in all of a fluent sentence; the level then tells words from the gaps between them.
    strength = (probabilities + levels / 60).astype(np.float32)
    return windows.cut(speech, strength, vad.FRAME, N, window), notices


def _clipping(samples: NDArray[np.float32]) -> list[Notice]:
    share = clipped_share(samples)
    if share < CLIPPED:
        return []
    message = (
        f"{100 * share:.1f} % of the samples are clipped: it was too loud for the recorder, and what was cut off "
        "cannot be heard, so check the text; record with less gain, or use the original if this is a copy"
    )
    return [Notice("clipped", message)]


def _no_clear_speech(speech: Sequence[Span], loudest: float) -> Notice:
    if speech:
        message = "speech was found only at a second, more sensitive look; check the text"
        return Notice("faint-speech", message, speech[0].start_s, speech[-1].end_s)
    message = f"no speech was found, though the recording is not silent (its loudest part is at {loudest:.0f} dBFS); "
    return Notice(
        "no-speech", message + "if someone does speak in it, switch speech detection off (vad=False, --no-vad)"
    )


def batches(lengths: Sequence[int], most: float) -> list[list[int]]:
    """Indices of clips grouped by length, longest first; a group's count times its longest is at most `most`.

    A clip that is longer than `most` is a group of its own.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= most:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def recognize(recognizer: Recognizer, clips: Sequence[Waveform], task: Task) -> list[Hypothesis | RedlineError]:
    """One batch of clips, in order; raises `UnsupportedTaskError`, which no other clip could escape."""
    answers = recognizer.recognize([Request(clip, task, id) for id, clip in enumerate(clips)])
    if len(answers) != len(clips):
        raise RecognitionError(f"{recognizer.name} answered {len(clips)} clips with {len(answers)} hypotheses")
    for answer in answers:
        if isinstance(answer, UnsupportedTaskError):
            raise answer
    return list(answers)


def transcribe_many(
    recognizer: Recognizer,
    waves: Sequence[Waveform],
    task: Task,
    options: PipelineOptions = PipelineOptions(),
    progress: Callable[[float], None] | None = None,
) -> list[Transcript | RecognitionError]:
    """Recordings -> transcripts in the same order; windows of all recordings share batches, sorted by length.

    A recording of which every window failed gives its `RecognitionError` in place of a transcript. `progress` gets
    the seconds done of all recordings together, up to their whole duration. A `KeyboardInterrupt` becomes
    `Interrupted`, with what is done.
    """
    work = [_Recording(wave) for wave in waves]
    try:
        if _in_order(recognizer, task):
            _hear_one_by_one(recognizer, work, task, options, progress)
        else:
            _hear_together(recognizer, work, task, options, progress)
    except KeyboardInterrupt:
        raise Interrupted([one.so_far(recognizer.name, task) for one in work]) from None
    return [one.result(recognizer.name, task) for one in work]


@dataclass
class _Recording:
    """A recording on its way: where to recognize, once that is known, and what was heard."""

    wave: Waveform
    spans: Sequence[Span] | None = None
    notices: Sequence[Notice] = ()
    heard: list[WindowResult] = field(default_factory=list)

    def listen(self, window_s: float, options: PipelineOptions) -> Sequence[Span]:
        """Find the windows."""
        self.spans, self.notices = listen(self.wave, window_s, options)
        return self.spans

    def result(self, model: str, task: Task, notices: Sequence[Notice] = ()) -> Transcript | RecognitionError:
        """The transcript of what was heard."""
        try:
            return stitch.stitch(self.wave, self.heard, model=model, task=task, notices=(*self.notices, *notices))
        except RecognitionError as error:
            return error

    def so_far(self, model: str, task: Task) -> Transcript | RecognitionError | None:
        """What is done, with notices of what is missing; None where nothing is."""
        heard = {one.span for one in self.heard}
        if self.spans is None or (self.spans and not heard):
            return None
        gaps: list[Span] = []
        last = False
        for span in self.spans:
            if missing := span not in heard:
                gaps = [*gaps[:-1], Span(gaps[-1].start, span.end)] if last else [*gaps, span]
            last = missing
        message = "the work was interrupted; the speech in this part is not in the text"
        result = self.result(model, task, [Notice("interrupted", message, gap.start_s, gap.end_s) for gap in gaps])
        return None if gaps and isinstance(result, RecognitionError) else result


def _hear_together(
    recognizer: Recognizer,
    work: Sequence[_Recording],
    task: Task,
    options: PipelineOptions,
    progress: Callable[[float], None] | None,
) -> None:
    jobs = [(one, span) for one in work for span in one.listen(recognizer.limits(task).max_s, options)]
    lengths = [span.end - span.start for _, span in jobs]
    speech = {id(one): sum(span.end - span.start for span in one.spans or ()) for one in work}
    done = sum(one.wave.duration for one in work if speech[id(one)] == 0)
    for first, last in _stretches(lengths, _TOGETHER_S * SAMPLE_RATE):
        for group in batches(lengths[first:last], options.batch_s * SAMPLE_RATE):
            mine = [jobs[first + index] for index in group]
            outcomes = recognize(recognizer, [one.wave.part(span) for one, span in mine], task)
            for (one, span), outcome in zip(mine, outcomes, strict=True):
                one.heard.append(WindowResult(span, outcome))
                done += one.wave.duration * (span.end - span.start) / speech[id(one)]
            if progress is not None:
                progress(done)


def _stretches(lengths: Sequence[int], most: float) -> Iterator[tuple[int, int]]:
    """Neighbours of at most `most` samples together, or a single longer one: [first, last) of each stretch."""
    first = total = 0
    for index, length in enumerate(lengths):
        if index > first and total + length > most:
            yield first, index
            first, total = index, 0
        total += length
    if lengths:
        yield first, len(lengths)


def _in_order(recognizer: Recognizer, task: Task) -> bool:
    """Whether the windows of a recording must be recognized one after the other."""
    return task.prefix is not None or recognizer.limits(task).needs_previous


def _hear_in_order(recognizer: Recognizer, wave: Waveform, spans: Sequence[Span], task: Task) -> Iterator[WindowResult]:
    """Windows one by one: the first begins with the task's prefix, and where answers carry on, each later one hears
    the window before it again, with its answer as prefix."""
    before: tuple[Span, Hypothesis] | None = None
    for number, span in enumerate(spans):
        context = wave.part(before[0]).samples if before is not None else wave.samples[:0]
        clip = Waveform(np.concatenate((context, wave.part(span).samples)), wave.source)
        prefix = task.prefix if number == 0 else before[1].tagged if before is not None else None
        (outcome,) = recognize(recognizer, [clip], replace(task, prefix=prefix))
        if isinstance(outcome, Hypothesis):
            outcome = stitch.shifted(outcome, -len(context) / SAMPLE_RATE)
        yield WindowResult(span, outcome)
        usable = recognizer.limits(task).needs_previous and isinstance(outcome, Hypothesis) and bool(outcome.tagged)
        before = (span, outcome) if usable and isinstance(outcome, Hypothesis) else None


def _hear_one_by_one(
    recognizer: Recognizer,
    work: Sequence[_Recording],
    task: Task,
    options: PipelineOptions,
    progress: Callable[[float], None] | None,
) -> None:
    done = 0.0
    for one in work:
        for heard in _hear_in_order(recognizer, one.wave, one.listen(_window_s(recognizer, task), options), task):
            one.heard.append(heard)
            if progress is not None:
                progress(done + heard.span.end_s)
        done += one.wave.duration


def _window_s(recognizer: Recognizer, task: Task) -> float:
    """The longest window of a recording: half of what fits where the window before is heard again."""
    return recognizer.limits(task).max_s / (2 if recognizer.limits(task).needs_previous else 1)


def transcribe(
    recognizer: Recognizer,
    wave: Waveform,
    task: Task,
    options: PipelineOptions = PipelineOptions(),
    progress: Callable[[float], None] | None = None,
) -> Transcript:
    """One recording of any length -> its transcript; raises `RecognitionError` when every window failed."""
    (result,) = transcribe_many(recognizer, [wave], task, options, progress)
    if isinstance(result, RecognitionError):
        raise result
    return result


def _warn(notice: Notice) -> None:
    place = "" if notice.start is None else f"{notice.start:.3f} s to {notice.end:.3f} s: "
    warnings.warn(f"{place}{notice.message}", stacklevel=3)


def stream(
    recognizer: Recognizer,
    wave: Waveform,
    task: Task,
    options: PipelineOptions = PipelineOptions(),
    notify: Callable[[Notice], None] = _warn,
) -> Iterator[Segment]:
    """The segments of one recording in time order, each as soon as it is ready.

    The first window goes alone, so that the first segment comes early; then batches double up to `batch_s`. Notices
    go to `notify`, which makes Python warnings of them. Raises `RecognitionError` at the end when every window failed.
    """
    spans, notices = listen(wave, _window_s(recognizer, task), options)
    for notice in (*wave.warnings, *notices):
        notify(notice)
    ready, heard, known = 0, list[WindowResult](), tuple[SpeakerEmbedding, ...]()
    for one in _hear_each(recognizer, wave, spans, task, options):
        heard.append(one)
        known, one = stitch.recalled(known, one)
        for notice in stitch.notices_of(one):
            notify(notice)
        for segment in stitch.segments_of(one, ready):
            ready += 1
            yield segment
    stitch.stitch(wave, heard, model=recognizer.name, task=task)


def _hear_each(
    recognizer: Recognizer, wave: Waveform, spans: Sequence[Span], task: Task, options: PipelineOptions
) -> Iterator[WindowResult]:
    """Windows in time order, in batches that double where one does not wait for the other."""
    if _in_order(recognizer, task):
        yield from _hear_in_order(recognizer, wave, spans, task)
        return
    count, first = 1, 0
    while first < len(spans):
        batch = list(spans[first : first + count])
        while len(batch) > 1 and len(batch) * max(span.end - span.start for span in batch) > (
            options.batch_s * SAMPLE_RATE
        ):
            batch.pop()
        outcomes = recognize(recognizer, [wave.part(span) for span in batch], task)
        yield from map(WindowResult, batch, outcomes)
        first, count = first + len(batch), 2 * count
