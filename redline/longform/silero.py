"""The 16 kHz network of Silero VAD 6 (github.com/snakers4/silero-vad, MIT) in numpy: speech in frames of 32 ms.

Written out because many frames then go through the convolutions at once and only the LSTM walks through time, and in
numpy because live streams ask for three frames at a time, for which PyTorch takes longer to call its functions than to
compute. Products are of `_GROUP` frames, filled with zeros, in which each frame has the place of its number, so it is
the same to the bit whatever frames come with it. The weights are those inside the `silero-vad` package, importing which
would set PyTorch to one thread for the whole process.

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
_GROUP = 8  # frames: larger products are hardly faster, and those of a live stream, which has three, slower


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
class State:
    """The LSTM's hidden and cell state [128], and the frames that it has had."""

    hidden: Floats
    cell: Floats
    frames: int


@dataclass(frozen=True)
class SileroNet:
    """Frames in time order -> probabilities of speech, with the state of an LSTM between calls."""

    basis: Floats  # [256, 258], cosines and sines
    convolutions: tuple[Map, ...]  # over three steps, [3 * C, C']
    inputs: Map  # [128, 512]: input, forget, cell and output gates
    recurrent: Floats  # [128, 512]
    final: Floats  # [128]
    final_bias: float

    @np.errstate(over="ignore")  # of `_sigmoid`
    def __call__(self, frames: Floats, state: State) -> tuple[Floats, State]:
        """Frames with their context [W, 576], and the state before them -> probabilities [W] and the state."""
        place, count = state.frames % _GROUP, len(frames)
        before, behind = (np.zeros((n, frames.shape[1]), np.float32) for n in (place, -(place + count) % _GROUP))
        gates = self._gates(np.concatenate((before, frames, behind)))
        states, hidden, cell = self._remembered(gates[place : place + count], state)
        speech = _sigmoid((np.maximum(states, 0.0) * self.final).sum(axis=1) + np.float32(self.final_bias))
        return speech, State(hidden, cell, state.frames + count)

    def _gates(self, frames: Floats) -> Floats:
        """What frames add to the gates of the LSTM: [W, 576] -> [W, 512]."""
        mirrored = np.concatenate((frames, frames[:, -2 : -2 - _REFLECT : -1]), axis=1)  # [W, 640]
        halves = mirrored.reshape(len(frames), -1, _HOP)  # [W, 5, 128]
        windows = np.concatenate((halves[:, :-1], halves[:, 1:]), axis=2)  # [W, 4, 256]
        parts = np.square(_in_groups(windows, self.basis))
        x = np.sqrt(parts[:, :, :_BINS] + parts[:, :, _BINS:])  # [W, 4, 129]
        for convolution, stride in zip(self.convolutions, _STRIDES, strict=True):
            x = np.maximum(_convolved(x, convolution, stride), 0.0)
        return np.asarray((_in_groups(x, self.inputs.weight) + self.inputs.bias)[:, 0])

    def _remembered(self, gates: Floats, state: State) -> tuple[Floats, Floats, Floats]:
        """The LSTM: what frames add to its gates [W, 512] -> its hidden states [W, 128], the last one, and the cell."""
        hidden, cell = state.hidden, state.cell.copy()
        states = np.empty((len(gates), _WIDTH), dtype=np.float32)
        own, candidate = np.empty_like(self.inputs.bias), np.empty_like(cell)
        open_ = np.empty_like(own)
        taken, kept, _, shown = open_.reshape(4, _WIDTH)
        for number, given in enumerate(gates):  # in place: each operation takes less time than new memory
            np.dot(hidden, self.recurrent, out=own)
            np.add(own, given, out=own)
            _sigmoid(own, out=open_)
            np.tanh(own[2 * _WIDTH : 3 * _WIDTH], out=candidate)
            np.multiply(candidate, taken, out=candidate)
            np.multiply(cell, kept, out=cell)
            np.add(cell, candidate, out=cell)
            np.tanh(cell, out=candidate)
            hidden = np.multiply(shown, candidate, out=states[number])
        return states, hidden.copy(), cell


ZERO_STATE = State(np.zeros(_WIDTH, dtype=np.float32), np.zeros(_WIDTH, dtype=np.float32), 0)


def _convolved(x: Floats, convolution: Map, stride: int) -> Floats:
    """A convolution over three of T steps, with one of padding: [W, T, C] -> [W, ceil(T / stride), C']."""
    W, T, C = x.shape
    padded = np.zeros((W, T + 2, C), dtype=np.float32)
    padded[:, 1:-1] = x
    steps = np.concatenate([padded[:, tap : tap + T : stride] for tap in range(3)], axis=2)  # [W, T', 3 * C]
    return _in_groups(steps, convolution.weight) + convolution.bias


def _in_groups(x: Floats, weight: Floats) -> Floats:
    """Products of `_GROUP` frames each: [W, T, K] and [K, N] -> [W, T, N]."""
    W, T, K = x.shape
    return np.asarray((x.reshape(-1, _GROUP * T, K) @ weight).reshape(W, T, -1))


def _sigmoid(x: Floats, out: Floats | None = None) -> Floats:
    out = np.negative(x, out=out)
    np.exp(out, out=out)  # far below zero it is infinite, and the quotient the right 0
    np.add(out, 1.0, out=out)
    return np.reciprocal(out, out=out)


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
