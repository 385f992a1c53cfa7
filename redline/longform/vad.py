"""Voice activity detection (VAD): Silero over blocks of samples -> one probability per 32 ms -> spans of speech."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from redline.errors import ConfigError
from redline.longform.silero import CONTEXT, ZERO_STATE, silero_net
from redline.threads import check_fork
from redline.types import SAMPLE_RATE, Span

VAD_FRAME = 512
"""Samples per probability: 32 ms at 16 kHz."""
_AT_ONCE = 64  # frames of which all is in the cache; memory of more would be new each time
BLOCK_FRAMES = 1024
VAD_BLOCK = BLOCK_FRAMES * VAD_FRAME
"""Samples of a recording that are judged together, 33 s: what bounds memory and look-ahead."""


@dataclass(frozen=True)
class VadOptions:
    """When speech begins and ends; probabilities from 0 to 1, times in seconds."""

    onset: float = 0.5
    """Speech begins at this probability."""
    offset: float = 0.35
    """Speech ends below this probability."""
    min_speech_s: float = 0.1
    """Shorter bursts are clicks."""
    min_silence_s: float = 0.35
    """Shorter pauses do not end speech."""
    second_look_s: float = 600.0
    """Where no speech has been found yet, what a lower threshold finds is held so long, and then believed; 0: never."""

    def __post_init__(self) -> None:
        if not 0 < self.offset <= self.onset < 1:
            raise ConfigError(f"offset {self.offset:g}, onset {self.onset:g}; allowed is 0 < offset <= onset < 1")
        for name in ("min_speech_s", "min_silence_s", "second_look_s"):
            if not 0 <= (seconds := getattr(self, name)) < math.inf:
                raise ConfigError(f"{name} is {seconds:g}; allowed are seconds from 0 on")


class SileroVad:
    """The network with its state: blocks of one recording in time order -> probabilities of speech."""

    def __init__(self) -> None:
        self._state = ZERO_STATE
        self._before = np.zeros(CONTEXT, dtype=np.float32)

    def probabilities(self, samples: NDArray[np.float32], gain: float = 1.0) -> NDArray[np.float32]:
        """The next samples [N] times `gain` -> the probability of speech in each 32 ms frame, [ceil(N / 512)].

        N is a multiple of 512 except at the end of the recording; the answer does not depend on the blocks.
        """
        check_fork()
        W = -(-len(samples) // VAD_FRAME)
        block = np.zeros(CONTEXT + W * VAD_FRAME, dtype=np.float32)
        block[:CONTEXT] = self._before
        block[CONTEXT : CONTEXT + len(samples)] = samples
        self._before = block[-CONTEXT:].copy()
        # A view, [W, 576]: `sliding_window_view` takes as long as half the network.
        frames = np.ndarray((W, CONTEXT + VAD_FRAME), np.float32, block * np.float32(gain), 0, (4 * VAD_FRAME, 4))
        parts = [np.zeros(0, dtype=np.float32)]
        for at in range(0, W, _AT_ONCE):
            speech, self._state = silero_net()(frames[at : at + _AT_ONCE], self._state)
            parts.append(speech)
        return np.concatenate(parts)


def frame_levels(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Samples [N] -> the level of each 32 ms frame in dB below full scale, never under -120, [ceil(N / 512)]."""
    whole = len(samples) // VAD_FRAME
    frames, rest = samples[: whole * VAD_FRAME].reshape(whole, VAD_FRAME), samples[whole * VAD_FRAME :]
    power = np.einsum("ij,ij->i", frames, frames) / np.float32(VAD_FRAME)
    if len(rest):
        power = np.append(power, np.square(rest).mean())
    levels: NDArray[np.float32] = 10 * np.log10(np.maximum(power, np.float32(1e-12)))
    return levels


class SpeechSpans:
    """Hysteresis thresholding between onset and offset: probabilities as they come -> spans of speech in samples."""

    def __init__(self, options: VadOptions = VadOptions()) -> None:
        self.settled = 0
        """Speech that is not yet certain begins here at the earliest."""
        self._options = options
        self._frames, self._origin = 0, 0
        self._onset: int | None = None  # of speech that goes on
        self._last: Span | None = None  # has ended, but a short pause would join it to what follows

    def skip(self, samples: int) -> None:
        """Samples in front of the first frame."""
        self._origin += samples
        self.settled += samples

    def push(self, probabilities: NDArray[np.float32], end: int) -> list[Span]:
        """Probabilities of the next frames, which end at sample `end` -> what is certain, in time order.

        A span that goes on is given as far as it is known, and again, with the same start, when more of it is.
        """
        runs = [] if self._last is None else [self._last]
        for frame, probability in enumerate(probabilities.tolist(), start=self._frames):
            start = self._origin + frame * VAD_FRAME
            if self._onset is None:
                if probability >= self._options.onset:
                    self._onset = start
            elif probability < self._options.offset:
                runs.append(Span(self._onset, start))
                self._onset = None
        self._frames += len(probabilities)
        if self._onset is not None:
            runs.append(Span(self._onset, end))
        pause, shortest = self._options.min_silence_s * SAMPLE_RATE, self._options.min_speech_s * SAMPLE_RATE
        spans: list[Span] = []
        for run in runs:
            if spans and run.start - spans[-1].end < pause:
                spans[-1] = Span(spans[-1].start, run.end)
            else:
                spans.append(run)
        certain = [span for span in spans if span.end - span.start >= shortest]
        self.settled, self._last = end, None
        if self._onset is not None:
            self._onset = spans[-1].start
            self.settled = end if spans[-1] in certain else spans[-1].start
        elif spans and end - spans[-1].end < pause:
            self._last = spans[-1]
            self.settled = spans[-1].end if spans[-1] in certain else spans[-1].start
        return certain
