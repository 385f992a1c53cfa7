"""Training data: manifests -> lhotse cuts -> feature views on disk -> batches.

A view is one rendering of the whole training set: view 0 is as recorded, each later view has its own speed, noise
and room for every utterance. Views are measured once and memory-mapped, because decoding and resampling the same
audio in every epoch would cost more than the small models that train on it. SpecAugment happens on the fly.
"""

from __future__ import annotations

import hashlib
import json
import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from redline.errors import ConfigError, DataError
from redline.features import FEATURE_DIM, FRAME, FRAME_RATE, Rule, clip_features, pad
from redline.files import settle, write_text
from redline.manifest import Utterance
from redline.normalize import Letters as Letters
from redline.normalize import letters_of as letters_of
from redline.normalize import spoken as spoken
from redline.normalize import spoken_words
from redline.punctuation import MARKS
from redline.train.data.augment import SpecAugmentOptions, augment_features, twin_features
from redline.train.data.rows import taught as taught
from redline.train.data.sampling import balanced
from redline.train.recombine import AS_SAID, RecombineOptions, Recombiner
from redline.types import SAMPLE_RATE

Progress = Callable[[float], None]


def written(line: str, letters: Letters = "a-z") -> str:
    """A printed line in written form (`redline.punctuation`): its spoken words with their capitals and marks."""
    words: list[str] = []
    for part in line.split():
        found = spoken_words(part, letters)
        tail = part[max((at for at, char in enumerate(part) if char.isalnum()), default=-1) + 1 :]
        mark = next((char for char in tail if char in MARKS), "")
        if found:
            words += [*found[:-1], found[-1] + mark]
        elif words and words[-1][-1] not in MARKS:  # a mark that stands alone belongs to the word before
            words[-1] += mark
    return " ".join(words)


@dataclass(frozen=True)
class AugmentOptions:
    """What the views may do to an utterance; the first one leaves it as recorded."""

    # Views on disk are found by what is in them, which two of the fields do not change.
    views: int = field(default=5, repr=False)
    speeds: tuple[float, ...] = (0.9, 1.0, 1.1)
    noise_probability: float = 0.4
    noise_snr_db: tuple[float, float] = (5.0, 25.0)
    reverb_probability: float = 0.25
    noise_dir: str | None = None
    """Folder of noise recordings; None leaves noise out."""
    rir_dir: str | None = None
    """Folder of room responses; None leaves rooms out."""
    recorded_view: bool = field(default=True, repr=False)
    """Whether the first view is as recorded; false draws speed, room and noise for it too."""


def cut_of(utterance: Utterance) -> Any:
    """One utterance as a lhotse cut; raises `DataError` when its recording cannot be opened."""
    from lhotse import Recording
    from lhotse.audio.utils import AudioLoadingError

    try:
        recording = Recording.from_file(utterance.audio, recording_id=str(utterance.audio))
    except (OSError, AudioLoadingError) as error:
        reason = "no such file" if not utterance.audio.exists() else "not a recording that can be read"
        raise DataError(f"{utterance.audio}: {reason}") from error
    # A row without an end is the whole recording, however long it says that it is.
    end = recording.duration if utterance.end is None else min(utterance.end, recording.duration)
    length = end - utterance.start
    if length <= 0:
        raise DataError(f"{utterance.audio}: starts at {utterance.start:g} s but lasts {recording.duration:g} s")
    cut = recording.to_cut().truncate(offset=utterance.start, duration=length)
    cut.id = utterance.id
    return cut.resample(SAMPLE_RATE) if recording.sampling_rate != SAMPLE_RATE else cut


def _recordings(folder: str | None) -> list[Any]:
    from lhotse import Recording

    if folder is None:
        return []
    files = [file for file in sorted(Path(folder).rglob("*")) if file.suffix in {".flac", ".wav", ".opus", ".ogg"}]
    if not files:
        raise DataError(f"{folder}: no .flac, .wav, .opus or .ogg in it; name a folder of recordings, or leave it out")
    return [Recording.from_file(file) for file in files]


def render_view(cut: Any, view: int, options: AugmentOptions, noises: list[Any], rooms: list[Any]) -> NDArray[Any]:
    """Samples [N] of one cut in one view; the draw depends on the cut's id and the view alone."""
    if view > 0:
        seed = int.from_bytes(hashlib.sha256(f"{cut.id}/{view}".encode()).digest()[:4], "big")
        draw = random.Random(seed)
        speed = draw.choice(options.speeds)
        if speed != 1.0:
            cut = cut.perturb_speed(speed)
        if rooms and draw.random() < options.reverb_probability:
            cut = cut.reverb_rir(draw.choice(rooms), normalize_output=True)
        if noises and draw.random() < options.noise_probability:
            noise = draw.choice(noises).to_cut()
            noise = noise.truncate(offset=draw.uniform(0.0, noise.duration / 2))
            noise = noise.resample(SAMPLE_RATE) if noise.sampling_rate != SAMPLE_RATE else noise
            while noise.duration < cut.duration:
                noise = noise.append(noise)
            snr = draw.uniform(*options.noise_snr_db)
            cut = cut.mix(noise.truncate(duration=cut.duration), snr=snr)
    samples = cut.load_audio()
    return np.asarray(samples.mean(axis=0), dtype=np.float32)


