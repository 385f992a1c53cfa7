"""The 16 kHz network of Silero VAD 6 (github.com/snakers4/silero-vad, MIT) in numpy: speech in frames of 32 ms.

Written out because many frames then go through the convolutions at once and only the LSTM walks through time, and in
numpy because live streams ask for three frames at a time, for which PyTorch takes longer to call its functions than to
compute. Every frame has products of its own, so it is the same whatever the other frames are. The weights are those
inside the `silero-vad` package, importing which would set PyTorch to one thread for the whole process.

W frames, T steps of 8 ms in a frame, C channels.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from redline.types import Floats

CONTEXT = 64
"""Samples of the previous frame in front of each frame."""
_REFLECT = 64  # samples mirrored behind it
_HOP = 128  # samples between two spectra, each of 256
_BINS = _HOP + 1
_STRIDES = (1, 2, 2, 1)
_WIDTH = 128


@dataclass(frozen=True)
class Map:
    """A linear map: weights [K, N] and bias [N]."""

    weight: Floats
    bias: Floats

    @classmethod
    def of(cls, weight: torch.Tensor, *biases: torch.Tensor) -> Map:
        """One of a layer's weights [N, C] or [N, C, taps], and the sum of its biases."""
        bias = sum((each.numpy() for each in biases[1:]), start=biases[0].numpy())
        by_tap = weight if weight.ndim == 2 else weight.transpose(1, 2).flatten(1)  # [N, taps * C]
        return cls(np.ascontiguousarray(by_tap.numpy().T), np.asarray(bias, dtype=np.float32))


@dataclass(frozen=True)
class SileroNet:
    """Frames in time order -> probabilities of speech, with the state of an LSTM between calls."""

    basis: Floats  # [256, 258], cosines and sines
    convolutions: tuple[Map, ...]  # over three steps, [3 * C, C']
    inputs: Map  # [128, 512]: input, forget, cell and output gates
    recurrent: Floats  # [128, 512]
    final: Floats  # [128]
    final_bias: float

    def __call__(self, frames: Floats, state: tuple[Floats, Floats]) -> tuple[Floats, tuple[Floats, Floats]]:
        """Frames with their context [W, 576], and hidden and cell state [128] -> probabilities [W] and the state."""
        mirrored = np.concatenate((frames, frames[:, -2 : -2 - _REFLECT : -1]), axis=1)  # [W, 640]
        halves = mirrored.reshape(len(frames), -1, _HOP)  # [W, 5, 128]
        windows = np.concatenate((halves[:, :-1], halves[:, 1:]), axis=2)  # [W, 4, 256]
        parts = np.square(windows @ self.basis)
        x = np.sqrt(parts[:, :, :_BINS] + parts[:, :, _BINS:])  # [W, 4, 129]
        for convolution, stride in zip(self.convolutions, _STRIDES, strict=True):
            x = np.maximum(_convolved(x, convolution, stride), 0.0)
        gates = x @ self.inputs.weight + self.inputs.bias  # [W, 1, 512]
        hidden, cell = state
        states = np.empty((len(frames), _WIDTH), dtype=np.float32)
        for number, own in enumerate(gates[:, 0]):
            own = own + hidden @ self.recurrent
            taken, kept, _, shown = _sigmoid(own).reshape(4, _WIDTH)
            cell = kept * cell + taken * np.tanh(own[2 * _WIDTH : 3 * _WIDTH])
            states[number] = hidden = shown * np.tanh(cell)
        speech = _sigmoid((np.maximum(states, 0.0) * self.final).sum(axis=1) + np.float32(self.final_bias))
        return speech, (hidden, cell)


ZERO_STATE = (np.zeros(_WIDTH, dtype=np.float32), np.zeros(_WIDTH, dtype=np.float32))


def _convolved(x: Floats, convolution: Map, stride: int) -> Floats:
    """A convolution over three of T steps, with one of padding: [W, T, C] -> [W, ceil(T / stride), C']."""
    W, T, C = x.shape
    padded = np.zeros((W, T + 2, C), dtype=np.float32)
    padded[:, 1:-1] = x
    steps = np.concatenate([padded[:, tap : tap + T : stride] for tap in range(3)], axis=2)  # [W, T', 3 * C]
    return np.asarray(steps @ convolution.weight + convolution.bias)


def _sigmoid(x: Floats) -> Floats:
    with np.errstate(over="ignore"):  # far below zero the exponential is infinite, and the quotient the right 0
        return np.asarray(1.0 / (1.0 + np.exp(-x)), dtype=np.float32)


@functools.cache
def silero_net() -> SileroNet:
    """The network of the installed package; raises `ImportError` where there is none."""
    spec = importlib.util.find_spec("silero_vad")
    if spec is None or spec.origin is None:
        raise ImportError("silero-vad is not installed; pip install silero-vad")
    path = Path(spec.origin).parent / "data" / "silero_vad.jit"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the package ships these weights in no newer form
        packaged = torch.jit.load(str(path), map_location="cpu")
    own = {name.removeprefix("_model."): tensor for name, tensor in packaged.state_dict().items()}
    encoder, rnn, final = "encoder.{}.reparam_conv.{}", "decoder.rnn.{}", "decoder.decoder.2.{}"
    basis = own["stft.forward_basis_buffer"].flatten(1).numpy().T
    inputs = Map.of(own[rnn.format("weight_ih")], own[rnn.format("bias_ih")], own[rnn.format("bias_hh")])
    return SileroNet(
        np.ascontiguousarray(basis),
        tuple(Map.of(own[encoder.format(n, "weight")], own[encoder.format(n, "bias")]) for n in range(len(_STRIDES))),
        inputs,
        np.ascontiguousarray(own[rnn.format("weight_hh")].numpy().T),
        own[final.format("weight")].flatten().numpy(),
        float(own[final.format("bias")]),
    )
