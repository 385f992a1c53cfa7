"""`Transcriber`: recordings in, transcripts out, with any recognizer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from typing_extensions import TypedDict, Unpack

from redline import audio, itn, languages
from redline.audio import AudioOptions
from redline.audio.check import checked_waveform
from redline.engine.live import LiveEngine, LiveOptions, LiveStream
from redline.engine.recordings import Flight, Recording, Sound, WaveformSound
from redline.engine.scheduler import BatchOptions, Scheduler
from redline.errors import RedlineError
from redline.longform.session import Session, SessionOptions
from redline.prompts import keyword_list
from redline.signatures import checked
from redline.types import SAMPLE_RATE, Notice, Recognizer, Segment, Task, Transcript, Waveform

RecordingSource = audio.AudioSource | Waveform
Sources = list[Any] | tuple[Any, ...]
OnError = Literal["raise", "warn"]
Progress = Callable[[float, float], None]
"""Gets the seconds of audio done and the seconds known so far."""

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
    """Names and terms to expect (contextual biasing): a list, or a text with commas."""
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


class StreamOptions(TypedDict, total=False):
    """How live streams are transcribed; what `TranscribeOptions` has, too, means the same."""

    sample_rate: int
    """Of the sound, in Hz; by default 16,000."""
    channels: int
    """Of the sound, mixed down to their mean; by default 1."""
    language: str | None
    task: Literal["transcribe", "translate"]
    target_language: str | None
    words: bool
    speakers: bool
    keywords: str | Sequence[str]
    prompt: str | None
    vad: bool
    digits: bool
    live_options: LiveOptions
    """How soon text comes, and when it is final."""


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
        return self.run((self._recording(source, task, options) for source in sources), options.get("progress"))

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

    @checked(StreamOptions)
    def live(self, **options: Unpack[StreamOptions]) -> LiveStream:
        """A stream of speech while it is spoken: `feed` takes sound as it comes and gives events, `close` the last.

        `StreamOptions` tells the options. All streams of a model share batches. Raises `UnsupportedTaskError` when the
        model cannot do the task or the language, and `AudioError` for a rate or channels that no recording has.
        """
        own = options.get("live_options", LiveOptions())
        task = self._task({name: value for name, value in options.items() if name in TranscribeOptions.__annotations__})  # type: ignore[arg-type]
        session = self.session(task, vad=options.get("vad", True), options=own.session_options())
        rate, channels = options.get("sample_rate", SAMPLE_RATE), options.get("channels", 1)
        digits = options.get("digits", False)
        return LiveStream(session, self.live_engine, own, sample_rate=rate, channels=channels, digits=digits)

    @cached_property
    def live_engine(self) -> LiveEngine:
        """What all live streams of the model share."""
        return LiveEngine(self.recognizer, self.batch)

    def run(
        self, recordings: Iterable[Recording], progress: Progress | None = None
    ) -> Generator[Transcript | RedlineError]:
        """`transcribe_each` of recordings that each have a session, and so a task, of their own."""
        flight = Flight(recordings, self._scheduler(), ahead_s=_AHEAD_S, most_ahead_s=_AHEAD_S)
        try:
            for _ in flight.ticks(progress):
                for recording in flight.take_finished():
                    if (result := recording.result()) is not None:
                        yield result
        except KeyboardInterrupt:
            raise Interrupted([recording.result() for recording in flight.recordings]) from None
        finally:
            flight.close()

    def session(self, task: Task, *, vad: bool = True, options: SessionOptions | None = None) -> Session:
        """A session for one recording; raises `UnsupportedTaskError` for what the model cannot do."""
        options = options or self.options
        options = options if vad else replace(options, vad=None)
        return Session(self.recognizer.limits(task), task, options, model=self.name)

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

        session = self.session(task, vad=options.get("vad", True), options=options.get("session_options"))
        return Recording(opened, session, digits=options.get("digits", False))


Model = Transcriber
"""The name under which it is exported, too."""
