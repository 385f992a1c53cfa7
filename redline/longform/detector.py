"""Voice activity detection over blocks: where somebody speaks in a recording that is still being read.

Every rule looks at the current block and what came before it, so hours need no more memory than minutes. Blocks of
33 s judge a recording of half a minute as a whole; those of a live stream are as short as an answer should be quick.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from redline.audio.levels import CLIPPED, LOUD_DB, ClippingMeter, is_silent
from redline.longform.vad import BLOCK_FRAMES, VAD_FRAME, SileroVad, SpeechSpans, VadOptions, frame_levels
from redline.types import SAMPLE_RATE, Notice, Span

_RAISED_DB = -20.0  # what the network gets the loudest frame of a quieter or overdriven recording brought to
_SECOND_LOOK = VadOptions(onset=0.15, offset=0.1)
_LEAST_FRAMES = 64  # 2 s, less of which says little about whether there is sound at all


@dataclass(frozen=True)
class Detection:
    """What a block decides: speech that is certain, before which sample everything is, probabilities of frames."""

    speech: list[Span]
    settled: int
    probabilities: NDArray[np.float32]
    notices: list[Notice]


class SpeechDetector:
    """Blocks of one recording in time order -> speech, and notices about the recording; without options all is speech.

    - Level: the network misses words of quiet and overdriven recordings, so it gets each block with the gain that suits
      the loudest frame so far, this block's among them.
    - Silence: a block of digital silence or of a converter's noise holds no speech, and the network does not see it.
    - Second look: where no speech has been found in the recording yet, a lower threshold decides, for up to 600 s at a
      time; what it finds is given up when clear speech comes within that time (`VadOptions.second_look_s`).
    - Clipping: measured as `ClippingMeter` does; the notice names the share of all samples.
    """

    def __init__(self, options: VadOptions | None, block_frames: int = BLOCK_FRAMES) -> None:
        """`block_frames` are judged together, each frame of 32 ms."""
        self._block = block_frames * VAD_FRAME
        self._recent = max(block_frames, _LEAST_FRAMES) * VAD_FRAME
        self._second_look = 0 if options is None else round(options.second_look_s * SAMPLE_RATE)
        self._vad = SileroVad()
        self._clear = None if options is None else SpeechSpans(options)
        self._faint = SpeechSpans(_SECOND_LOOK)
        self._held: dict[int, Span] = {}  # faint speech by its start, until it is known whether there is clear speech
        self._stretch = 0  # samples that the second look has seen since it last decided
        self._any_clear = self._any_faint = False
        self._loudest_db = -np.inf
        self._silent = True
        self._previous = np.zeros(0, dtype=np.float32)
        self._end = 0
        self._clipping = ClippingMeter()

    def skip(self, samples: int) -> None:
        """Digital silence in front of the first block: frames begin behind it."""
        self._end += samples
        self._clipping.skip(samples)
        for spans in filter(None, (self._clear, self._faint)):
            spans.skip(samples)

    def push(self, samples: NDArray[np.float32], *, last: bool = False) -> Detection:
        """The next block, of the same number of samples except at the end."""
        self._end += len(samples)
        levels = frame_levels(samples)
        self._clipping.feed(samples)
        if self._clear is None:
            return Detection([Span(0, self._end)], 0, np.zeros_like(levels), self._summary() if last else [])
        probabilities = self._probabilities(samples, levels)
        speech, notices = self._clear.push(probabilities, self._end), list[Notice]()
        settled = self._clear.settled
        self._any_clear = self._any_clear or bool(speech)
        if not self._any_clear and self._second_look:
            speech, settled = self._look_again(probabilities, settled, last)
            if speech:
                message = "speech was found only at a second, more sensitive look; check the text"
                notices = [Notice("faint-speech", message, speech[0].start_s, speech[-1].end_s)]
                self._any_faint = True
        return Detection(speech, settled, probabilities, self._summary() + notices if last else notices)

    def _probabilities(self, samples: NDArray[np.float32], levels: NDArray[np.float32]) -> NDArray[np.float32]:
        self._loudest_db = max(self._loudest_db, float(levels.max(initial=-np.inf)))
        # A short rest says little about itself: it is judged together with the end of the block before it.
        recent = np.concatenate((self._previous, samples))[-self._recent :]
        self._previous = recent
        if not len(samples) or is_silent(recent):
            self._vad = SileroVad()  # what follows is judged as a beginning
            return np.zeros(len(levels), dtype=np.float32)
        self._silent = False
        usual = _RAISED_DB <= self._loudest_db <= LOUD_DB
        return self._vad.probabilities(samples, 1.0 if usual else 10 ** ((_RAISED_DB - self._loudest_db) / 20))

    def _look_again(self, probabilities: NDArray[np.float32], settled: int, last: bool) -> tuple[list[Span], int]:
        """Faint speech, and before which sample it is known, where no clear speech has been found."""
        for span in self._faint.push(probabilities, self._end):
            self._held[span.start] = span
        self._stretch += self._block
        if not last and self._stretch + self._block <= self._second_look:
            return [], min([settled, self._faint.settled, *self._held])
        speech, self._held, self._stretch = [*self._held.values()], {}, 0
        return speech, self._faint.settled

    def _summary(self) -> list[Notice]:
        notices = []
        if (share := self._clipping.share) >= CLIPPED:
            message = (
                f"{100 * share:.1f} % of the samples are clipped: it was too loud for the recorder, and what was cut "
                "off cannot be heard, so check the text; record with less gain, or use the original if this is a copy"
            )
            notices.append(Notice("clipped", message))
        if self._clear is not None and not self._any_clear and not self._any_faint:
            message = (
                f"no speech was found, though the recording is not silent (its loudest part is at "
                f"{self._loudest_db:.0f} dBFS); if someone does speak in it, switch speech detection off (vad=False, "
                "--no-vad)"
            )
            message = "no speech; the recording is silent" if self._silent else message
            notices.append(Notice("no-speech", message))
        return notices
