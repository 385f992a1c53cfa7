"""Estimation of the n-gram LM that drafts are searched with (shallow fusion).

Modified Kneser-Ney (Chen and Goodman, TR-10-98) over the tokens of books, then pruned: an n-gram stays when its
probability differs much from what its shorter history would say, weighted by how often it was seen (Seymore and
Rosenfeld, ICSLP 1996).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from redline.checkpoints.draft_lm import save_draft_lm
from redline.decoding.ngram import DraftOptions, Grams, NgramLM, bits_for
from redline.errors import ConfigError, DataError
from redline.tokenizer import Tokenizer
from redline.train.loop.stage import share_done

Keys = NDArray[np.int64]
NOTHING = 1e-6
_CHUNK = 10_000


@dataclass(frozen=True)
class NgramOptions:
    """How large the draft's language model is, and what it may read."""

    order: int = 6  # tokens in the longest n-gram; 0 makes no model, and drafts are greedy
    kept: int = 4_000_000  # N-grams of three tokens and more that stay; all shorter ones do
    held_out: int = 8
    """One paragraph in so many is not read, so that the editor can learn on sentences that are new to the draft."""

    def __post_init__(self) -> None:
        if self.order < 0 or self.kept < 0 or self.held_out < 2:
            raise ConfigError(
                f"order {self.order}, kept {self.kept}, held_out {self.held_out}; allowed are 0, 0, 2 and more"
            )


def split_text(paragraphs: Sequence[str], options: NgramOptions) -> tuple[list[str], list[str]]:
    """What the model reads, and what is held out."""
    read = [line for number, line in enumerate(paragraphs) if number % options.held_out]
    return read, list(paragraphs[:: options.held_out])


def unread_text(paragraphs: Sequence[str], options: NgramOptions) -> list[str]:
    """What is held out and stands nowhere among what is read."""
    read, held_out = split_text(paragraphs, options)
    known = set(read)
    return [line for line in held_out if line not in known]


def token_stream(lines: Sequence[str], tokenizer: Tokenizer, boundary: int, progress: Callable[[float], None]) -> Keys:
    """All lines as one row of ids, with a boundary before each."""
    parts: list[Keys] = []
    for start in range(0, len(lines), _CHUNK):
        part = lines[start : start + _CHUNK]
        parts += [np.array([boundary, *ids], dtype=np.int64) for ids in tokenizer.encode_all(part)]
        progress(len(part))
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def estimate(stream: Keys, vocab_size: int, boundary: int, options: NgramOptions, search: DraftOptions) -> NgramLM:
    """The model of a row of ids in which `boundary` begins each text; raises `DataError` when there are too few."""
    counts = [_count(stream, order, boundary, bits_for(vocab_size, options.order)) for order in _upto(options.order)]
    if not all(len(keys) for keys, _ in counts):
        raise DataError(f"{len(stream)} tokens are too few for n-grams of {options.order}; give more text")
    bits = bits_for(vocab_size, options.order)
    adjusted = [_continuations(counts, order, boundary, bits) for order in _upto(options.order)]
    probs: list[NDArray[np.float64]] = []
    worth: list[NDArray[np.float64]] = []
    for order in _upto(options.order):
        keys = counts[order - 1][0]
        shorter = (
            probs[-1][np.searchsorted(counts[order - 2][0], keys & _mask(bits, order - 1))]
            if order > 1
            else np.where(keys == boundary, NOTHING, 1.0 / max(1, len(keys) - 1))
        )
        own, rest = _discounted(keys >> bits, adjusted[order - 1].astype(np.float64))
        probs.append(own + rest * shorter)
        worth.append(counts[order - 1][1] * (np.log(probs[-1]) - np.log(rest * shorter)))
    kept = _prune([keys for keys, _ in counts], worth, options.kept, bits)
    orders = [(keys[keep], np.log(p[keep])) for (keys, _), p, keep in zip(counts, probs, kept, strict=True)]
    kept_orders = [order for order in orders if len(order[0])]  # pruning may have left no long ones
    return NgramLM(_with_backoffs(kept_orders, bits), vocab_size, boundary, search)


def make_draft_lm(
    lines: Sequence[str],
    tokenizer: Tokenizer,
    boundary: int,
    options: NgramOptions,
    search: DraftOptions,
    folder: Path,
    say: Callable[[str], None],
) -> None:
    """Count the n-grams of some lines and write them into a folder."""
    stream = token_stream(lines, tokenizer, boundary, share_done(say, "tokens of the text", len(lines)))
    say(f"draft_lm: counting n-grams of up to {options.order} among {len(stream) / 1e6:.1f} million tokens")
    model = estimate(stream, tokenizer.vocab_size, boundary, options, search)
    folder.mkdir(parents=True, exist_ok=True)
    size = save_draft_lm(model, folder).stat().st_size / 1e6
    say(f"draft_lm: {sum(model.sizes) / 1e6:.2f} million n-grams, {size:.1f} MB")


def _upto(order: int) -> Iterable[int]:
    return range(1, order + 1)


def _mask(bits: int, tokens: int) -> int:
    return (1 << (bits * tokens)) - 1