@dataclass
class FeatureView:
    """Memory-mapped features of one view: rows of [T_i, 160] in half precision, found by utterance id."""

    frames: NDArray[np.float16]
    offsets: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __getitem__(self, identity: str) -> Tensor:
        start, end = self.offsets[identity]
        return torch.from_numpy(np.array(self.frames[start:end])).float()  # [T, 160]

    @classmethod
    def open(cls, stem: Path) -> FeatureView:
        offsets = {key: tuple(value) for key, value in json.loads(stem.with_suffix(".json").read_text()).items()}
        frames = np.memmap(stem.with_suffix(".f16"), dtype=np.float16, mode="r").reshape(-1, FEATURE_DIM)
        return cls(frames, offsets)


def build_view(
    utterances: Sequence[Utterance],
    view: int,
    options: AugmentOptions,
    cache: Path,
    progress: Progress | None = None,
    skipped: Callable[[str], None] | None = None,
    rule: Rule = "nar",
) -> FeatureView:
    """Measure one view of the training set, or open it when an identical one is already in `cache`.

    A recording that cannot be read is left out, and `skipped` is told why. `rule` is the model's own front end.
    """
    from lhotse.audio.utils import AudioLoadingError, DurationMismatchError

    ids = {item.id for item in utterances}
    assert len(ids) == len(utterances), "features are found by id"
    parts = [(item.id, str(item.audio), item.start, item.end, *_stamp(item.audio)) for item in utterances]
    key = json.dumps([rule, view, repr(options) if view else "", parts])
    stem = cache / f"view{view}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if stem.with_suffix(".json").exists():
        return FeatureView.open(stem)
    cache.mkdir(parents=True, exist_ok=True)
    noises, rooms = (_recordings(options.noise_dir), _recordings(options.rir_dir)) if view else ([], [])
    offsets: dict[str, tuple[int, int]] = {}
    position = 0
    partial = stem.with_suffix(".partial")
    with partial.open("wb") as file:
        for utterance in utterances:
            if progress:
                progress(utterance.duration)
            try:
                samples = render_view(cut_of(utterance), view, options, noises, rooms)
            except (DataError, AudioLoadingError, DurationMismatchError) as error:
                if skipped:
                    skipped(str(error).splitlines()[0])
                continue
            if len(samples) < FRAME:
                continue
            rows = clip_features(samples, rule).numpy().astype(np.float16)
            file.write(rows.tobytes())
            offsets[utterance.id] = (position, position + len(rows))
            position += len(rows)
    if not offsets:
        raise DataError(f"none of {len(utterances)} recordings can be read; the first is {utterances[0].audio}")
    settle(partial, stem.with_suffix(".f16"))
    write_text(stem.with_suffix(".json"), json.dumps(offsets))
    return FeatureView.open(stem)


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of a file, which change with what is in it; zeros where there is none."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class Batch:
    """Padded features [B, T, 160] with lengths [B], and what they say."""

    features: Tensor
    lengths: Tensor
    texts: tuple[str, ...]
    ids: tuple[str, ...]
    languages: tuple[str, ...] = ()
    twins: bool = False
    """Whether the second half of the rows are those of the first, under other masks."""

    @property
    def seconds(self) -> float:
        return float(self.lengths.sum()) * FRAME / SAMPLE_RATE


@dataclass(frozen=True)
class BatchOptions:
    """How utterances become batches; `curriculum` is the share of shortest utterances of each first epoch."""

    batch_s: float = 80.0
    buckets: int = 12
    curriculum: tuple[float, ...] = (0.34, 0.67)
    augment_from_epoch: int = 2
    max_utterance_s: float = 30.0
    max_characters_per_frame: float = 0.0
    """Utterances with more characters of text for each 20 ms are left out, their text can hardly be true; 0: none."""
    balance: float = 1.0
    """Sources (`source`, else `language`) come in proportion to their hours to this power; 1: each utterance once.

    Below 1 an epoch is as long, but small sources come several times in it and large ones in part.
    """
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.balance <= 1:
            raise ConfigError(f"balance is {self.balance}; allowed are 0 (all sources alike) to 1 (each as it is)")
        if self.max_characters_per_frame < 0:
            raise ConfigError(
                f"max_characters_per_frame is {self.max_characters_per_frame}; allowed are 0 (no limit) and above"
            )


