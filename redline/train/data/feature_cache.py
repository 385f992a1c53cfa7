"""Feature cache: log-mel features of a training set on disk, in several perturbed renderings ("views").

View 0 is as recorded; each later view draws a speed, a room and a noise for every utterance. Views are computed once
and memory-mapped, because decoding and resampling the same audio in every epoch would cost more than a small model.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from redline.errors import DataError
from redline.features import FEATURE_DIM, FRAME_RATE, FRAME_SAMPLES, Rule, clip_features
from redline.files import settle, write_text
from redline.manifest import Utterance
from redline.train.data.shards import StreamedView, read_sharded
from redline.train.loop.distributed import first_process_first
from redline.train.loop.stage import share_done
from redline.types import SAMPLE_RATE

MAX_NAMED = 10
"""So many recordings that cannot be read are named one by one."""
MEASURED_RATIO = 1.25
"""A row that claims so many times the length of its sound, or so many times less, is reported; speeds change less."""
NOISE_SUFFIXES = {".flac", ".wav", ".opus", ".ogg"}


@dataclass(frozen=True)
class AugmentOptions:
    """What the views may do to an utterance; the first one leaves it as recorded."""

    # Views on disk are found by what is in them, which two of the fields do not change.
    views: int = field(default=5, repr=False)
    speeds: tuple[float, ...] = (0.9, 1.0, 1.1)
    noise_probability: float = 0.4
    noise_snr_db: tuple[float, float] = (5.0, 25.0)
    reverb_probability: float = 0.25
    noise_dir: str | None = None  # folder of noise recordings; None leaves noise out
    rir_dir: str | None = None  # folder of room impulse responses; None leaves rooms out
    recorded_view: bool = field(default=True, repr=False)
    """Whether the first view is as recorded; false draws speed, room and noise for it too."""


@dataclass
class FeatureCache:
    """Memory-mapped features of one view: rows of [T_i, 160] in half precision, found by utterance id."""

    frames: NDArray[np.float16]
    offsets: dict[str, tuple[int, int]]

    def __getitem__(self, identity: str) -> Tensor:
        start, end = self.offsets[identity]
        return torch.from_numpy(np.array(self.frames[start:end])).float()  # [T, 160]

    @classmethod
    def open(cls, stem: Path) -> FeatureCache:
        offsets = {key: tuple(value) for key, value in json.loads(stem.with_suffix(".json").read_text()).items()}
        frames = np.memmap(stem.with_suffix(".f16"), dtype=np.float16, mode="r").reshape(-1, FEATURE_DIM)
        return cls(frames, offsets)


FeatureView: TypeAlias = FeatureCache | StreamedView
"""Features of utterances, found by id: kept on disk, or computed when they are asked for."""


def utterance_cut(utterance: Utterance) -> Any:
    """One utterance as a lhotse cut; raises `DataError` when its recording cannot be opened."""
    from lhotse import Recording
    from lhotse.audio.utils import AudioLoadingError

    try:
        if utterance.shard:
            recording = Recording.from_bytes(read_sharded(utterance), recording_id=utterance.shard)
        else:
            recording = Recording.from_file(utterance.audio, recording_id=str(utterance.audio))
    except (OSError, AudioLoadingError) as error:
        is_missing = not utterance.shard and not utterance.audio.exists()
        reason = "no such file" if is_missing else "not a recording that can be read"
        raise DataError(f"{utterance.shard or utterance.audio}: {reason}") from error
    # A row without an end is the whole recording, however long it says that it is.
    end = recording.duration if utterance.end is None else min(utterance.end, recording.duration)
    if end <= utterance.start:
        raise DataError(f"{utterance.audio}: starts at {utterance.start:g} s but lasts {recording.duration:g} s")
    cut = recording.to_cut().truncate(offset=utterance.start, duration=end - utterance.start)
    cut.id = utterance.id
    return cut.resample(SAMPLE_RATE)


def cut_samples(cut: Any) -> NDArray[np.float32]:
    """Samples [N] of a cut, its channels averaged; raises `DataError` when its recording cannot be decoded."""
    from lhotse.audio.utils import AudioLoadingError, DurationMismatchError

    try:
        return np.asarray(cut.load_audio().mean(axis=0), dtype=np.float32)
    except (AudioLoadingError, DurationMismatchError) as error:
        raise DataError(str(error).splitlines()[0]) from error


def _recordings(folder: str | None) -> list[Any]:
    from lhotse import Recording

    files = [] if folder is None else [file for file in Path(folder).rglob("*") if file.suffix in NOISE_SUFFIXES]
    if folder is not None and not files:
        raise DataError(f"{folder}: no .flac, .wav, .opus or .ogg in it; name a folder of recordings, or leave it out")
    return [Recording.from_file(file) for file in sorted(files)]


def _perturbations(view: int, options: AugmentOptions) -> tuple[list[Any], list[Any]]:
    """Noises and rooms of a view; the first has none."""
    folders = (options.noise_dir, options.rir_dir) if view else (None, None)
    return _recordings(folders[0]), _recordings(folders[1])


def perturbed(cut: Any, view: int, options: AugmentOptions, noises: list[Any], rooms: list[Any]) -> Any:
    """A cut in one view after the first; the draw depends on the cut's id and the view alone."""
    draw = random.Random(int.from_bytes(hashlib.sha256(f"{cut.id}/{view}".encode()).digest()[:4], "big"))
    speed = draw.choice(options.speeds)
    if speed != 1.0:
        cut = cut.perturb_speed(speed)
    if rooms and draw.random() < options.reverb_probability:
        cut = cut.reverb_rir(draw.choice(rooms), normalize_output=True)
    if noises and draw.random() < options.noise_probability:
        noise = draw.choice(noises).to_cut()
        noise = noise.truncate(offset=draw.uniform(0.0, noise.duration / 2)).resample(SAMPLE_RATE)
        while noise.duration < cut.duration:
            noise = noise.append(noise)
        cut = cut.mix(noise.truncate(duration=cut.duration), snr=draw.uniform(*options.noise_snr_db))
    return cut