def _runs(values: Keys) -> Keys:
    """Where each run of equal values begins."""
    return np.flatnonzero(np.diff(values, prepend=-1))


def _count(stream: Keys, order: int, boundary: int, bits: int) -> tuple[Keys, Keys]:
    """The n-grams of one order, sorted, and how often each was seen; a boundary may only begin one."""
    size = max(0, len(stream) - order + 1)
    keys = np.zeros(size, dtype=np.int64)
    whole = np.ones(size, dtype=bool)
    for place in range(order):
        tokens = stream[place : place + size]
        keys = (keys << bits) | tokens
        if place:
            whole &= tokens != boundary
    keys = np.sort(keys[whole])
    starts = _runs(keys)
    return keys[starts], np.diff(starts, append=len(keys))


def _continuations(counts: Sequence[tuple[Keys, Keys]], order: int, boundary: int, bits: int) -> Keys:
    """Kneser-Ney's counts: in how many different places an n-gram goes on, where no longer history tells more."""
    keys, seen = counts[order - 1]
    if order == len(counts):
        return seen
    ends = np.sort(counts[order][0] & _mask(bits, order))
    starts = _runs(ends)
    places = np.zeros_like(seen)
    places[np.searchsorted(keys, ends[starts])] = np.diff(starts, append=len(ends))
    if order == 1:
        return np.where(keys == boundary, 0, places)  # it stands before a text and is never written
    # Nothing stands before the beginning of a text.
    begins = (keys >> (bits * (order - 1))) == boundary
    return np.where(begins | (places == 0), seen, places)


def _discounted(histories: Keys, counts: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each n-gram's own share after its discount, and what its history leaves to shorter ones."""
    once, twice, thrice, four = (max(1, int((counts == number).sum())) for number in (1, 2, 3, 4))
    y = once / (once + 2 * twice)
    steps = np.array([0.0, 1 - 2 * y * twice / once, 2 - 3 * y * thrice / twice, 3 - 4 * y * four / thrice])
    # Small texts have odd counts of counts; a discount stays between nothing and the count itself.
    steps = np.clip(steps, [0, 0.1, 0.1, 0.1], [0, 0.95, 1.9, 2.8])
    discount = steps[np.minimum(counts, 3).astype(int)]
    starts = _runs(histories)
    sizes = np.diff(starts, append=len(histories))
    total = np.repeat(np.add.reduceat(counts, starts), sizes)
    left = np.repeat(np.add.reduceat(discount, starts), sizes)
    return (counts - discount) / total, left / total


def _prune(keys: Sequence[Keys], worth: Sequence[NDArray[np.float64]], kept: int, bits: int) -> list[NDArray[np.bool_]]:
    """Which n-grams stay: the worthiest of three tokens and more, and every history of those."""
    long = np.concatenate([np.zeros(0), *worth[2:]])
    least = -np.inf if len(long) <= kept else np.partition(long, len(long) - kept - 1)[len(long) - kept - 1]
    result: list[NDArray[np.bool_]] = []
    needed = np.zeros(0, dtype=np.int64)
    for order in range(len(keys), 0, -1):
        keep = worth[order - 1] > least if order > 2 else np.ones(len(keys[order - 1]), dtype=bool)
        keep[np.searchsorted(keys[order - 1], needed)] = True
        needed = np.unique(keys[order - 1][keep] >> bits)
        result.append(keep)
    return result[::-1]


def _with_backoffs(orders: Sequence[tuple[Keys, NDArray[np.float64]]], bits: int) -> list[Grams]:
    """Weights that make the probabilities after each history sum to one again, now that some n-grams are gone."""
    backoffs = [np.zeros(len(keys)) for keys, _ in orders]
    for order in range(2, len(orders) + 1):
        keys, probs = orders[order - 1]
        shorter = _read(orders, backoffs, keys & _mask(bits, order - 1), order - 1, bits)
        starts = _runs(keys >> bits)
        own = np.clip(1 - np.add.reduceat(np.exp(probs), starts), 1e-4, None)
        rest = np.clip(1 - np.add.reduceat(np.exp(shorter), starts), 1e-4, None)
        backoffs[order - 2][np.searchsorted(orders[order - 2][0], (keys >> bits)[starts])] = np.log(own / rest)
    return [
        Grams(keys, probs.astype(np.float32), weights.astype(np.float32))
        for (keys, probs), weights in zip(orders, backoffs, strict=True)
    ]


def _read(
    orders: Sequence[tuple[Keys, NDArray[np.float64]]],
    backoffs: Sequence[NDArray[np.float64]],
    keys: Keys,
    order: int,
    bits: int,
) -> NDArray[np.float64]:
    """Log probability of the last token of each key of `order` tokens."""
    known, probs = orders[order - 1]
    at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    result = probs[at]
    missing = np.flatnonzero(known[at] != keys)
    if order > 1 and len(missing):
        result[missing] = _read(orders, backoffs, keys[missing] & _mask(bits, order - 1), order - 1, bits)
        histories, shorter = orders[order - 2][0], keys[missing] >> bits
        at = np.minimum(np.searchsorted(histories, shorter), len(histories) - 1)
        result[missing] += np.where(histories[at] == shorter, backoffs[order - 2][at], 0.0)
    return result
