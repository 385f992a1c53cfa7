"""Posteriors of a teacher: what another encoder's CTC heads say of every frame of the training set, kept on disk.

A teacher runs once; a student then learns from its posteriors in every epoch at the cost of reading them. Only the
likeliest labels of a frame are kept: CTC posteriors have nearly all of their mass on one or two of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from redline.checkpoints.folder import resolve
from redline.checkpoints.nar import load_nar
from redline.errors import DataError
from redline.features import pad
from redline.manifest import Utterance
from redline.train.data.feature_cache import FeatureView
from redline.train.loop.distributed import first_process_first
from redline.train.loop.stage import share_done
from redline_recipes.distillation.frame_store import FrameStore

HEADS = ("characters", "tokens")
STATES = "states"
BATCH_S = 120.0
SAMPLED = 40
"""Of every so many utterances the states are looked at to scale them all."""


@dataclass(frozen=True)
class FramePosteriors:
    """The likeliest labels of the frames of some utterances, [B, T, k], and their probabilities, which add up to <= 1.

    A frame that no teacher has heard has probabilities of zero.
    """

    labels: Tensor
    probabilities: Tensor


class PosteriorStore:
    """The posteriors of one CTC head, found by utterance id, at the frame rate of the teacher."""

    def __init__(self, stem: Path, candidates: int, blank: int) -> None:
        self.labels = FrameStore(stem.with_name(f"{stem.name}-labels"), candidates, torch.int32)
        self.probabilities = FrameStore(stem.with_name(f"{stem.name}-probabilities"), candidates, torch.float16)
        self.candidates, self.blank = candidates, blank

    def __contains__(self, identity: object) -> bool:
        return identity in self.labels and identity in self.probabilities

    def __len__(self) -> int:
        return min(len(self.labels), len(self.probabilities))

    def append(self, identity: str, logits: Tensor) -> None:
        """Keep the likeliest labels of the frames of an utterance, from logits [T, V] whose blank is row `blank`."""
        probabilities, labels = logits.float().softmax(dim=-1).topk(self.candidates, dim=-1)
        for store, rows in ((self.labels, labels), (self.probabilities, probabilities)):
            if identity not in store:  # a job may have been stopped between the two
                store.append(identity, rows)

    def batch(self, ids: Sequence[str], lengths: Sequence[int]) -> FramePosteriors:
        """Posteriors of utterances in a batch whose student has `lengths` frames, [B, T, k]."""
        total = max(lengths)
        labels = torch.full((len(ids), total, self.candidates), self.blank, dtype=torch.long)
        probabilities = torch.zeros(len(ids), total, self.candidates)
        for row, (identity, length) in enumerate(zip(ids, lengths, strict=True)):
            if identity in self:
                own = self.labels[identity].long(), self.probabilities[identity].float()
                labels[row, :length], probabilities[row, :length] = paced(*own, length, self.blank)
        return FramePosteriors(labels, probabilities)


class StateStore:
    """States of one layer of a teacher, found by utterance id, at any frame rate, each number scaled to unit spread."""

    def __init__(self, stem: Path, width: int) -> None:
        """Raises `DataError` for a store without utterances."""
        self.frames = FrameStore(stem, width, torch.float16)
        names = sorted(self.frames)[::SAMPLED]
        if not names:
            raise DataError(f"{stem}: has no utterances; compute the teacher's states first")
        sample = torch.cat([self.frames[name].float() for name in names])  # [N, D]
        self.width = width
        self.mean, self.spread = sample.mean(dim=0), sample.std(dim=0).clamp(min=1e-3)
        self.frame_spread = float(sample.std(dim=1).median())
        """How far the numbers of a frame are spread, of most frames."""

    def batch(self, ids: Sequence[str], lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """States of utterances in a batch whose student has `lengths` frames: [B, T, D], and which frames have some."""
        states = torch.zeros(len(ids), max(lengths), self.width)
        known_frames = torch.zeros(len(ids), max(lengths), dtype=torch.bool)
        for row, (identity, length) in enumerate(zip(ids, lengths, strict=True)):
            if identity in self.frames:
                own = (self.frames[identity].float() - self.mean) / self.spread
                if len(own) != length:
                    own = F.interpolate(own.T[None], size=length, mode="linear", align_corners=False)[0].T
                states[row, :length], known_frames[row, :length] = own, True
        return states, known_frames


def paced(labels: Tensor, probabilities: Tensor, length: int, blank: int) -> tuple[Tensor, Tensor]:
    """Posteriors [T, k] at another frame rate, [length, k]: of the frames in one's place, the least blank one.

    So a peak is not lost where a teacher has more frames, and lasts longer where it has fewer, which CTC takes for one
    label; and an utterance at another speed has its posteriors in proportion.
    """
    frames = len(labels)
    not_blank = (probabilities * (labels != blank)).sum(dim=-1)  # [T]
    places = torch.arange(length)
    first = places * frames // length
    behind = torch.maximum(first + 1, (places + 1) * frames // length)
    best = first
    for offset in range(1, int((behind - first).max())):
        other = first + offset
        inside = other < behind
        other = torch.where(inside, other, first)
        best = torch.where(inside & (not_blank[other] > not_blank[best]), other, best)
    return labels[best], probabilities[best]


@torch.inference_mode()
def teacher_posteriors(
    teacher: str,
    tokenizer: Path,
    utterances: Sequence[Utterance],
    view: FeatureView,
    candidates: int,
    blank: int,
    folder: Path,
    device: torch.device,
    say: Callable[[str], None],
) -> dict[str, PosteriorStore]:
    """Posteriors by a NAR checkpoint's encoder of utterances as recorded, for each head that the student shares.

    Heads are `characters`, whose rows are code points, and `tokens` where the teacher has the student's tokenizer,
    whose blank is `blank`. A folder in place of a checkpoint holds posteriors that something else has computed. What
    `folder` has already is not computed again. Raises `DataError` for a teacher that has none of an utterance's heads.
    """
    if holds_frames(Path(teacher)):
        return opened(Path(teacher), candidates, blank)
    wanted = {row.id for row in utterances if row.id in view.offsets}
    if holds_frames(folder) and all(
        wanted <= set(store.labels) for store in opened(folder, candidates, blank).values()
    ):
        return opened(folder, candidates, blank)  # without the teacher, which may be large
    with first_process_first():
        source = resolve(teacher)
        encoder = load_nar(source)[0].encoder.to(device).eval()
        stores = {"characters": PosteriorStore(folder / "characters", candidates, 0)}
        if encoder.out_bpe is not None and (source / "tokenizer.json").read_bytes() == tokenizer.read_bytes():
            stores["tokens"] = PosteriorStore(folder / "tokens", candidates, blank)
        left = [
            row
            for row in sorted(utterances, key=lambda row: row.duration)
            if row.id in view.offsets and not all(row.id in store for store in stores.values())
        ]
        progress = share_done(say, "teacher", sum(row.duration for row in left) or 1.0)
        for batch in _batches(left):
            features, lengths = pad([view[row.id] for row in batch])
            out = encoder(features.to(device), lengths.to(device))
            logits = {"characters": (out.char_logits, out.lengths)}
            if "tokens" in stores:
                assert encoder.out_bpe is not None
                logits["tokens"] = encoder.out_bpe(out)
            for name, store in stores.items():
                rows, sizes = logits[name]
                for number, row in enumerate(batch):
                    store.append(row.id, rows[number, : int(sizes[number])].cpu())
            progress(sum(row.duration for row in batch))
    return stores


def holds_frames(folder: Path) -> bool:
    """Whether a folder has posteriors or states of a teacher."""
    names = (*(f"{name}-labels" for name in HEADS), f"{STATES}-1")
    return any((folder / f"{name}.jsonl").exists() for name in names)


def opened_states(folder: Path) -> list[StateStore]:
    """The states that a folder holds, `states-1`, `states-2` and so on, from the lowest layer up."""
    stores: list[StateStore] = []
    while (index := folder / f"{STATES}-{len(stores) + 1}.jsonl").exists():
        width = json.loads(index.read_text(encoding="utf-8").partition("\n")[0])["width"]
        stores.append(StateStore(index.with_suffix(""), width))
    return stores


def opened(folder: Path, candidates: int, blank: int) -> dict[str, PosteriorStore]:
    """The posteriors that a folder holds; raises `DataError` where it has others than are asked for."""
    blanks = {"characters": 0, "tokens": blank}
    stores = {
        name: PosteriorStore(folder / name, candidates, blanks[name])
        for name in HEADS
        if (folder / f"{name}-labels.jsonl").exists()
    }
    if empty := [name for name, store in stores.items() if not len(store)]:
        raise DataError(f"{folder}: {', '.join(empty)} has no utterances; compute the teacher's posteriors first")
    return stores


def _batches(utterances: Sequence[Utterance]) -> list[list[Utterance]]:
    """Utterances in order of their length, at most `BATCH_S` seconds at a time."""
    batches: list[list[Utterance]] = []
    for row in utterances:
        if not batches or row.duration * (len(batches[-1]) + 1) > BATCH_S:
            batches.append([])
        batches[-1].append(row)
    return batches