def rendered(
    utterance: Utterance, view: int, options: AugmentOptions, noises: list[Any], rooms: list[Any], rule: Rule
) -> NDArray[np.float16]:
    """Features [T, 160] of an utterance in a view, none of less than a frame; raises `DataError` as `utterance_cut`."""
    cut = utterance_cut(utterance)
    samples = cut_samples(perturbed(cut, view, options, noises, rooms) if view else cut)
    if len(samples) < FRAME_SAMPLES:
        return np.zeros((0, FEATURE_DIM), dtype=np.float16)
    features: NDArray[np.float16] = clip_features(samples, rule).numpy().astype(np.float16)
    return features


def streamed_view(rows: Sequence[Utterance], view: int, options: AugmentOptions, rule: Rule) -> StreamedView:
    """A view that is not kept: features are computed anew each time they are asked for, and are those of a cache."""
    noises, rooms = _perturbations(view, options)

    def render(row: Utterance) -> Tensor:
        return torch.from_numpy(rendered(row, view, options, noises, rooms, rule)).float()

    return StreamedView(rows, render)


def build_feature_cache(
    utterances: Sequence[Utterance],
    view: int,
    options: AugmentOptions,
    folder: Path,
    progress: Callable[[float], None] = lambda seconds: None,
    skipped: Callable[[str], None] = lambda reason: None,
    rule: Rule = "nar",
) -> FeatureCache:
    """Compute one view of the utterances, or open it where an identical one is already in `folder`.

    A recording that cannot be read is left out, and `skipped` gets the reason. `rule` is the model's own front end.
    """
    assert len({item.id for item in utterances}) == len(utterances), "features are found by id"
    parts = [(item.id, item.shard or str(item.audio), item.start, item.end, *_stamp(item.audio)) for item in utterances]
    key = json.dumps([rule, view, repr(options) if view else "", parts])
    stem = folder / f"view{view}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if stem.with_suffix(".json").exists():
        return FeatureCache.open(stem)
    folder.mkdir(parents=True, exist_ok=True)
    noises, rooms = _perturbations(view, options)
    offsets: dict[str, tuple[int, int]] = {}
    position = 0
    partial = stem.with_suffix(".partial")
    with partial.open("wb") as file:
        for utterance in utterances:
            progress(utterance.duration)
            try:
                rows = rendered(utterance, view, options, noises, rooms, rule)
            except DataError as error:
                skipped(str(error).splitlines()[0])
                continue
            if len(rows):
                file.write(rows.tobytes())
                offsets[utterance.id] = (position, position + len(rows))
                position += len(rows)
    if not offsets:
        raise DataError(f"none of {len(utterances)} recordings can be read; the first is {utterances[0].audio}")
    settle(partial, stem.with_suffix(".f16"))
    write_text(stem.with_suffix(".json"), json.dumps(offsets))
    return FeatureCache.open(stem)


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of a file, which change with what is in it; zeros where there is none."""
    with suppress(OSError):
        return path.stat().st_size, path.stat().st_mtime_ns
    return 0, 0


def feature_caches(
    train: Sequence[Utterance],
    dev: Sequence[Utterance],
    options: AugmentOptions,
    folder: Path,
    say: Callable[[str], None],
    rule: Rule = "nar",
) -> tuple[list[FeatureView], FeatureCache]:
    """Every view of the training set that the options ask for, and dev as recorded, computed by the first process.

    Of a training set in shards nothing is kept: its views are read as batches need them.

    `say` reports how far it is and which recordings are left out. `rule` is the model's own front end.
    """
    reasons = set[str]()

    def left_out(reason: str) -> None:
        if reason not in reasons and len(reasons) < MAX_NAMED:
            say(f"left out: {reason}")
        reasons.add(reason)

    views: list[FeatureView] = []
    seconds, first = sum(row.duration for row in train), int(not options.recorded_view)
    streamed = [row for row in train if row.shard]
    if streamed and len(streamed) < len(train):
        raise DataError(
            f"{len(streamed)} of {len(train)} rows to train on lie in shards; write all into shards, or none"
        )
    for number in range(first, first + options.views):
        if streamed:
            views.append(streamed_view(train, number, options, rule))
            continue
        progress = share_done(say, f"features, view {number - first + 1}/{options.views}", seconds)
        with first_process_first():
            views.append(build_feature_cache(train, number, options, folder, progress, left_out, rule))
    with first_process_first():
        dev_view = build_feature_cache(dev, 0, options, folder, skipped=left_out, rule=rule)
    if len(reasons) > MAX_NAMED:
        say(f"left out: {len(reasons) - MAX_NAMED} more recordings; `redline check` lists them all")
    return views, dev_view


def measured(rows: Sequence[Utterance], view: FeatureView, say: Callable[[str], None]) -> list[Utterance]:
    """The utterances with the durations of their sound; `say` reports where the manifest claims others."""
    corrected, wrong = [], []
    for row in rows:
        first, last = view.offsets.get(row.id, (0, 0))
        seconds = (last - first) / FRAME_RATE
        if seconds and not seconds / MEASURED_RATIO <= row.duration <= seconds * MEASURED_RATIO:
            wrong.append(f"{row.id}: {row.duration:g} s claimed, {seconds:.1f} s heard")
            row = replace(row, duration=seconds)
        corrected.append(row)
    if wrong:
        say(f"{len(wrong)} rows claim another duration than their sound has, which counts; first {wrong[0]}")
    return corrected
