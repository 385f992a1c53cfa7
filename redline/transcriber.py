"""`Transcriber`: recordings in, transcripts out, with any recognizer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from typing_extensions import TypedDict, Unpack

from redline import audio, itn, languages
from redline.audio import AudioOptions
from redline.audio.check import checked_waveform
from redline.engine.recordings import Flight, Recording, Sound, WaveformSound
from redline.engine.scheduler import BatchOptions, Scheduler
from redline.errors import RedlineError
from redline.longform.resumed import AnswerStore, ResumedSession
from redline.longform.session import Session, SessionOptions
from redline.prompts import keyword_list
from redline.signatures import checked
from redline.types import Notice, Recognizer, Segment, Task, Transcript, Waveform

RecordingSource = audio.AudioSource | Waveform
Sources = list[Any] | tuple[Any, ...]
OnError = Literal["raise", "warn"]
Progress = Callable[[float, float], None]
"""Gets the seconds of audio done and the seconds known so far."""
OnSegment = Callable[[Segment], None]
"""Gets each segment as soon as it is ready."""

_AHEAD_S = 600.0  # sound is read until so much of it waits for its text; then windows share batches well
_AHEAD_STREAM_S = 240.0  # the same where segments are waited for; it begins with none


class TranscribeOptions(TypedDict, total=False):
    """How recordings are transcribed."""

    sample_rate: int | None
    """Of an array."""
    language: str | None
    """What is spoken: en, English, en-US; None lets the model decide."""
    task: Literal["transcribe", "translate"]
    """With "translate" the text is in the `target_language`."""
    target_language: str | None
    words: bool
    """Ask when each word is said."""
    speakers: bool
    """Ask who speaks (diarization)."""
    keywords: str | Sequence[str]
    """Names and terms to expect (contextual biasing): a list, or a text with commas; "Nguyen => win :2" is one that is
    said otherwise than it is written, and counts twice."""
    prompt: str | None
    """An instruction in place of the model's own."""
    prefix: str | None
    """What the answer begins with: the beginning of the recording, already written down."""
    vad: bool
    """Voice activity detection, by default on; without it silence and music go to the model too."""
    session_options: SessionOptions
    """How speech is detected and cut, in place of the transcriber's own `options`."""
    digits: bool
    """Inverse text normalisation: spelled numbers become digits."""
    audio_options: AudioOptions
    progress: Progress | None
    on_segment: OnSegment | None
    """Gets the segments of the recordings one after the other, in time order, before each one's transcript."""
    answers: Callable[[Any], AnswerStore | None] | None
    """Gives for a source the store in which answers to its windows are kept: what is there is not recognized again."""


class Interrupted(KeyboardInterrupt):
    """Work was stopped before its end.

    `results` has what is done of each recording, in order: all of it, or the windows that were finished, with notices
    of the code "interrupted" for what is missing; None where there is none.
    """

    def __init__(self, results: Sequence[Transcript | RedlineError | None]) -> None:
        super().__init__()
        self.results = list(results)


