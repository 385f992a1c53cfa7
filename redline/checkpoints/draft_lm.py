"""The file of a draft's n-gram LM, `draft_lm.safetensors`: a few bytes for each n-gram.

The n-grams of one order stand in the order of their keys and only their last tokens are written; two bits an n-gram say
whose they are:

    tokens.n   last token of each n-gram                 probs.n     its log probability, in 256 steps
    heads.n    bit: the first with its history           parents.n   bit: some (n + 1)-gram goes on from it
    backoffs.n log back-off weight of each parent, in 256 steps
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from redline import tensor_file, untrusted
from redline.checkpoints.shared import DRAFT_LM, SHARED, shared_part
from redline.decoding.ngram import DraftOptions, Grams, NgramLM, bits_for
from redline.errors import CheckpointError, ConfigError
from redline.files import settle
from redline.models.config import MAX_SCORED_VOCAB

FORMAT = "redline n-grams 1"
STEPS = 255
Arrays = Mapping[str, NDArray[np.generic]]


def save_draft_lm(lm: NgramLM, folder: Path) -> Path:
    """Write `draft_lm.safetensors` into a checkpoint's folder, whole or not at all."""
    orders = [lm.grams(n) for n in range(1, lm.order + 1)]
    low = float(lm.unknown), min(float(grams.backoffs.min()) for grams in orders)
    high = 0.0, max(float(grams.backoffs.max()) for grams in orders)
    arrays: dict[str, NDArray[np.generic]] = {"range": np.array((low, high), dtype=np.float32)}
    narrow = np.int16 if lm.vocab_size < 2**15 else np.int32
    for n, (keys, probs, backoffs) in enumerate((vars(grams).values() for grams in orders), start=1):
        arrays[f"tokens.{n}"] = (keys & ((1 << lm.bits) - 1)).astype(narrow)
        arrays[f"probs.{n}"] = _steps(probs, low[0], high[0])
        arrays[f"heads.{n}"] = np.packbits(np.diff(keys >> lm.bits, prepend=-1) != 0)
        if n < lm.order:
            is_parent = np.isin(keys, orders[n].keys >> lm.bits)
            arrays[f"parents.{n}"] = np.packbits(is_parent)
            arrays[f"backoffs.{n}"] = _steps(backoffs[is_parent], low[1], high[1])
    about = {"format": FORMAT, "vocab_size": lm.vocab_size, "boundary": lm.boundary, "order": lm.order}
    partial = folder / f"{DRAFT_LM}.partial"
    save_file(arrays, partial, {key: str(value) for key, value in (about | asdict(lm.options)).items()})
    return settle(partial, folder / DRAFT_LM)


def load_draft_lm(path: Path, vocab_size: int) -> NgramLM:
    """Read a file that `save_draft_lm` wrote; raises `CheckpointError` when it is none, or for another vocabulary."""
    tensors, about = tensor_file.load_tensors(path)
    if about.get("format") != FORMAT:
        raise CheckpointError(f"{path}: format is {about.get('format')!r:.80}; {FORMAT!r} can be read")
    if about.get("vocab_size") != str(vocab_size):
        lm_vocab_size = str(about.get("vocab_size"))[:32]
        raise CheckpointError(
            f"{path}: made for a vocabulary of {lm_vocab_size} tokens, the model has {vocab_size}; "
            "make one with the model's own tokenizer"
        )
    try:
        defaults = asdict(DraftOptions())
        options = DraftOptions(**{key: type(value)(about.get(key, value)) for key, value in defaults.items()})
        _demand(not options.sound_weight or vocab_size <= MAX_SCORED_VOCAB, f"sound_weight {options.sound_weight}")
        order, boundary = int(about["order"]), int(about["boundary"])
        _demand(0 <= boundary < vocab_size, f"boundary {boundary}")
        _demand(1 <= order <= 63, f"order {order}")
        orders = _unpack({name: tensor.numpy() for name, tensor in tensors.items()}, order, vocab_size)
        return NgramLM(orders, vocab_size, boundary, options)
    except (KeyError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{path}: a damaged draft language model ({error})") from error


def find_draft_lm(folder: Path, wanted: str | Path, vocab_size: int) -> NgramLM | None:
    """The n-gram LM of a checkpoint: its "own" if it has or shares one, "none", or that of a file."""
    if wanted == "none":
        return None
    if wanted != "own":  # the user's own file may be wherever its link leads to
        return load_draft_lm(Path(wanted).resolve(), vocab_size)
    own, shared = folder / DRAFT_LM, shared_part(folder, "draft_lm")
    if untrusted.is_there(own) and shared:
        raise CheckpointError(f"{own}: {SHARED} says that it is {shared[0]}; remove one")
    if untrusted.is_there(own) or shared:
        return load_draft_lm(shared[0] if shared else own, vocab_size)
    return None


def _steps(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    steps: NDArray[np.uint8] = np.round((values - low) / max(high - low, 1e-6) * STEPS).astype(np.uint8)
    return steps


def _unpack(arrays: Arrays, order: int, vocab_size: int) -> list[Grams]:
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
        probs = low[0] + scale[0] * _bytes(arrays, f"probs.{n}", len(tokens))
        backoffs = np.zeros(len(keys), dtype=np.float32)
        if n < order:
            is_parent = _bits(arrays, f"parents.{n}", len(tokens))
            histories = keys[is_parent]
            backoffs[is_parent] = low[1] + scale[1] * _bytes(arrays, f"backoffs.{n}", len(histories))
        orders.append(Grams(keys, probs.astype(np.float32), backoffs))
    return orders


def _bits(arrays: Arrays, name: str, count: int) -> NDArray[np.bool_]:
    return np.unpackbits(_bytes(arrays, name, -(-count // 8)).astype(np.uint8), count=count).astype(bool)


def _bytes(arrays: Arrays, name: str, count: int) -> NDArray[np.float32]:
    values = arrays[name]
    _demand(values.dtype == np.uint8 and values.shape == (count,), name)
    return values.astype(np.float32)


def _demand(sound: bool, what: str) -> None:
    if not sound:
        raise ValueError(f"{what} cannot be right")
