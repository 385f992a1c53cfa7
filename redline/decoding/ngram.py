"""The draft's language model: token n-grams with back-off, packed into a few bytes each.

A checkpoint may hold one beside its weights, `draft_lm.safetensors`. An n-gram is one int64: its tokens, newest
lowest, a fixed number of bits each. On disk the n-grams of one order stand in the order of those numbers and only
their last tokens are written; two bits an n-gram say whose they are:

    tokens.n   last token of each n-gram                 probs.n     its log probability, in 256 steps
    heads.n    bit: the first with its history           parents.n   bit: some (n + 1)-gram goes on from it
    backoffs.n log back-off weight of each parent, in 256 steps
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor

from redline import tensor_file, untrusted
from redline.decoding.ctc_beam import BeamOptions
from redline.errors import CheckpointError, ConfigError
from redline.files import settle

NAME = "draft_lm.safetensors"
FORMAT = "redline n-grams 1"
STEPS = 255


@dataclass(frozen=True)
class Grams:
    """The n-grams of one order, sorted by key."""

    keys: NDArray[np.int64]
    probs: NDArray[np.float32]
    """Natural logs."""
    backoffs: NDArray[np.float32]
    """Natural logs; 0 where nothing goes on from the n-gram."""


class NgramLM:
    """A back-off model over the tokens of a draft: `decoding.beam.LanguageModel` on any device."""

    def __init__(self, orders: Sequence[Grams], vocab_size: int, boundary: int, options: BeamOptions) -> None:
        """`boundary` is the token before each text; `options` suit the encoder that the model was made for."""
        self.bits = bits_for(vocab_size, len(orders))
        self.vocab_size = vocab_size
        self.boundary = boundary
        self.options = options
        self.keys = [torch.from_numpy(grams.keys) for grams in orders]
        self.probs = [torch.from_numpy(grams.probs) for grams in orders]
        self.backoffs = [torch.from_numpy(grams.backoffs) for grams in orders]
        self.unknown = float(min(grams.probs.min() for grams in orders))

    @property
    def order(self) -> int:
        """Tokens in the longest n-gram."""
        return len(self.keys)

    @property
    def device(self) -> torch.device:
        """Where the tables are."""
        return self.keys[0].device

    @property
    def count(self) -> int:
        """All n-grams."""
        return sum(len(keys) for keys in self.keys)

    def to(self, device: torch.device | str) -> NgramLM:
        """Move the tables; returns itself."""
        for tables in (self.keys, self.probs, self.backoffs):
            tables[:] = [table.to(device) for table in tables]
        return self

    def start(self) -> int:
        """The history before the first token."""
        return self.boundary

    def advance(self, histories: Tensor, tokens: Tensor) -> Tensor:
        """The histories after one more token each, both [N]."""
        return ((histories << self.bits) | tokens) & ((1 << (self.bits * (self.order - 1))) - 1)

    def score(self, histories: Tensor, tokens: Tensor) -> Tensor:
        """Natural log of each token's probability after its history: [N] int64 each -> [N] float32.

        The longest n-gram that is known counts; every history that had to be shortened on the way adds its weight.
        """
        whole = (histories << self.bits) | tokens
        result = torch.zeros(len(whole), device=whole.device)
        left = torch.arange(len(whole), device=whole.device)
        for order in range(self.order, 0, -1):
            keys = whole[left] & ((1 << (self.bits * order)) - 1)
            at, known = _find(self.keys[order - 1], keys)
            result[left[known]] += self.probs[order - 1][at[known]]
            left, keys = left[~known], keys[~known]
            if not len(left):
                return result
            if order > 1:
                at, known = _find(self.keys[order - 2], keys >> self.bits)
                result[left[known]] += self.backoffs[order - 2][at[known]]
        result[left] += self.unknown
        return result

    def save(self, folder: Path) -> Path:
        """Write `draft_lm.safetensors` into a checkpoint's folder, whole or not at all."""
        arrays: dict[str, NDArray[np.generic]] = {}
        low = self.unknown, min(float(table.min()) for table in self.backoffs)
        high = 0.0, max(float(table.max()) for table in self.backoffs)
        arrays["range"] = np.array((low, high), dtype=np.float32)
        narrow = np.int16 if self.vocab_size < 2**15 else np.int32
        for order in range(1, self.order + 1):
            keys = self.keys[order - 1].cpu().numpy()
            arrays[f"tokens.{order}"] = (keys & ((1 << self.bits) - 1)).astype(narrow)
            arrays[f"probs.{order}"] = _steps(self.probs[order - 1].cpu().numpy(), low[0], high[0])
            history = keys >> self.bits
            arrays[f"heads.{order}"] = np.packbits(np.diff(history, prepend=-1) != 0)
            if order < self.order:
                is_parent = np.isin(keys, self.keys[order].cpu().numpy() >> self.bits)
                arrays[f"parents.{order}"] = np.packbits(is_parent)
                backoffs = self.backoffs[order - 1].cpu().numpy()[is_parent]
                arrays[f"backoffs.{order}"] = _steps(backoffs, low[1], high[1])
        about = {"format": FORMAT, "vocab_size": self.vocab_size, "boundary": self.boundary, "order": self.order}
        metadata = {key: str(value) for key, value in {**about, **vars(self.options)}.items()}
        partial = folder / f"{NAME}.partial"
        save_file(arrays, partial, metadata=metadata)
        return settle(partial, folder / NAME)

    @classmethod
    def load(cls, path: Path, vocab_size: int) -> NgramLM:
        """Read a file that `save` wrote; raises `CheckpointError` when it is none, or for another vocabulary."""
        tensors, about = tensor_file.load(path)
        if about.get("format") != FORMAT:
            raise CheckpointError(f"{path}: format is {about.get('format')!r:.80}; {FORMAT!r} can be read")
        if about.get("vocab_size") != str(vocab_size):
            made_for = str(about.get("vocab_size"))[:32]
            raise CheckpointError(
                f"{path}: made for a vocabulary of {made_for} tokens, the model has {vocab_size}; "
                "make one with the model's own tokenizer"
            )
        try:
            defaults = vars(BeamOptions())
            options = BeamOptions(**{key: type(value)(about.get(key, value)) for key, value in defaults.items()})
            order, boundary = int(about["order"]), int(about["boundary"])
            _demand(0 <= boundary < vocab_size, f"boundary {boundary}")
            _demand(1 <= order <= 63, f"order {order}")
            orders = _unpack({name: tensor.numpy() for name, tensor in tensors.items()}, order, vocab_size)
            return cls(orders, vocab_size, boundary, options)
        except (KeyError, ValueError, ConfigError) as error:
            raise CheckpointError(f"{path}: a damaged draft language model ({error})") from error


