"""Voice activity detection (VAD): Silero over blocks of samples -> one probability per 32 ms -> spans of speech.

The weights are those inside the `silero-vad` package. The network is written out here because many frames then go
through the convolutions at once and only the LSTM walks through time: an hour takes seconds. Importing `silero_vad`
itself would set PyTorch to one thread for the whole process.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from redline.errors import ConfigError
from redline.threads import check_fork
from redline.types import SAMPLE_RATE, Span

VAD_FRAME = 512
"""Samples per probability: 32 ms at 16 kHz."""
_CONTEXT = 64  # samples of the previous frame in front of each frame
_REFLECT = 64  # samples mirrored behind it
_AT_ONCE = 256  # frames; oneDNN keeps memory for every number of them that it has met
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


class SileroNet(nn.Module):
    """The 16 kHz network of Silero VAD 6 (github.com/snakers4/silero-vad, MIT)."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm = nn.LSTM(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Frames with their context, in time order [W, 576] -> speech probabilities [W] and the LSTM's state."""
        W, _ = x.shape
        x = nn.functional.pad(x[:, None], (0, _REFLECT), mode="reflect")  # [W, 1, 640]
        real, imaginary = self.stft_conv(x).chunk(2, dim=1)
        x = (real.square() + imaginary.square()).sqrt()  # [W, 129, 4]
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = conv(x).relu()
        x, state = self.lstm(x.reshape(W, 1, 128), state)
        x = self.final_conv(x.relu().transpose(1, 2)).sigmoid()
        return x.reshape(W), cast("tuple[Tensor, Tensor]", state)


_NAMES = {
    "stft_conv.weight": "stft.forward_basis_buffer",
    **{f"conv{n + 1}.{kind}": f"encoder.{n}.reparam_conv.{kind}" for n in range(4) for kind in ("weight", "bias")},
    **{f"lstm.{kind}_{side}_l0": f"decoder.rnn.{kind}_{side}" for kind in ("weight", "bias") for side in ("ih", "hh")},
    "final_conv.weight": "decoder.decoder.2.weight",
    "final_conv.bias": "decoder.decoder.2.bias",
}


@functools.cache
def _network() -> SileroNet:
    spec = importlib.util.find_spec("silero_vad")
    if spec is None or spec.origin is None:
        raise ImportError("silero-vad is not installed; pip install silero-vad")
    path = Path(spec.origin).parent / "data" / "silero_vad.jit"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the package ships these weights in no newer form
        packaged = torch.jit.load(str(path), map_location="cpu")
    weights = packaged.state_dict()
    network = SileroNet()
    network.load_state_dict({ours: weights[f"_model.{theirs}"] for ours, theirs in _NAMES.items()})
    return network.eval()


class SileroVad:
    """The network with its state: blocks of one recording in time order -> probabilities of speech."""

    def __init__(self) -> None:
        self._state: tuple[Tensor, Tensor] | None = None
        self._before = np.zeros(_CONTEXT, dtype=np.float32)

    @torch.inference_mode()
    def probabilities(self, samples: NDArray[np.float32], gain: float = 1.0) -> NDArray[np.float32]:
        """The next samples [N] times `gain` -> the probability of speech in each 32 ms frame, [ceil(N / 512)].

        N is a multiple of 512 except at the end of the recording; the answer does not depend on the blocks.
        """
        check_fork()
        W = -(-len(samples) // VAD_FRAME)
        block = np.zeros(_CONTEXT + W * VAD_FRAME, dtype=np.float32)
        block[:_CONTEXT] = self._before
        block[_CONTEXT : _CONTEXT + len(samples)] = samples
        self._before = block[-_CONTEXT:].copy()
        frames = torch.from_numpy(block * np.float32(gain)).unfold(0, _CONTEXT + VAD_FRAME, VAD_FRAME)  # [W, 576]
        parts = [np.zeros(0, dtype=np.float32)]
        for some in frames.split(_AT_ONCE):
            values, self._state = _network()(some, self._state)
            parts.append(values.numpy())
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
        self._frames = 0
        self._onset: int | None = None  # of speech that goes on
        self._last: Span | None = None  # has ended, but a short pause would join it to what follows

    def push(self, probabilities: NDArray[np.float32], end: int) -> list[Span]:
        """Probabilities of the next frames, which end at sample `end` -> what is certain, in time order.

        A span that goes on is given as far as it is known, and again, with the same start, when more of it is.
        """
        runs = [] if self._last is None else [self._last]
        for frame, probability in enumerate(probabilities.tolist(), start=self._frames):
            if self._onset is None:
                if probability >= self._options.onset:
                    self._onset = frame * VAD_FRAME
            elif probability < self._options.offset:
                runs.append(Span(self._onset, frame * VAD_FRAME))
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
