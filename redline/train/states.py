"""What the frozen encoder heard, on disk: its states, its likeliest tokens, and where each token of the text lies.

The editor trains on these, so that a pass over the data costs no listening. Every rendering hears the training set
anew, with noise, masks and dropout, because an encoder makes too few mistakes on the very utterances it learned from.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from redline.decoding.align import Alignment, ctc_align
from redline.decoding.ctc_beam import BeamOptions, Candidates
from redline.errors import DataError
from redline.features import FRAME_RATE, pad
from redline.manifest import Utterance
from redline.models.nar import NarModel
from redline.tokenizer import Tokenizer
from redline.train.data.augment import SpecAugmentOptions, augment_features
from redline.train.data.batches import FeatureView, Progress

BATCH = 12


@dataclass(frozen=True)
class StateOptions:
    """How the training set is heard again for the editor."""

    renderings: int = 0
    """0 listens anew in every step, as the paper does: for encoders that hardly err less on what they learned from."""
    dropout: float = 0.1
    """Dropout inside the encoder while it listens."""
    candidates: int = 12
    """Likeliest tokens of each window that are kept for the draft."""
    least_score: float = -2.5
    """Utterances whose text fits worse (mean log probability of a frame) are not cut into pieces."""


@dataclass(frozen=True)
class CachedUtterance:
    """Where one utterance lies in a rendering: frames and windows are ranges, cuts are frames from its start."""

    frame: int
    frames: int
    window: int
    tokens: tuple[int, ...]
    cuts: tuple[int, ...]
    """One more than there are tokens; empty where the text could not be aligned."""


@dataclass(frozen=True)
class CachedSpan:
    """A part of an utterance as the encoder heard it: C likeliest tokens of each window."""

    states: NDArray[np.float16]  # [T, layers * D]
    ids: NDArray[np.int32]  # [W, C]
    log_probs: NDArray[np.float16]  # [W, C + 1], the blank last
    tokens: tuple[int, ...] = ()
    """What is said, where it could be aligned."""
    spans: tuple[tuple[int, int], ...] = ()
    """Frames of each of these tokens, counted from the start of the piece."""


@dataclass
class StateView:
    """One rendering, memory-mapped: the exported states side by side, and the likeliest tokens of each window."""

    states: NDArray[np.float16]  # [frames, layers * D]
    ids: NDArray[np.int32]  # [windows, C] likeliest tokens
    log_probs: NDArray[np.float16]  # [windows, C + 1] theirs, and that of the blank
    heard: dict[str, CachedUtterance]
    window: int
    """Frames in which one token is drafted."""
    frame_rate: float
    """Frames in a second."""

    def cut(self, identity: str, first: int = 0, last: int | None = None) -> CachedSpan:
        """What was heard of the tokens `first` to `last`; without them, of it all."""
        heard = self.heard[identity]
        start, end = (0, heard.frames) if last is None else (heard.cuts[first], heard.cuts[last])
        windows = slice(heard.window + start // self.window, heard.window - (-end // self.window))
        states = self.states[heard.frame + start : heard.frame + end]
        cuts = [cut - start for cut in heard.cuts[first : None if last is None else last + 1]]
        tokens = heard.tokens[first : None if last is None else last] if cuts else ()
        spans = tuple(itertools.pairwise(cuts))
        return CachedSpan(states, self.ids[windows], self.log_probs[windows], tokens, spans)

    @classmethod
    def open(cls, stem: Path) -> StateView:
        index = json.loads(stem.with_suffix(".json").read_text())
        states = np.memmap(stem.with_suffix(".f16"), dtype=np.float16, mode="r").reshape(-1, index["width"])
        ids = np.memmap(stem.with_suffix(".i32"), dtype=np.int32, mode="r").reshape(-1, index["candidates"])
        log_probs = np.memmap(stem.with_suffix(".prob"), dtype=np.float16, mode="r").reshape(len(ids), -1)
        rows = {
            key: CachedUtterance(a, b, c, tuple(tokens), tuple(cuts))
            for key, (a, b, c, tokens, cuts) in index["rows"].items()
        }
        return cls(states, ids, log_probs, rows, index["window"], index["frame_rate"])


def token_cuts(alignment: Alignment, windows: int, margin: int = 3) -> tuple[int, ...]:
    """Windows at which an utterance may be cut: before, between and after its tokens, in the middle of pauses."""
    starts, ends = alignment.starts, alignment.ends
    between = [(end + start + 1) // 2 for end, start in zip(ends[:-1], starts[1:], strict=True)]
    return (max(0, starts[0] - margin), *between, min(windows, ends[-1] + margin))


@torch.no_grad()
def align_tokens(
    editor: NarModel, tokenizer: Tokenizer, utterances: Sequence[Utterance], view: FeatureView, progress: Progress
) -> dict[str, tuple[Alignment | None, int]]:
    """Align each text with the encoder's token head: id -> alignment in windows, and the number of windows."""
    found: dict[str, tuple[Alignment | None, int]] = {}
    for rows, features, lengths in _batches(utterances, view):
        logits, windowed = editor.draft_head(editor.encode(features, lengths))
        targets = [tokenizer.encode(row.text) for row in rows]
        aligned = ctc_align(logits, windowed, targets, editor.config.blank_token_id)
        for row, result, windows in zip(rows, aligned, windowed.tolist(), strict=True):
            found[row.id] = (result, windows)
        progress(sum(row.duration for row in rows))
    return found


