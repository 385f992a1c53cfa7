"""Encoder cache: the frozen encoder's states and likeliest tokens on disk, and where each token of a text lies.

The editor trains on these, so that a pass over the data costs no encoder. Every rendering encodes the training set
anew, with speeds, rooms, noise, masks and dropout, because an encoder errs too little on the very utterances it learned
from. Tokens are found in the rendering itself.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from redline.decoding.align import Alignment, align_scores
from redline.decoding.ctc_beam import BeamOptions, FrameCandidates
from redline.features import FRAME_RATE, pad
from redline.manifest import Utterance
from redline.models.conformer import ConformerEncoder, EncoderOutput
from redline.tokenizer import Tokenizer
from redline.train.data.augment import SpecAugmentOptions, augment_features
from redline.train.data.batches import FRAMES
from redline.train.data.feature_cache import FeatureView
from redline_recipes.tiny.encoder import draft_logits
from redline_recipes.tiny.mel_augment import MelAugment

BATCH = 12
Progress = Callable[[float], None]


@dataclass(frozen=True)
class EncoderCacheOptions:
    """How the training set is encoded again for the language model."""

    renderings: int = field(default=0, repr=False)  # those there are stay when more are asked for
    """0 encodes anew in every step, as the paper does: for encoders that err as much on what they learned from."""
    dropout: float = 0.1  # dropout inside the encoder while it fills the cache
    candidates: int = 12  # likeliest tokens of each window that are kept for the draft
    least_score: float = -2.5
    """Utterances whose text fits worse (mean log probability of a frame) are not cut into units."""


@dataclass(frozen=True)
class CachedUtterance:
    """Where one utterance lies in a rendering: frames and windows are ranges, cuts are frames from its start."""

    frame: int
    frames: int
    window: int
    tokens: tuple[int, ...]
    cuts: tuple[int, ...]  # one more than there are tokens; empty where the text could not be aligned


@dataclass(frozen=True)
class CachedSpan:
    """A part of a cached utterance, with the C likeliest tokens of each window."""

    states: NDArray[np.float16]  # [T, layers * D]
    ids: NDArray[np.int32]  # [W, C]
    log_probs: NDArray[np.float16]  # [W, C + 1], the blank last


@dataclass
class EncoderCache:
    """One rendering, memory-mapped: the exported states side by side, and the likeliest tokens of each window."""

    states: NDArray[np.float16]  # [frames, layers * D]
    ids: NDArray[np.int32]  # [windows, C] likeliest tokens
    log_probs: NDArray[np.float16]  # [windows, C + 1] theirs, and that of the blank
    utterances: dict[str, CachedUtterance]
    window: int  # frames in which one token is drafted
    frame_rate: float  # frames in a second

    def cut(self, identity: str, first: int = 0, last: int | None = None) -> CachedSpan:
        """The states of the tokens `first` to `last` of an utterance; without them, of all of it."""
        entry = self.utterances[identity]
        start, end = (0, entry.frames) if last is None else (entry.cuts[first], entry.cuts[last])
        windows = slice(entry.window + start // self.window, entry.window - (-end // self.window))
        states = self.states[entry.frame + start : entry.frame + end]
        return CachedSpan(states, self.ids[windows], self.log_probs[windows])

    def seconds(self, identity: str) -> float:
        """How long an utterance lasts in this rendering."""
        return self.utterances[identity].frames / self.frame_rate

    @classmethod
    def open(cls, stem: Path) -> EncoderCache:
        index = json.loads(stem.with_suffix(".json").read_text())
        states = np.memmap(stem.with_suffix(".f16"), dtype=np.float16, mode="r").reshape(-1, index["width"])
        ids = np.memmap(stem.with_suffix(".i32"), dtype=np.int32, mode="r").reshape(-1, index["candidates"])
        log_probs = np.memmap(stem.with_suffix(".prob"), dtype=np.float16, mode="r").reshape(len(ids), -1)
        rows = {
            key: CachedUtterance(a, b, c, tuple(tokens), tuple(cuts))
            for key, (a, b, c, tokens, cuts) in index["rows"].items()
        }
        return cls(states, ids, log_probs, rows, index["window"], index["frame_rate"])


@dataclass(frozen=True)
class CachedBatch:
    """Encoder states of some utterances, real or made of units: one [B, T, D] per exported layer, lengths [B]."""

    exports: tuple[Tensor, ...]
    lengths: Tensor
    drafts: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    seconds: float
    written: tuple[str | None, ...] = ()  # the texts in written form, where it is known


@dataclass(frozen=True)
class Augmentation:
    """What a rendering does to features: speeds, rooms and noises, then masks, tracts and microphones."""

    masks: SpecAugmentOptions
    mel: MelAugment

    @property
    def described(self) -> str:
        """What a cache that was made with it is known by."""
        noises = [round(float(noise.sum()), 4) for noise in self.mel.noises]
        return repr((self.masks, self.mel.options, noises if self.mel.options.noise else []))

    def __call__(self, rows: Sequence[Tensor], names: Sequence[str], seed: int) -> list[Tensor]:
        """Features [T, 160] of a batch -> those that are heard; a name draws the same speed, room and noise."""
        heard = rows
        if self.mel.options.changes:
            heard = [self.mel(row, random.Random(name)) for row, name in zip(rows, names, strict=True)]
        return list(augment_features(heard, self.masks, seed))


@dataclass(frozen=True)
class EncoderReader:
    """An encoder with token head, on a device in a precision: what fills a cache."""

    encoder: ConformerEncoder
    layers: tuple[int, ...]  # whose states are kept, counted from 1, -1 the last
    tokenizer: Tokenizer
    blank: int
    device: torch.device
    dtype: torch.dtype

    def __call__(self, rows: Sequence[Tensor]) -> tuple[EncoderOutput, Tensor, Tensor]:
        """Features [T, 160] of some utterances -> the encoder's output, draft logits [B, W, V] and lengths [B]."""
        features, lengths = pad(rows, FRAMES)
        narrow = torch.autocast(self.device.type, self.dtype) if self.dtype != torch.float32 else nullcontext()
        with narrow:
            encoded = self.encoder(features.to(self.device), lengths.to(self.device), self.layers)
            return encoded, *draft_logits(self.encoder, encoded)


