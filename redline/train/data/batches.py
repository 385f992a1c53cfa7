"""Batches of speech: utterances of similar length, in an order that depends on the seed and the epoch alone.

Sampling weights: each source of speech gets its hours to a power of an epoch, so that small ones are not drowned.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from redline.errors import DataError
from redline.features import FRAME_RATE, FRAME_SAMPLES, pad
from redline.manifest import Utterance
from redline.train.data.augment import SpecAugmentOptions, augment_features
from redline.train.data.feature_cache import FeatureView
from redline.train.data.shards import StreamedView, ahead
from redline.train.loop.distributed import Say
from redline.train.loop.optim import check_ranges
from redline.types import SAMPLE_RATE

FRAMES = 64
"""Batches are padded to a multiple of so many frames of 20 ms, so that shapes recur: oneDNN compiles for each."""

_Plan: TypeAlias = tuple[int, int, list[Utterance]]  # epoch, number in it, utterances


@dataclass(frozen=True)
class Batch:
    """Padded features [B, T, 160] with lengths [B], and what they say."""

    features: Tensor
    lengths: Tensor
    texts: tuple[str, ...]
    ids: tuple[str, ...]
    languages: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        return float(self.lengths.sum()) * FRAME_SAMPLES / SAMPLE_RATE


@dataclass(frozen=True)
class SpeechBatchOptions:
    """How utterances become batches; `curriculum` is the share of shortest utterances of each first epoch."""

    batch_s: float = 80.0
    buckets: int = 12
    curriculum: tuple[float, ...] = ()
    augment_from_epoch: int = 0
    max_utterance_s: float = 30.0
    max_characters_per_frame: float = 0.0
    """Utterances with more characters of text for each 20 ms are left out, their text can hardly be true; 0: none."""
    balance: float = 1.0
    """Sources (`source`, else `language`) come in proportion to their hours to this power; 1: each utterance once.

    Below 1 an epoch is as long, but small sources come several times in it and large ones in part.
    """
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, "balance", 0, 1)
        check_ranges(self, "max_characters_per_frame", 0)


class BatchSource:
    """Batches of an epoch that can be resumed at any number; utterances that cannot train are left out, and counted."""

    def __init__(
        self,
        utterances: Sequence[Utterance],
        views: Sequence[FeatureView],
        options: SpeechBatchOptions,
        spec_augment: SpecAugmentOptions | None,
        say: Say = lambda line: None,
    ) -> None:
        """`say` reports what does not train and sampling weights; raises `DataError` when no utterance can train."""
        reasons = [_why_not(item, views[0], options) for item in utterances]
        kept = [item for item, reason in zip(utterances, reasons, strict=True) if not reason]
        left_out = Counter(filter(None, reasons))
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
        if not kept:
            raise DataError(f"none of {len(utterances)} utterances can be trained on: {why}")
        self.utterances = sorted(kept, key=lambda item: item.duration)
        self.views, self.options, self.spec_augment = views, options, spec_augment
        if why:
            say(f"{left_out.total()} of {len(utterances)} utterances do not train: {why}")
        for line in sampling_weights(self.utterances, options.balance):
            say(line)

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch | Callable[[], Batch]]:
        options = self.options
        share = options.curriculum[epoch] if epoch < len(options.curriculum) else 1.0
        chosen = self.utterances[: max(1, round(share * len(self.utterances)))]
        if options.balance < 1:
            chosen = balanced(chosen, options.balance, options.seed, epoch)
        batches = enumerate(bucketed(chosen, options, random.Random(f"{options.seed}/{epoch}")))
        plans = ((epoch, number, items) for number, items in batches if number >= skip)
        if isinstance(self.views[0], StreamedView):
            yield from ahead(plans, self._read, self._finish)
        else:
            for plan in plans:
                yield self._finish(plan, self._read(plan))

    def _read(self, plan: _Plan) -> tuple[list[Tensor], tuple[str, ...]]:
        epoch, number, items = plan
        return self.rows(items, epoch, random.Random(f"{self.options.seed}/{epoch}/{number}"))

    def _finish(self, plan: _Plan, read: tuple[list[Tensor], tuple[str, ...]]) -> Batch:
        (epoch, number, items), (rows, texts) = plan, read
        if epoch >= self.options.augment_from_epoch and self.spec_augment:
            rows = augment_features(rows, self.spec_augment, hash((self.options.seed, epoch, number)) & 0x7FFFFFFF)
        ids, languages = tuple(item.id for item in items), tuple(item.language for item in items)
        features, lengths = pad(rows, FRAMES)
        return Batch(features, lengths, texts, ids, languages)

    def rows(self, items: Sequence[Utterance], epoch: int, draw: random.Random) -> tuple[list[Tensor], tuple[str, ...]]:
        """Features [T, 160] and texts of the utterances of one batch; recipes that mix utterances override this."""
        return [self.features_of(item.id, epoch) for item in items], tuple(item.text for item in items)

    def features_of(self, identity: str, epoch: int) -> Tensor:
        """The features [T, 160] of an utterance in the view whose turn it is; the first one until augmentation."""
        view = self.views[0]
        if epoch and epoch >= self.options.augment_from_epoch:
            turn = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:2], "big")
            other = self.views[(epoch + turn) % len(self.views)]
            view = other if identity in other.offsets else view
        return view[identity]


def _why_not(item: Utterance, view: FeatureView, options: SpeechBatchOptions) -> str:
    """Why an utterance does not train; empty when it does."""
    if item.id not in view.offsets:
        return "under 20 ms or not readable"
    if item.duration > options.max_utterance_s:
        return f"over {options.max_utterance_s:g} s"
    most = options.max_characters_per_frame
    if most and len(item.text) > most * item.duration * FRAME_RATE:
        return f"with over {most:g} characters a frame of 20 ms"
    return ""


def bucketed(
    utterances: Sequence[Utterance], options: SpeechBatchOptions, draw: random.Random
) -> list[list[Utterance]]:
    """Batches of utterances of similar length, in random order; each at most `batch_s` seconds with its padding."""
    ordered = sorted(utterances, key=lambda item: item.duration)
    size = -(-len(ordered) // min(options.buckets, max(2, len(ordered) // 8)))
    batches: list[list[Utterance]] = []
    for start in range(0, len(ordered), size):
        bucket = ordered[start : start + size]
        draw.shuffle(bucket)
        batch: list[Utterance] = []
        longest = 0.0
        for item in bucket:
            longest = max(longest, item.duration)
            if batch and longest * (len(batch) + 1) > options.batch_s:
                batches.append(batch)
                batch, longest = [], item.duration
            batch.append(item)
        batches.append(batch)
    draw.shuffle(batches)
    return batches


def shares(hours: Mapping[str, float], alpha: float) -> dict[str, float]:
    """The share of an epoch's hours of each source, in proportion to its own hours ** alpha; together they are 1."""
    weights = {name: value**alpha for name, value in hours.items()}
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def by_source(utterances: Sequence[Utterance]) -> dict[str, list[Utterance]]:
    """The utterances of each source (or language, where none is named), in the order of their names."""
    groups: dict[str, list[Utterance]] = {}
    for item in utterances:
        groups.setdefault(item.source or item.language, []).append(item)
    return dict(sorted(groups.items()))