def found(folder: Path, wanted: str | Path, vocab_size: int, device: torch.device | str) -> NgramLM | None:
    """The n-grams of a checkpoint: its "own" if it has some, "none", or those of a file."""
    if wanted == "none" or (wanted == "own" and not untrusted.is_there(folder / NAME)):
        return None
    # The user's own file may be wherever its link leads to.
    return NgramLM.load(folder / NAME if wanted == "own" else Path(wanted).resolve(), vocab_size).to(device)


def bits_for(vocab_size: int, order: int) -> int:
    """Bits of one token in a key; raises `ConfigError` when n-grams of that order do not fit into an int64."""
    bits = max(1, (vocab_size - 1).bit_length())
    if bits * order > 63:
        raise ConfigError(f"order {order} with {vocab_size} tokens; at most {63 // bits} tokens fit into an n-gram")
    return bits


def _find(table: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Where each key would be in a sorted table, and whether it is there."""
    at = torch.searchsorted(table, keys).clamp(max=len(table) - 1)
    return at, table[at] == keys


def _steps(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    steps: NDArray[np.uint8] = np.round((values - low) / max(high - low, 1e-6) * STEPS).astype(np.uint8)
    return steps


def _unpack(arrays: dict[str, NDArray[np.generic]], order: int, vocab_size: int) -> list[Grams]:
    """The n-grams of every order; raises `ValueError` or `KeyError` where the arrays contradict each other."""
    bits = bits_for(vocab_size, order)
    span = arrays["range"]
    _demand(span.shape == (2, 2) and span.dtype == np.float32, "range")
    low, high = np.asarray(span, dtype=np.float32)
    _demand(bool((low <= high).all()) and bool(high[0] <= 0) and bool(np.abs(span).max() <= 1e6), "range")
    scale = (high - low) / STEPS
    orders: list[Grams] = []
    histories = np.zeros(1, dtype=np.int64)  # the keys that the n-grams of this order go on from
    for n in range(1, order + 1):
        last = arrays[f"tokens.{n}"]
        _demand(last.dtype in (np.int16, np.int32) and last.ndim == 1 and len(last) > 0, f"tokens.{n}")
        tokens = last.astype(np.int64)
        _demand(bool((tokens >= 0).all() and (tokens < vocab_size).all()), f"tokens.{n}: ids beyond the vocabulary")
        heads = _bits(arrays, f"heads.{n}", len(tokens))
        # Each history goes on at least once, or its n-grams would be given to its neighbour.
        _demand(bool(heads[0]) and int(heads.sum()) == len(histories), f"heads.{n}")
        keys = (histories[np.cumsum(heads, dtype=np.int64) - 1] << bits) | tokens
        _demand(bool((np.diff(keys) > 0).all()), f"tokens.{n}: not in order")
        probs = low[0] + scale[0] * _levels(arrays, f"probs.{n}", len(tokens))
        backoffs = np.zeros(len(keys), dtype=np.float32)
        if n < order:
            is_parent = _bits(arrays, f"parents.{n}", len(tokens))
            histories = keys[is_parent]
            backoffs[is_parent] = low[1] + scale[1] * _levels(arrays, f"backoffs.{n}", len(histories))
        orders.append(Grams(keys, probs.astype(np.float32), backoffs))
    return orders


def _bits(arrays: dict[str, NDArray[np.generic]], name: str, count: int) -> NDArray[np.bool_]:
    packed = arrays[name]
    _demand(packed.dtype == np.uint8 and packed.shape == (-(-count // 8),), name)
    return np.unpackbits(np.asarray(packed, dtype=np.uint8), count=count).astype(bool)


def _levels(arrays: dict[str, NDArray[np.generic]], name: str, count: int) -> NDArray[np.float32]:
    steps = arrays[name]
    _demand(steps.dtype == np.uint8 and steps.shape == (count,), name)
    return steps.astype(np.float32)


def _demand(sound: bool, what: str) -> None:
    if not sound:
        raise ValueError(f"{what} cannot be right")
