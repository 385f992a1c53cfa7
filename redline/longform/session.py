"""A recording as a resumable state machine: samples in, requests out, hypotheses in, segments out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from redline.audio.check import checked_waveform
from redline.diarize.diarizer import Diarizer
from redline.errors import ConfigError, RecognitionError, RedlineError
from redline.longform.detector import Detection, SpeechDetector
from redline.longform.stitch import Stitcher, begun, ended
from redline.longform.strength import MARGIN_SAMPLES, Strength
from redline.longform.vad import BLOCK_FRAMES, VAD_FRAME, VadOptions
from redline.longform.windows import WindowCutter, WindowOptions
from redline.types import (
    SAMPLE_RATE,
    ClipLimits,
    Hypothesis,
    Notice,
    Request,
    Segment,
    Span,
    Task,
    Transcript,
    Waveform,
)

T = TypeVar("T")
MIN_RECORDING_S = 0.02
"""Shorter recordings hold no sound that could be recognized."""
MAX_SILENCE_S = 2.0
"""Behind a window."""
MAX_LEAD_S = MARGIN_SAMPLES / SAMPLE_RATE
"""In front of a window: so much sound is kept."""


@dataclass(frozen=True)
class SessionOptions:
    """How a recording is cut into windows."""

    vad: VadOptions | None = field(default_factory=VadOptions)
    """How speech is found; None recognizes all of the recording, silence and music too."""
    window: WindowOptions = field(default_factory=WindowOptions)
    block_frames: int = BLOCK_FRAMES
    """Frames of 32 ms in which speech is looked for together: a pause is known so much later at most."""
    silence_s: float = 0.0
    """Digital silence that the recognizer hears behind each window, where there is no time to wait for a real one."""
    lead_s: float = 0.0
    """Sound in front of a window that the recognizer hears too, where speech does not go on from the window before. So
    a short pause is heard by both its neighbours."""

    def __post_init__(self) -> None:
        if self.block_frames < 1:
            raise ConfigError(f"block_frames is {self.block_frames}; allowed are 1 and above")
        if not 0 <= self.silence_s <= MAX_SILENCE_S:
            raise ConfigError(f"silence_s is {self.silence_s:g}; allowed are 0 to {MAX_SILENCE_S:g} seconds")
        if not 0 <= self.lead_s <= MAX_LEAD_S:
            raise ConfigError(f"lead_s is {self.lead_s:g}; allowed are 0 to {MAX_LEAD_S:g} seconds")


@dataclass(frozen=True)
class SessionProgress:
    """Where a session stands."""

    windows: tuple[Span, ...]
    """Those that were decided since."""
    cut: frozenset[int]
    """Windows, by their place, behind which the speech goes on."""
    answered: int
    """Windows that have their answer, from the first on."""
    open_window: Span | None
    fed_s: float
    held_s: float


class Session:
    """One recording from its first sample to its transcript; no threads, no clock, no files.

    Samples come in pieces of any size and answers in any order: the transcript is the same. Samples that no request
    will need are dropped.
    """

    def __init__(
        self,
        limits: ClipLimits,
        task: Task,
        options: SessionOptions = SessionOptions(),
        *,
        source: str = "<stream>",
        model: str = "",
        diarizer: Diarizer | None = None,
    ) -> None:
        """`limits` are those of the recognizer for this task; `source` and `model` are names for messages.

        Where each clip needs the one before it, a window is half as long as a clip may be: it is recognized with its
        predecessor's audio in front and that one's tagged answer as prefix. A prefix of the task begins the first
        window only. A `diarizer` hears every window, and gives its words to speakers.
        """
        self.limits, self.task, self.source = limits, task, source
        self.closed = False
        self.windows: list[Span] = []
        """All windows so far; the `id` of a request is its window's place."""
        self.cut: set[int] = set()
        """Windows, by their place, behind which the speech goes on."""
        self._block = options.block_frames * VAD_FRAME
        self._detector = SpeechDetector(options.vad, options.block_frames)
        longest_s = limits.max_s / (2 if limits.needs_previous else 1) - options.silence_s - options.lead_s
        self._cutter = WindowCutter(options.window, longest_s)
        self._silence = np.zeros(round(options.silence_s * SAMPLE_RATE), dtype=np.float32)
        self._lead = 0 if limits.needs_previous else round(options.lead_s * SAMPLE_RATE)
        self._diarizer = diarizer
        self._stitcher = Stitcher(model, task, diarizer)
        self._incoming: list[NDArray[np.float32]] = []  # less than a block
        self._has_begun = options.vad is None  # there was sound, or silence is to be recognized too
        self._fed = self._base = self._needed = 0  # samples: all, before those that are kept, before the next window
        self._samples = np.zeros(0, dtype=np.float32)
        self._probabilities = np.zeros(0, dtype=np.float32)
        self._clips: dict[int, NDArray[np.float32]] = {}  # of windows whose samples a request will need
        self._in_front: dict[int, int] = {}  # samples in front of a window in its clip
        self._answers: dict[int, Hypothesis | RedlineError] = {}  # that wait for an earlier one
        self._asked = self._stitched = 0  # windows
        self._context: tuple[NDArray[np.float32], str] | None = None  # the window before, and its tagged answer
        self._notices: list[Notice] = []  # about the recording as a whole
        self._reported = [0, 0, 0]  # notices of the recording, of windows, and segments

    @property
    def done(self) -> bool:
        """Whether the sound has ended and every window has its answer."""
        return self.closed and self._stitched == len(self.windows)

    @property
    def waiting(self) -> int:
        """Windows that have no answer yet."""
        return len(self.windows) - self._stitched - len(self._answers)

    @property
    def held_s(self) -> float:
        """Seconds between the first sample that has no answer yet and the last that was fed."""
        if self._stitched < len(self.windows):
            return (self._fed - self.windows[self._stitched].start) / SAMPLE_RATE
        return 0.0 if self.closed else (self._fed - self._needed) / SAMPLE_RATE

    @property
    def fed_s(self) -> float:
        """Seconds of sound so far."""
        return round(self._fed / SAMPLE_RATE, 3)

    @property
    def open_window(self) -> Span | None:
        """The speech that no window holds yet, with its padding as far as it is there; None where nobody speaks."""
        span = None if self.closed else self._cutter.open
        return None if span is None else Span(span.start, min(span.end, self._base + len(self._samples)))

    @property
    def open_pause_s(self) -> float:
        """Seconds of silence so far behind the speech that no window holds yet."""
        end = self._cutter.speech_end
        return 0.0 if end is None else max(0, self._base + len(self._samples) - end) / SAMPLE_RATE

    @property
    def likely_window(self) -> Span | None:
        """The window that comes if nobody speaks until a pause is certain; None where some of its sound is missing."""
        known = self._base + len(self._samples)
        span = None if self.closed or self.limits.needs_previous else self._cutter.likely(known, self._block)
        return None if span is None or span.end > known else span

    def likely_request(self) -> Request | None:
        """What will be asked if that window comes; None where that is not known."""
        if (span := self.likely_window) is None:
            return None
        samples, _ = self._clip_of(span)
        id = len(self.windows)
        return Request(self._with_silence(Waveform(samples, self.source)), self._task_of(id), id)

    def progress(self, known: int = 0) -> SessionProgress:
        """For whoever knows so many windows."""
        windows, cut = tuple(self.windows[known:]), frozenset(self.cut)
        return SessionProgress(windows, cut, self._stitched, self.open_window, self.fed_s, self.held_s)

    def samples_of(self, span: Span) -> NDArray[np.float32]:
        """A copy of the samples of a span that is still kept, such as one of `open_window`."""
        return self._samples[span.start - self._base : span.end - self._base].copy()

    def wants(self, id: int) -> bool:
        """Whether the answer to a request is waited for."""
        return self._stitched <= id < self._asked and id not in self._answers

    def diarize_with(self, diarizer: Diarizer) -> None:
        """Have a diarizer embed every window, before the first request is given out."""
        self._diarizer = self._stitcher.diarizer = diarizer

    def feed(self, samples: NDArray[np.float32]) -> None:
        """More sound: mono float32 samples [n] at 16 kHz, any n; raises `AudioError` for what is no such thing."""
        if self.closed:
            raise ValueError(f"{self.source}: the session is closed, it takes no more samples")
        samples = checked_waveform(Waveform(samples, self.source)).samples
        self._fed += len(samples)
        if not self._has_begun:
            samples = self._without_silence(samples)
        self._incoming.append(samples.copy())
        if sum(map(len, self._incoming)) >= self._block:
            waiting = np.concatenate(self._incoming)
            whole = len(waiting) - len(waiting) % self._block
            for at in range(0, whole, self._block):
                self._push(waiting[at : at + self._block])
            self._incoming = [waiting[whole:].copy()]

    def close(self, warnings: Sequence[Notice] = ()) -> None:
        """The sound has ended; `warnings` say what went wrong in reading it."""
        self._notices += warnings
        if self._fed >= MIN_RECORDING_S * SAMPLE_RATE:
            self._push(np.concatenate([self._samples[:0], *self._incoming]), last=True)
        else:
            message = (
                f"{1000 * self._fed / SAMPLE_RATE:g} ms of audio; at least {1000 * MIN_RECORDING_S:g} ms are needed"
            )
            self._notices.append(Notice("too-short", message))
        self._incoming.clear()
        del self._detector  # it holds half a minute of sound, and many sessions may wait for their answers
        self.closed = True  # with its last window: another thread that looks now must not take it for done

    def ready(self) -> list[Request]:
        """Requests that may be recognized now, each given out once."""
        requests = []
        while self._asked < len(self.windows) and (not self.limits.needs_previous or self._asked == self._stitched):
            requests.append(self._request(self._asked))
            self._asked += 1
        return requests

    def put(self, id: int, outcome: Hypothesis | RedlineError) -> None:
        """The answer to a request, in any order."""
        if not self.wants(id):
            raise ValueError(f"{self.source}: no answer to request {id} is waited for")
        if isinstance(outcome, Hypothesis) and len(self._silence):
            window = self.windows[id]
            outcome = ended(outcome, (self._in_front.get(id, 0) + window.end - window.start) / SAMPLE_RATE)
        if (in_front := self._in_front.pop(id, 0)) and isinstance(outcome, Hypothesis):
            outcome = begun(outcome, in_front / SAMPLE_RATE)
        if self.limits.needs_previous:
            samples, tagged = self._clips.pop(id), outcome.tagged if isinstance(outcome, Hypothesis) else None
            self._context = (samples, tagged) if tagged else None
        self._answers[id] = outcome
        while self._stitched in self._answers:
            self._stitcher.add(self.windows[self._stitched], self._answers.pop(self._stitched))
            self._stitched += 1

    def segments(self) -> list[Segment]:
        """Segments since the last call, in time order."""
        return self._new(2, self._stitcher.segments)

    def notices(self) -> list[Notice]:
        """Notices since the last call."""
        return self._new(0, self._notices) + self._new(1, self._stitcher.notices)

    def finish(self) -> Transcript:
        """The transcript; raises `RecognitionError` when every window failed, `UnsupportedTaskError` when one was
        refused."""
        if not self.done:
            raise ValueError(f"{self.source}: {len(self.windows) - self._stitched} windows wait for answers")
        return self._stitcher.transcript(self.source, self.fed_s, self._notices)

    def interrupted(self) -> Transcript | None:
        """What is done, with notices of the code "interrupted" for what is missing; None where nothing is done.

        It ends the session.
        """
        missing: list[tuple[int, Span]] = []  # last window, and all that is missing up to it
        for id, span in enumerate(self.windows[self._stitched :], start=self._stitched):
            if id in self._answers:
                self._stitcher.add(span, self._answers.pop(id))
            elif missing and missing[-1][0] == id - 1:
                missing[-1] = (id, Span(missing[-1][1].start, span.end))
            else:
                missing.append((id, span))
        message = "the work was interrupted; the speech in this part is not in the text"
        notices = [Notice("interrupted", message, span.start_s, span.end_s) for _, span in missing]
        if not self.closed:
            joined = bool(missing) and missing[-1][0] == len(self.windows) - 1
            start_s = notices.pop().start if joined else Span(self._needed, 0).start_s
            message = "the work was interrupted; what is said from here on is not in the text"
            notices.append(Notice("interrupted", message, start_s, self.fed_s))
        self._notices += notices
        try:
            return (
                self._stitcher.transcript(self.source, self.fed_s, self._notices)
                if self._stitcher.windows or self.done
                else None
            )
        except RecognitionError:
            return None

    def _detect(self, samples: NDArray[np.float32], *, last: bool) -> Detection:
        return self._detector.push(samples, last=last)

    def _without_silence(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """The first sound without digital silence in front: frames, windows and clips are as if that were not there."""
        self._has_begun = bool(samples.any())
        skipped = int(np.argmax(samples != 0)) if self._has_begun else len(samples)
        self._detector.skip(skipped)
        self._base = self._needed = self._base + skipped
        return samples[skipped:]

    def _push(self, samples: NDArray[np.float32], *, last: bool = False) -> None:
        """A block, or what is left at the end, becomes windows as far as they can be decided."""
        self._samples = np.concatenate((self._samples, samples))
        detection = self._detect(samples, last=last)
        self._notices += detection.notices
        self._probabilities = np.concatenate((self._probabilities, detection.probabilities))
        strength = Strength(self._probabilities, self._samples, self._base)
        windows = self._cutter.push(detection.speech, detection.settled, strength)
        self._needed = max(self._base, self._cutter.needed(detection.settled))
        if last:
            windows += self._cutter.close(self._fed, strength)
            self._needed = self._fed
        for number, window in enumerate(windows):
            rest = windows[number + 1] if number + 1 < len(windows) else self._cutter.open
            id = len(self.windows)
            if rest is not None and rest.start == window.end:
                self.cut.add(id)
            self._clips[id], self._in_front[id] = self._clip_of(window)
            self.windows.append(window)
        frames = max(0, self._needed - MARGIN_SAMPLES - self._base) // VAD_FRAME
        self._base += frames * VAD_FRAME
        self._samples = self._samples[frames * VAD_FRAME :].copy()
        self._probabilities = self._probabilities[frames:].copy()

    def _clip_of(self, window: Span) -> tuple[NDArray[np.float32], int]:
        """The samples of the next window with those in front of it, and how many those are."""
        first = window.start - self._base
        lead = 0 if len(self.windows) - 1 in self.cut else min(self._lead, first)
        return self._samples[first - lead : window.end - self._base].copy(), lead

    def _task_of(self, id: int) -> Task:
        return self.task if id == 0 else replace(self.task, prefix=None)

    def _request(self, id: int) -> Request:
        task = self._task_of(id)
        if not self.limits.needs_previous:
            clip = Waveform(self._clips.pop(id), self.source)
            if self._diarizer is not None:
                self._diarizer.embed(id, replace(clip, samples=clip.samples[self._in_front.get(id, 0) :]))
            return Request(self._with_silence(clip), task, id)
        samples = self._clips[id]
        if self._context is not None:
            before, tagged = self._context
            samples, task = np.concatenate((before, samples)), replace(task, prefix=tagged)
            self._in_front[id] = len(before)
        return Request(self._with_silence(Waveform(samples, self.source)), task, id)

    def _with_silence(self, clip: Waveform) -> Waveform:
        if not len(self._silence):
            return clip
        return Waveform(np.concatenate((clip.samples, self._silence)), clip.source)

    def _new(self, kind: int, items: list[T]) -> list[T]:
        new = items[self._reported[kind] :]
        self._reported[kind] = len(items)
        return new
