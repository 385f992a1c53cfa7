"""`Transcriber`: recordings in, transcripts out, with any recognizer."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from copy import copy
from dataclasses import replace
from functools import cache, cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
from typing_extensions import Unpack

from redline import audio, itn, languages
from redline.audio import AudioOptions
from redline.audio.channels import count_channels, rereadable
from redline.audio.check import checked_waveform
from redline.diarize.diarizer import voice_of
from redline.diarize.embedder import SpeakerEmbedder
from redline.diarize.known import SpeakerDatabase
from redline.diarize.options import SpeakerOptions, speaker_options
from redline.engine.live import LiveEngine, LiveOptions, LiveStream
from redline.engine.recording_plan import RecordingPlan
from redline.engine.recordings import Flight, Interrupted, Recording, RecordingScheduler, Sound, WaveformSound
from redline.engine.scheduler import BatchOptions, Scheduler, StreamEngine
from redline.errors import ConfigError, RedlineError, UnsupportedTaskError
from redline.longform.interleave import interleaved
from redline.longform.resumed import AnswerStore
from redline.longform.session import Session, SessionOptions
from redline.prompts import keyword_list
from redline.signatures import checked
from redline.transcribe_options import (
    OnError,
    OnSegment,
    Progress,
    RecordingSource,
    Sources,
    StreamOptions,
    TranscribeOptions,
    splits_channels,
)
from redline.types import SAMPLE_RATE, ClipLimits, Notice, Recognizer, Segment, Task, Transcript, Waveform

SAMPLE_S = 30.0  # parts of a sample of a voice that are heard at once
_AHEAD_S = 600.0  # sound is read until so much of it waits for its text; then windows share batches well
_AHEAD_SHARED_S = 120.0  # the same of each caller where many share batches
_AHEAD_STREAM_S = 240.0  # the same where segments are waited for; it begins with none


class Transcriber:
    """A recognizer with everything around it that makes transcripts of recordings."""

    def __init__(
        self,
        recognizer: Recognizer,
        options: SessionOptions = SessionOptions(),  # noqa: B008
        batch: BatchOptions = BatchOptions(),  # noqa: B008
        embedder: Callable[[], SpeakerEmbedder] | None = None,
        identity: Callable[[], str] | None = None,
    ) -> None:
        """`options` say how recordings are cut, `batch` how much the recognizer gets at once.

        `embedder` loads the network that tells speakers apart where the recognizer does not do so itself; `identity`
        tells models with other weights, or loaded otherwise, apart.
        """
        self.recognizer, self.options, self.batch = recognizer, options, batch
        self.embedder = embedder and cache(embedder)
        self.identity = cache(identity or (lambda: recognizer.name))
        self._ahead_s = _AHEAD_S

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
                known, _ = languages.language_candidates(options.get("language"), self.languages)
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
        is_split, speakers = splits_channels(options), self._speakers(options)
        task = self._task(options, speakers)
        if options.get("on_segment") is not None and self.hears_voices(task, speakers or SpeakerOptions()):
            raise ConfigError(
                "speakers are told apart by the voices of the whole recording, so no segment is final before its end; "
                "leave --stream (on_segment) out"
            )
        if is_split:
            return self._split(sources, task, options)
        recordings = (self._recording(source, task, options, speakers) for source in sources)
        return self.run(recordings, options.get("progress"), options.get("on_segment"))

    @checked(TranscribeOptions)
    def stream(self, source: RecordingSource, **options: Unpack[TranscribeOptions]) -> Iterator[Segment]:
        """The segments of one recording in time order, each as soon as it is ready; notices become Python warnings."""
        if splits_channels(options):
            raise ConfigError("channels is 'split': they are interleaved once all are done; transcribe, not stream")
        speakers = self._speakers(options)
        speakers = speakers and replace(speakers, online=True)
        recording = self._recording(source, self._task(options, speakers), options, speakers)
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
        shared = TranscribeOptions.__annotations__.keys() - {"channels"}  # which are a number here
        speakers = speaker_options(options.get("speakers"))
        task = self._task({name: value for name, value in options.items() if name in shared}, speakers)  # type: ignore[arg-type]
        online = replace(speakers or SpeakerOptions(), online=True)
        session = self.session(task, vad=options.get("vad", True), options=own.session_options(), speakers=online)
        rate, channels = options.get("sample_rate", SAMPLE_RATE), options.get("channels", 1)
        digits = options.get("digits", False)
        return LiveStream(session, self.live_engine, own, sample_rate=rate, channels=channels, digits=digits)

    @cached_property
    def live_engine(self) -> StreamEngine:
        """What all live streams of the model share."""
        return LiveEngine(self.recognizer, self.batch)

    def run(
        self,
        recordings: Iterable[Recording],
        progress: Progress | None = None,
        on_segment: OnSegment | None = None,
    ) -> Generator[Transcript | RedlineError]:
        """`transcribe_each` of recordings that each have a session, and so a task, of their own."""
        most_ahead_s = self._ahead_s if on_segment is None else min(self._ahead_s, _AHEAD_STREAM_S)
        ahead_s = most_ahead_s if on_segment is None else 0.0
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
        speakers: SpeakerOptions = SpeakerOptions(),  # noqa: B008
        answers: AnswerStore | None = None,
    ) -> Session:
        """A session for one recording, which goes on from the `answers` that are kept, where there are any.

        `speakers` says who may be heard, where the task asks for that. Raises `UnsupportedTaskError` for what the model
        cannot do.
        """
        return self._plan(task, vad, options, speakers).session(self.embedder, answers)

    @checked(TranscribeOptions)
    def plan(self, **options: Unpack[TranscribeOptions]) -> RecordingPlan:
        """How `transcribe_each` reads, cuts and asks about each recording; `UnsupportedTaskError` as there."""
        if splits_channels(options):
            raise ConfigError("channels is 'split': each is a recording of its own; plan for one channel")
        speakers = self._speakers(options)
        task, cut = self._task(options, speakers), options.get("session_options")
        plan = self._plan(task, options.get("vad", True), cut, speakers or SpeakerOptions())
        own = options.get("audio_options", AudioOptions())
        return replace(plan, audio=own, digits=options.get("digits", False))

    def _plan(self, task: Task, vad: bool, options: SessionOptions | None, speakers: SpeakerOptions) -> RecordingPlan:
        options = options or self.options
        options = options if vad else replace(options, vad=None)
        asked, is_diarized = self._asked(task, speakers)
        voices = speakers if is_diarized and self.embedder else None
        return RecordingPlan(self.recognizer.limits(asked), asked, options, self.name, voices)

    def check(self, task: Task, speakers: SpeakerOptions = SpeakerOptions()) -> None:  # noqa: B008
        """Raises `UnsupportedTaskError` for what the model cannot do."""
        self.recognizer.limits(self._asked(task, speakers)[0])

    def hears_voices(self, task: Task, speakers: SpeakerOptions = SpeakerOptions()) -> bool:  # noqa: B008
        """Whether speakers are told apart by their voices, so that no segment is final before the end."""
        return self._asked(task, speakers)[1]

    def _asked(self, task: Task, speakers: SpeakerOptions) -> tuple[Task, bool]:
        """What the recognizer is asked, and whether its words get speakers by their embeddings.

        Raises `UnsupportedTaskError` where there are no words to give to speakers.
        """
        itself = self.embedder is None or getattr(self.recognizer, "tells_speakers", False)
        tagged = bool(task.prefix) and getattr(self.recognizer, "reads_tags", False)  # a prefix says who is who
        if not task.speakers or ((itself or tagged) and speakers == SpeakerOptions()):
            return task, False
        if self.embedder is None:
            raise UnsupportedTaskError(f"{self.name} has no speaker embeddings; leave number and names of speakers out")
        if task.name != "transcribe" or task.prompt is not None:
            what = "a translation" if task.name != "transcribe" else "an answer to a prompt"
            raise UnsupportedTaskError(f"nobody said the words of {what}, so none are a speaker's; leave speakers out")
        return replace(task, speakers=False, words=True), True

    def on(self, scheduler: RecordingScheduler, live_engine: StreamEngine | None = None) -> Transcriber:
        """This transcriber on the batches of others: recordings on a `SchedulerClient`, streams on a live engine."""
        other = copy(self)
        other._scheduler = lambda: scheduler  # type: ignore[method-assign]
        other._ahead_s = _AHEAD_SHARED_S
        if live_engine is not None:
            other.live_engine = live_engine
        return other

    def _scheduler(self) -> RecordingScheduler:
        return Scheduler(self.recognizer, self.batch)

    def _split(
        self, sources: Iterable[Any], task: Task, options: TranscribeOptions
    ) -> Generator[Transcript | RedlineError]:
        """`transcribe_each` with a session for each channel."""
        counts: deque[int] = deque()
        audio_options = options.get("audio_options", AudioOptions())

        def recordings() -> Iterator[Recording]:
            for source in sources:
                try:
                    source = source if isinstance(source, Waveform) else rereadable(source, audio_options)
                    is_mono = isinstance(source, Waveform)
                    count = 1 if is_mono else count_channels(source, options.get("sample_rate"), audio_options)
                except RedlineError as error:
                    counts.append(1)
                    yield Recording(partial(_refuse, error), self.session(task))
                    continue
                counts.append(count)
                for channel in range(count):
                    # Answers are kept by source, and channels would find each other's.
                    own: Any = {**options, "audio_options": replace(audio_options, channel=channel), "answers": None}
                    yield self._recording(source, task, own, SpeakerOptions())

        results = self.run(recordings(), options.get("progress"))
        waiting: list[Transcript | RedlineError | None] = []
        try:
            for result in results:
                waiting.append(result)
                if len(waiting) == counts[0]:
                    counts.popleft()
                    whole, waiting = interleaved(waiting), []
                    assert whole is not None
                    try:
                        yield whole
                    except KeyboardInterrupt as stop:
                        results.throw(stop)
        except Interrupted as stop:
            rest = iter([*waiting, *stop.results])
            raise Interrupted([interleaved(list(islice(rest, count))) for count in counts]) from None
        finally:
            results.close()

    def _speakers(self, options: TranscribeOptions) -> SpeakerOptions | None:
        """Who may be heard, and who is known; None where nobody asks."""
        samples, path = options.get("speaker_samples"), options.get("speaker_db")
        asked = speaker_options(options.get("speakers"))
        if not samples and path is None:
            return asked
        if self.embedder is None:
            raise UnsupportedTaskError(f"{self.name} has no speaker embeddings; leave samples and database out")
        asked, embedder = asked or SpeakerOptions(), self.embedder()
        if path is not None:
            asked = replace(asked, database=SpeakerDatabase.open(path, embedder.digest, embedder.size))
        known = []
        for name, source in (samples or {}).items():
            if not name.strip():
                raise ConfigError("a voice of speaker_samples has no name; give each its name, {'Ana': 'ana.wav'}")
            wave = source if isinstance(source, Waveform) else audio.load(source)
            cut = options.get("session_options") or self.options
            session = Session(ClipLimits(SAMPLE_S), Task(), cut, source=wave.source)
            session.feed(wave.samples)
            session.close()
            known.append(voice_of(embedder, " ".join(name.split()), [request.clip for request in session.ready()]))
        return replace(asked, known=tuple(known))

    def _task(self, options: TranscribeOptions, speakers: SpeakerOptions | None) -> Task:
        """What is asked of the recognizer; what it cannot do, and a missing package, is reported before the work."""
        language, several = languages.language_candidates(options.get("language"), self.languages)
        task = Task(
            options.get("task", "transcribe"),
            language,
            languages.code(options.get("target_language")),
            options.get("words", False) or options.get("channels") == "split",
            speakers is not None and options.get("channels") != "split",
            keyword_list(options.get("keywords")),
            options.get("prompt"),
            options.get("prefix"),
            several,
        )
        self.check(task, speakers or SpeakerOptions())
        if options.get("digits", False):
            itn.inverse_normalize("", language or "en")
        return task

    def _recording(
        self, source: RecordingSource, task: Task, options: TranscribeOptions, speakers: SpeakerOptions | None
    ) -> Recording:
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
            speakers=speakers or SpeakerOptions(),
            answers=None if store is None else store(source),
        )
        return Recording(opened, session, digits=options.get("digits", False))


def _refuse(error: RedlineError) -> AbstractContextManager[Sound]:
    raise error


Model = Transcriber
"""The name under which it is exported, too."""