def hours_of(utterances: Sequence[Utterance]) -> dict[str, float]:
    return {name: sum(row.duration for row in group) / 3600 for name, group in by_source(utterances).items()}


def sampling_weights(utterances: Sequence[Utterance], alpha: float) -> list[str]:
    """A line for each source: its hours, and its share of them and of an epoch; none where each comes as it is."""
    hours = hours_of(utterances)
    total = sum(hours.values())
    lines = []
    for name, share in shares(hours, alpha).items() if alpha < 1 else ():
        of_hours = f"{hours[name]:.2f} h, {hours[name] / total:.1%} of the hours"
        lines.append(f"source {name or '(no name)'}: {of_hours}, {share:.1%} of an epoch")
    return lines


def balanced(utterances: Sequence[Utterance], alpha: float, seed: int, epoch: int) -> list[Utterance]:
    """One epoch of about as many hours as there are, drawn by `shares`; the same seed and epoch give the same draw.

    Within a source nothing comes again before everything came once, over the ends of epochs too. A source that gets
    more than its own hours is therefore seen whole, and in part again.
    """
    groups, hours = by_source(utterances), hours_of(utterances)
    total = sum(hours.values())
    drawn: list[Utterance] = []
    for name, share in shares(hours, alpha).items():
        group = groups[name]
        count = max(1, round(len(group) * share * total / hours[name]))
        turn, at = divmod(epoch * count, len(group))
        while count:
            order = list(range(len(group)))
            random.Random(f"{seed}/{name}/{turn}").shuffle(order)
            part = order[at : at + count]
            drawn += [group[index] for index in part]
            turn, at, count = turn + 1, 0, count - len(part)
    random.Random(f"{seed}/{epoch}").shuffle(drawn)
    return drawn