def _batches(utterances: Sequence[Utterance], view: FeatureView) -> Any:
    kept = sorted((row for row in utterances if row.id in view.offsets), key=lambda row: row.duration)
    for start in range(0, len(kept), BATCH):
        rows = kept[start : start + BATCH]
        features, lengths = pad([view[row.id] for row in rows])
        yield rows, features, lengths


@torch.no_grad()
def build_states(
    editor: NarModel,
    tokenizer: Tokenizer,
    utterances: Sequence[Utterance],
    views: Sequence[FeatureView],
    options: StateOptions,
    augment: SpecAugmentOptions,
    cache: Path,
    progress: Callable[[str], Progress],
) -> list[StateView]:
    """Let the encoder hear every utterance once per rendering, or open what it heard before with the same weights."""
    if augment.time_warp_frames:
        raise DataError("[state_augment] time_warp_frames must be 0: a warped utterance cannot be cut at its tokens")
    weights = hashlib.sha256(editor.encoder.out.weight.detach().float().numpy().tobytes())
    said = [(row.id, row.text, str(row.audio), row.start, row.duration) for row in utterances]
    weights.update(json.dumps([3, repr(options), repr(augment), said]).encode())
    stems = [cache / f"states{number}-{weights.hexdigest()[:12]}" for number in range(options.renderings)]
    missing = [number for number, stem in enumerate(stems) if not stem.with_suffix(".json").exists()]
    if missing:
        cache.mkdir(parents=True, exist_ok=True)
        editor.encoder.eval()
        aligned = align_tokens(editor, tokenizer, utterances, views[0], progress("aligning the training set"))
        before = {part: part.p for part in editor.encoder.modules() if isinstance(part, nn.Dropout)}
        for part in before:
            part.train()
            part.p = options.dropout
        for number in missing:
            view = views[number % len(views)]
            report = progress(f"encoder states, rendering {number + 1}/{options.renderings}")
            _render(editor, tokenizer, utterances, view, aligned, options, augment, number, stems[number], report)
        for part, rate in before.items():
            part.eval()
            part.p = rate
    return [StateView.open(stem) for stem in stems]


def _render(
    editor: NarModel,
    tokenizer: Tokenizer,
    utterances: Sequence[Utterance],
    view: FeatureView,
    aligned: dict[str, tuple[Alignment | None, int]],
    options: StateOptions,
    augment: SpecAugmentOptions,
    number: int,
    stem: Path,
    progress: Progress,
) -> None:
    window = editor.config.encoder.bpe_pooling_window
    index: dict[str, Any] = {}
    frame = windows = width = 0
    blank, search = editor.config.blank_token_id, BeamOptions(candidates=options.candidates)
    files = (stem.with_suffix(suffix).open("wb") for suffix in (".f16", ".i32", ".prob"))
    with ExitStack() as open_files:
        states, ids, log_probs = (open_files.enter_context(file) for file in files)
        for count, (rows, features, lengths) in enumerate(_batches(utterances, view)):
            torch.manual_seed(number * 100_003 + count)
            changed = augment_features(
                [features[i, :length] for i, length in enumerate(lengths.tolist())], augment, number * 100_003 + count
            )
            encoded = editor.encode(pad(changed)[0], lengths)
            logits, windowed = editor.draft_head(encoded)
            side_by_side = torch.cat(encoded.exports, dim=-1).half().numpy()  # [B, T, layers * D]
            likely = Candidates.of(logits, windowed, blank, search)
            tokens = likely.ids.to(torch.int32).numpy()  # [B, W, C]
            probs = torch.cat((likely.log_probs, likely.blank[..., None]), dim=-1).half().numpy()  # [B, W, C + 1]
            width = side_by_side.shape[-1]
            for i, row in enumerate(rows):
                T, W = int(encoded.lengths[i]), int(windowed[i])
                alignment, clean_windows = aligned.get(row.id, (None, 0))
                cuts: list[int] = []
                if alignment is not None and alignment.starts and alignment.score >= options.least_score:
                    # A view at another speed has the same tokens at proportional times.
                    scale = W / clean_windows
                    cuts = [min(T, round(cut * scale) * window) for cut in token_cuts(alignment, clean_windows)]
                index[row.id] = [frame, T, windows, tokenizer.encode(row.text), cuts]
                states.write(side_by_side[i, :T].tobytes())
                ids.write(tokens[i, :W].tobytes())
                log_probs.write(probs[i, :W].tobytes())
                frame, windows = frame + T, windows + W
            progress(sum(row.duration for row in rows))
    partial = stem.with_suffix(".partial")
    rate = FRAME_RATE / editor.config.encoder.subsampling
    about = {"width": width, "window": window, "frame_rate": rate, "candidates": options.candidates, "rows": index}
    partial.write_text(json.dumps(about))
    partial.replace(stem.with_suffix(".json"))


@dataclass(frozen=True)
class StateBatch:
    """Encoder states of some utterances, real or spliced: one [B, T, D] per exported layer, with lengths [B]."""

    exports: tuple[Tensor, ...]
    lengths: Tensor
    drafts: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    seconds: float
    written: tuple[str | None, ...] = ()
    """The texts in written form, where it is known."""
    said: tuple[CachedSpan, ...] = ()
    """Each row's pieces as one, without what was heard: its tokens and their frames."""