class BatchSource:
    """Batches of an epoch in an order that depends on the seed and the epoch alone, so that any step can be resumed."""

    def __init__(
        self,
        utterances: Sequence[Utterance],
        views: Sequence[FeatureView],
        options: BatchOptions,
        spec_augment: SpecAugmentOptions | None,
        recombine: RecombineOptions = AS_SAID,
        twins: bool = False,
    ) -> None:
        reasons = [_why_not(item, views[0], options) for item in utterances]
        kept = [item for item, reason in zip(utterances, reasons, strict=True) if not reason]
        self.left_out = Counter(reason for reason in reasons if reason)
        """How many utterances do not train, by reason."""
        if not kept:
            raise DataError(f"none of {len(utterances)} utterances can be trained on: {self.why_left_out}")
        self.utterances = sorted(kept, key=lambda item: item.duration)
        self.views = views
        self.options = options
        self.spec_augment = spec_augment
        self.recombiner = Recombiner(kept, recombine)
        self.twins = twins and spec_augment is not None

    @property
    def why_left_out(self) -> str:
        """The reasons for which utterances do not train, with the number of each; empty when all do."""
        return ", ".join(f"{count} {reason}" for reason, count in sorted(self.left_out.items()))

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of one epoch after the first `skip`."""
        from lhotse.dataset import DynamicBucketingSampler

        options = self.options
        share = options.curriculum[epoch] if epoch < len(options.curriculum) else 1.0
        chosen = self.utterances[: max(1, round(share * len(self.utterances)))]
        if options.balance < 1:
            chosen = balanced(chosen, options.balance, options.seed, epoch)
        with warnings.catch_warnings():
            # The advice to read cuts lazily is for sets that do not fit in memory.
            warnings.filterwarnings("ignore", message="You are using DynamicBucketingSampler")
            sampler = DynamicBucketingSampler(
                cuts_of_durations(chosen),
                max_duration=options.batch_s,
                num_buckets=min(options.buckets, max(2, len(chosen) // 8)),
                shuffle=True,
                drop_last=False,
                seed=options.seed,
                rank=0,
                world_size=1,
            )
        sampler.set_epoch(epoch)
        said = {item.id: item for item in chosen}
        augment = epoch >= options.augment_from_epoch
        recombine = epoch >= self.recombiner.options.from_epoch
        for number, cuts in enumerate(sampler):
            if number < skip:
                continue
            items = [said[cut.id] for cut in cuts]
            rows, texts = self._heard(items, epoch if augment else 0, recombine, f"{options.seed}/{epoch}/{number}")
            ids, languages = tuple(item.id for item in items), tuple(item.language for item in items)
            twins = augment and self.twins
            if augment and self.spec_augment:
                change = twin_features if twins else augment_features
                rows = change(rows, self.spec_augment, hash((options.seed, epoch, number)) & 0x7FFFFFFF)
            features, lengths = pad(rows)
            copies = 1 + twins
            yield Batch(features, lengths, texts * copies, ids * copies, languages * copies, twins)

    def _heard(
        self, items: Sequence[Utterance], epoch: int, recombine: bool, seed: str
    ) -> tuple[list[Tensor], tuple[str, ...]]:
        """Features [T, 160] and text of each utterance, as recorded in epoch 0, or of new ones in their places."""
        draw = random.Random(seed)
        rows: list[Tensor] = []
        texts: list[str] = []
        for item in items:
            new = self.recombiner(item, lambda name: self._view(name, epoch)[name], draw) if recombine else None
            row, text = new or (self._view(item.id, epoch)[item.id], item.text)
            rows.append(row)
            texts.append(text)
        return rows, tuple(texts)

    def _view(self, identity: str, epoch: int) -> FeatureView:
        turn = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:2], "big")
        view = self.views[(epoch + turn) % len(self.views)] if epoch else self.views[0]
        return view if identity in view.offsets else self.views[0]


def _why_not(item: Utterance, view: FeatureView, options: BatchOptions) -> str:
    """Why an utterance does not train; empty when it does."""
    if item.id not in view.offsets:
        return "under 20 ms or not readable"
    if item.duration > options.max_utterance_s:
        return f"over {options.max_utterance_s:g} s"
    most = options.max_characters_per_frame
    if most and len(item.text) > most * item.duration * FRAME_RATE:
        return f"with over {most:g} characters a frame of 20 ms"
    return ""


def cuts_of_durations(utterances: Sequence[Utterance]) -> Any:
    """Cuts that only carry an id and a duration, for sampling without touching the audio again."""
    from lhotse import CutSet
    from lhotse.cut import MonoCut
    from lhotse.testing.dummies import dummy_recording

    recording = dummy_recording(0, duration=3600.0)
    return CutSet.from_cuts(
        [MonoCut(item.id, start=0, duration=item.duration, channel=0, recording=recording) for item in utterances]
    )