def token_cuts(alignment: Alignment, windows: int, margin: int = 3) -> tuple[int, ...]:
    """Windows at which an utterance may be cut: before, between and after its tokens, in the middle of pauses."""
    starts, ends = alignment.starts, alignment.ends
    between = [(end + start + 1) // 2 for end, start in zip(ends[:-1], starts[1:], strict=True)]
    return (max(0, starts[0] - margin), *between, min(windows, ends[-1] + margin))


def build_encoder_cache(
    reader: EncoderReader,
    utterances: Sequence[Utterance],
    views: Sequence[FeatureView],
    options: EncoderCacheOptions,
    augment: Augmentation,
    folder: Path,
    progress: Callable[[str], Progress],
) -> list[EncoderCache]:
    """Encode every utterance once per rendering, or open what the same weights made of it before."""
    weight = reader.encoder.out.weight.detach()
    digest = hashlib.sha256(weight.float().cpu().numpy().tobytes())
    described = [(row.id, row.text, str(row.audio), row.start, row.duration) for row in utterances]
    digest.update(json.dumps([5, reader.layers, repr(options), augment.described, described]).encode())
    stems = [folder / f"states{number}-{digest.hexdigest()[:12]}" for number in range(options.renderings)]
    missing = [number for number, stem in enumerate(stems) if not stem.with_suffix(".json").exists()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        reader.encoder.to(reader.device).eval()
        with _dropout(reader.encoder, options.dropout):
            for number in missing:
                report = progress(f"encoder cache, rendering {number + 1}/{options.renderings}")
                batches = _batches(utterances, views[number % len(views)])
                _render(reader, batches, options, augment, number, stems[number], report)
        reader.encoder.to(weight.device)
    return [EncoderCache.open(stem) for stem in stems]


def _batches(utterances: Sequence[Utterance], view: FeatureView) -> Iterator[tuple[list[Utterance], list[Tensor]]]:
    kept = sorted((row for row in utterances if row.id in view.offsets), key=lambda row: row.duration)
    for start in range(0, len(kept), BATCH):
        rows = kept[start : start + BATCH]
        yield rows, [view[row.id] for row in rows]


@contextmanager
def _dropout(encoder: nn.Module, rate: float) -> Iterator[None]:
    """Dropout of a rate in an encoder that is otherwise in eval mode."""
    before = {part: part.p for part in encoder.modules() if isinstance(part, nn.Dropout)}
    for part in before:
        part.train()
        part.p = rate
    yield
    for part, own in before.items():
        part.eval()
        part.p = own


@torch.no_grad()
def _render(
    reader: EncoderReader,
    batches: Iterator[tuple[list[Utterance], list[Tensor]]],
    options: EncoderCacheOptions,
    augment: Augmentation,
    number: int,
    stem: Path,
    progress: Progress,
) -> None:
    """Write one rendering; the random numbers of its batches depend on its number."""
    config = reader.encoder.config
    search = BeamOptions(candidates=options.candidates)
    index: dict[str, Any] = {}
    frame = windows = width = 0
    files = (stem.with_suffix(suffix).open("wb") for suffix in (".f16", ".i32", ".prob"))
    with ExitStack() as open_files:
        states_file, ids_file, probs_file = (open_files.enter_context(file) for file in files)
        for count, (rows, features) in enumerate(batches):
            torch.manual_seed(number * 100_003 + count)
            heard = augment(features, [f"{number}/{row.id}" for row in rows], number * 100_003 + count)
            encoded, logits, counts = reader(heard)
            targets = [reader.tokenizer.encode(row.text) for row in rows]
            aligned = align_scores(logits.float().log_softmax(dim=-1), counts, targets, reader.blank)
            states = torch.cat(encoded.exports, dim=-1).half().cpu().numpy()  # [B, T, layers * D]
            likely = FrameCandidates.of(logits, counts, reader.blank, search)
            ids = likely.ids.to(torch.int32).cpu().numpy()  # [B, W, C]
            probs = torch.cat((likely.log_probs, likely.blank[..., None]), dim=-1).half().cpu().numpy()
            width = states.shape[-1]
            for i, row in enumerate(rows):
                T, W = int(encoded.lengths[i]), int(counts[i])
                cuts: list[int] = []
                alignment = aligned[i]
                if alignment is not None and alignment.starts and alignment.score >= options.least_score:
                    cuts = [min(T, cut * config.bpe_pooling_window) for cut in token_cuts(alignment, W)]
                index[row.id] = [frame, T, windows, targets[i], cuts]
                states_file.write(states[i, :T].tobytes())
                ids_file.write(ids[i, :W].tobytes())
                probs_file.write(probs[i, :W].tobytes())
                frame, windows = frame + T, windows + W
            progress(sum(row.duration for row in rows))
    about = {
        "width": width,
        "window": config.bpe_pooling_window,
        "frame_rate": FRAME_RATE / config.subsampling,
        "candidates": options.candidates,
        "rows": index,
    }
    partial = stem.with_suffix(".partial")
    partial.write_text(json.dumps(about))
    partial.replace(stem.with_suffix(".json"))