class Transcriber:
    """A recognizer with everything around it that makes transcripts of recordings."""

    def __init__(
        self,
        recognizer: Recognizer,
        options: SessionOptions = SessionOptions(),  # noqa: B008
        batch: BatchOptions = BatchOptions(),  # noqa: B008
    ) -> None:
        """`options` say how recordings are cut, `batch` how much the recognizer gets at once."""
        self.recognizer, self.options, self.batch = recognizer, options, batch

    @property
    def name(self) -> str:
        return self.recognizer.name

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages that the model knows."""
        return self.recognizer.languages

    @overload
    def transcribe(
        self, source: RecordingSource, *, errors: OnError = "raise", **options: Unpack[TranscribeOptions]
    ) -> Transcript: ...

    @overload
    def transcribe(
        self, source: Sources, *, errors: OnError = "raise", **options: Unpack[TranscribeOptions]
    ) -> list[Transcript]: ...

    @checked(TranscribeOptions)
    def transcribe(
        self, source: RecordingSource | Sources, *, errors: OnError = "raise", **options: Unpack[TranscribeOptions]
    ) -> Transcript | list[Transcript]:
        """The transcript of a recording of any length, or of each in a list, batched together.

        A recording is a path, bytes, a binary file, or a numpy array with its `sample_rate`; `TranscribeOptions` tells
        the options. A recording that cannot be read or transcribed raises its `RedlineError`; with `errors="warn"` it
        gives an empty transcript whose one warning has the code "error", so that in a list a bad input harms only
        itself. Raises `UnsupportedTaskError` when the model cannot do the task or the language.
        """
        if errors not in ("raise", "warn"):
            raise ValueError(f"errors is {errors!r}; allowed are 'raise' and 'warn'")
        results: list[Transcript] = []
        many = isinstance(source, list | tuple)
        sources: Any = source if many else [source]
        for result in self.transcribe_each(sources, **options):
            if isinstance(result, RedlineError):
                if errors == "raise":
                    raise result
                notice = Notice("error", str(result))
                warnings.warn(notice.message, stacklevel=3)
                known = languages.code(options.get("language"), self.languages)
                task = options.get("task", "transcribe")
                result = Transcript("", language=known, model=self.name, task=task, warnings=(notice,))
            results.append(result)
        return results if many else results[0]

    @checked(TranscribeOptions)
    def transcribe_each(
        self, sources: Iterable[Any], **options: Unpack[TranscribeOptions]
    ) -> Generator[Transcript | RedlineError]:
        """A transcript, or the error in its place, for each recording in order, as they are ready.

        Recordings share batches, and reading goes on while some ten minutes of sound wait for their text, so memory
        does not grow with their number. A single recording is a list of one. Ctrl-C raises `Interrupted`, a
        `KeyboardInterrupt` that holds what is done of those not yielded.
        """
        if isinstance(sources, str | Path | bytes | np.ndarray | Mapping | Waveform) or hasattr(sources, "read"):
            sources = [sources]  # their items are letters, numbers, keys or lines, never recordings
        task = self._task(options)
        recordings = (self._recording(source, task, options) for source in sources)
        return self.run(recordings, options.get("progress"), options.get("on_segment"))

    @checked(TranscribeOptions)
    def stream(self, source: RecordingSource, **options: Unpack[TranscribeOptions]) -> Iterator[Segment]:
        """The segments of one recording in time order, each as soon as it is ready; notices become Python warnings."""
        recording = self._recording(source, self._task(options), options)
        flight = Flight([recording], self._scheduler(), ahead_s=0.0, most_ahead_s=_AHEAD_STREAM_S)

        def segments() -> Iterator[Segment]:
            with closing(flight):
                for _ in flight.ticks(options.get("progress")):
                    for notice in recording.session.notices():
                        place = "" if notice.start is None else f"{notice.start:.3f} s to {notice.end:.3f} s: "
                        warnings.warn(f"{place}{notice.message}", stacklevel=2)
                    yield from recording.segments()
                if isinstance(result := recording.result(), RedlineError):
                    raise result

        return segments()

    def run(
        self,
        recordings: Iterable[Recording],
        progress: Progress | None = None,
        on_segment: OnSegment | None = None,
    ) -> Generator[Transcript | RedlineError]:
        """`transcribe_each` of recordings that each have a session, and so a task, of their own."""
        ahead_s, most_ahead_s = (_AHEAD_S, _AHEAD_S) if on_segment is None else (0.0, _AHEAD_STREAM_S)
        flight = Flight(recordings, self._scheduler(), ahead_s=ahead_s, most_ahead_s=most_ahead_s)

        def tell(recording: Recording) -> None:
            if on_segment is not None:
                for segment in recording.segments():
                    on_segment(segment)

        try:
            for _ in flight.ticks(progress):
                for recording in flight.take_finished():
                    tell(recording)
                    if (result := recording.result()) is not None:
                        yield result
                if flight.recordings:
                    tell(flight.recordings[0])
        except KeyboardInterrupt:
            raise Interrupted([recording.result() for recording in flight.recordings]) from None
        finally:
            flight.close()

    def session(
        self,
        task: Task,
        *,
        vad: bool = True,
        options: SessionOptions | None = None,
        answers: AnswerStore | None = None,
    ) -> Session:
        """A session for one recording, which goes on from the `answers` that are kept, where there are any.

        Raises `UnsupportedTaskError` for what the model cannot do.
        """
        options = options or self.options
        options, limits = options if vad else replace(options, vad=None), self.recognizer.limits(task)
        if answers is None:
            return Session(limits, task, options, model=self.name)
        return ResumedSession(limits, task, options, model=self.name, answers=answers)

    def _scheduler(self) -> Scheduler:
        return Scheduler(self.recognizer, self.batch)

    def _task(self, options: TranscribeOptions) -> Task:
        """What is asked of the recognizer; what it cannot do, and a missing package, is reported before the work."""
        language = languages.code(options.get("language"), self.languages)
        if language is None and len(self.languages) == 1:
            (language,) = self.languages
        task = Task(
            options.get("task", "transcribe"),
            language,
            languages.code(options.get("target_language")),
            options.get("words", False),
            options.get("speakers", False),
            keyword_list(options.get("keywords")),
            options.get("prompt"),
            options.get("prefix"),
        )
        self.recognizer.limits(task)
        if options.get("digits", False):
            itn.inverse_normalize("", language or "en")
        return task

    def _recording(self, source: RecordingSource, task: Task, options: TranscribeOptions) -> Recording:
        def opened() -> AbstractContextManager[Sound]:
            if isinstance(source, Waveform):
                return nullcontext(WaveformSound(checked_waveform(source)))
            audio_options = options.get("audio_options", AudioOptions())
            return audio.open_blocks(source, sample_rate=options.get("sample_rate"), options=audio_options)

        store = options.get("answers")
        session = self.session(
            task,
            vad=options.get("vad", True),
            options=options.get("session_options"),
            answers=None if store is None else store(source),
        )
        return Recording(opened, session, digits=options.get("digits", False))


Model = Transcriber
"""The name under which it is exported, too."""
