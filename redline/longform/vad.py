"""Speech activity: Silero VAD over a recording of any length -> one probability per 32 ms -> spans of speech.

The weights are those inside the `silero-vad` package. The network is written out here because many frames then go
through the convolutions at once and only the LSTM walks through time: an hour takes seconds. Importing `silero_vad`
itself would set PyTorch to one thread for the whole process.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from redline.threads import check_fork
from redline.types import SAMPLE_RATE, Span

FRAME = 512
"""Samples per probability: 32 ms at 16 kHz."""
_CONTEXT = 64  # samples of the previous frame in front of each frame
_REFLECT = 64  # samples mirrored behind it
_BLOCK = 1024  # frames per forward pass, 33 s: what bounds the memory


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

    def __post_init__(self) -> None:
        if not 0 < self.offset <= self.onset < 1:
            raise ValueError(f"offset {self.offset}, onset {self.onset}; allowed is 0 < offset <= onset < 1")


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
    found = importlib.util.find_spec("silero_vad")
    if found is None or found.origin is None:
        raise ImportError("silero-vad is not installed; pip install silero-vad")
    path = Path(found.origin).parent / "data" / "silero_vad.jit"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the package ships these weights in no newer form
        packaged = torch.jit.load(str(path), map_location="cpu")
    weights = packaged.state_dict()
    network = SileroNet()
    network.load_state_dict({ours: weights[f"_model.{theirs}"] for ours, theirs in _NAMES.items()})
    return network.eval()


@torch.inference_mode()
def speech_probabilities(
    samples: NDArray[np.float32], *, gain: float = 1.0, progress: Callable[[float], None] | None = None
) -> NDArray[np.float32]:
    """Samples [N] times `gain` -> the probability of speech in each 32 ms frame, [ceil(N / 512)].

    The recording goes through in blocks of half a minute with the state carried on, so memory stays flat and the
    answer does not depend on the blocks. `progress` gets the seconds done after each block.
    """
    check_fork()
    N = len(samples)
    frames = -(-N // FRAME)
    network = _network()
    state: tuple[Tensor, Tensor] | None = None
    probabilities = np.empty(frames, dtype=np.float32)
    for first in range(0, frames, _BLOCK):
        last = min(first + _BLOCK, frames)
        block = np.zeros(_CONTEXT + (last - first) * FRAME, dtype=np.float32)
        begin = max(0, first * FRAME - _CONTEXT)
        known = samples[begin : last * FRAME]
        at = begin - (first * FRAME - _CONTEXT)
        np.multiply(known, np.float32(gain), out=block[at : at + len(known)])
        windows = torch.from_numpy(block).unfold(0, _CONTEXT + FRAME, FRAME)  # [W, 576]
        values, state = network(windows, state)
        probabilities[first:last] = values.numpy()
        if progress is not None:
            progress(min(last * FRAME, N) / SAMPLE_RATE)
    return probabilities


def frame_levels(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Samples [N] -> the level of each 32 ms frame in dB below full scale, never under -120, [ceil(N / 512)]."""
    N = len(samples)
    power = np.empty(-(-N // FRAME), dtype=np.float32)
    for first in range(0, len(power), _BLOCK):
        block = samples[first * FRAME : (first + _BLOCK) * FRAME]
        starts = np.arange(0, len(block), FRAME)
        counts = np.diff(np.append(starts, len(block)))
        power[first : first + len(starts)] = np.add.reduceat(np.square(block), starts) / counts
    levels: NDArray[np.float32] = 10 * np.log10(np.maximum(power, np.float32(1e-12)))
    return levels


def speech_spans(
    probabilities: NDArray[np.float32], num_samples: int, options: VadOptions = VadOptions()
) -> list[Span]:
    """Probabilities [frames] -> spans of speech in samples, in time order, by hysteresis between onset and offset."""
    spans: list[Span] = []
    start: int | None = None
    for frame, probability in enumerate(probabilities.tolist()):
        if start is None:
            if probability >= options.onset:
                start = frame
        elif probability < options.offset:
            spans.append(Span(start * FRAME, frame * FRAME))
            start = None
    if start is not None:
        spans.append(Span(start * FRAME, num_samples))
    joined: list[Span] = []
    for span in spans:
        if joined and span.start - joined[-1].end < options.min_silence_s * SAMPLE_RATE:
            joined[-1] = Span(joined[-1].start, span.end)
        else:
            joined.append(span)
    return [span for span in joined if span.end - span.start >= options.min_speech_s * SAMPLE_RATE]
