"""Resident speech: a training set that stays in the memory of an accelerator, with augmentation computed there.

Hours of log-mel features are small beside such a memory (25 h take 1.4 GB), and a small encoder trains faster than
processes could prepare batches for it. Every batch holds each utterance several times, heard otherwise each time, for
the consistency of arXiv 2410.05101; nothing but their texts comes from the host.

B utterances, V views of each, M mel frames of 10 ms, N mel frames of the whole set.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from redline.errors import ConfigError, DataError
from redline.features import FEATURE_DIM, FRAME_SAMPLES, HOP, N_MELS, STACK, clip_features
from redline.manifest import Utterance
from redline.models.conformer import valid_frames
from redline.train.data.batches import SpeechBatchOptions, balanced, bucketed, sampling_weights
from redline.train.data.feature_cache import cut_samples, utterance_cut
from redline.train.loop.distributed import Say
from redline.train.loop.optim import check_ranges
from redline.train.loop.stage import share_done
from redline.types import SAMPLE_RATE
from redline_recipes.distillation.whisper import whisper_mel
from redline_recipes.tiny.batch_augment import BatchAugment, stretched
from redline_recipes.tiny.mel_augment import MelAugmentOptions

CHUNK = 32
"""Recordings that a process reads at a time."""
TEACHER_FRAME = 4
"""Mel frames of a pair of Whisper's states: 40 ms."""


@dataclass(frozen=True)
class ResidentOptions:
    """Whether the training set of the encoder stays on the accelerator, and how it is heard there."""

    views: int = 0
    """How often each utterance is in its batch, under other rooms, noises and masks; 0: the set is not resident."""
    consistency: float = 0.2
    """Weight of the divergence between views, a label (CR-CTC, arXiv 2410.05101)."""
    dropout: float = 0.0
    """While the encoder learns; the checkpoint keeps what its configuration says."""
    teacher: str = ""
    """A CTranslate2 folder of a Whisper model, whose states are learned too; empty: none."""
    teacher_layers: tuple[int, ...] = (2, 4, 6)
    """To which `[distillation] state_blocks` are drawn, from 1."""
    processes: int = 8
    """That read recordings."""

    def __post_init__(self) -> None:
        check_ranges(self, "views consistency", 0)
        check_ranges(self, "dropout", 0, 0.9)
        check_ranges(self, "processes", 1)
        if self.views == 1 and self.consistency:
            raise ConfigError(
                "[resident] consistency compares views, and views is 1; set views = 2, or consistency = 0"
            )


@dataclass(frozen=True)
class ResidentBatch:
    """Features [V * B, T, 160] with lengths [V * B], view after view; what they say, and what a teacher hears."""

    features: Tensor
    lengths: Tensor
    texts: tuple[str, ...]  # of B utterances
    ids: tuple[str, ...]
    languages: tuple[str, ...]
    views: int
    teacher_mel: Tensor | None  # [B, 80, M], clean and at the speed of the recording
    teacher_lengths: Tensor  # [B] mel frames
    speeds: Tensor  # [B], how long an utterance lasts here, as a share of what it did
    seconds: float
    """Of sound, in all views; from the host, which does not wait for the device."""


@dataclass(frozen=True)
class Measured:
    """Features of one utterance in half precision, or why there are none."""

    mel: NDArray[np.float16] | None = None  # [M, 80]
    teacher_mel: NDArray[np.float16] | None = None  # [M, 80], as Whisper measures
    reason: str = ""


def measured(row: Utterance, for_teacher: bool) -> Measured:
    """Read an utterance and measure it."""
    try:
        samples = torch.from_numpy(cut_samples(utterance_cut(row)))
    except DataError as error:
        return Measured(reason=str(error))
    if len(samples) < FRAME_SAMPLES:
        return Measured(reason="under 20 ms")
    mel = clip_features(samples).reshape(-1, N_MELS)
    theirs = _fitted(whisper_mel(samples).T, len(mel)).half().numpy() if for_teacher else None
    return Measured(mel.half().numpy(), theirs)


def measure_all(rows: Sequence[Utterance], for_teacher: bool, processes: int) -> Iterator[tuple[Utterance, Measured]]:
    """Utterances with their features, measured by some processes."""
    measure = partial(measured, for_teacher=for_teacher)
    if processes == 1:
        yield from ((row, measure(row)) for row in rows)
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from zip(rows, pool.map(measure, rows, chunksize=CHUNK), strict=True)


class ResidentSpeech:
    """Log-mel features of utterances on one device, [N, 80] in half precision, found by id."""

    def __init__(
        self,
        rows: Iterable[tuple[Utterance, Measured]],
        device: torch.device,
        say: Callable[[str], None] = lambda line: None,
        progress: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """Raises `DataError` where no utterance can be read."""
        self.device, self.offsets = device, dict[str, tuple[int, int]]()
        own: list[Tensor] = []
        theirs: list[Tensor] = []
        size = 0
        for row, features in rows:
            if features.mel is None:
                say(f"left out: {row.id}: {features.reason}")
                continue
            own.append(torch.from_numpy(features.mel))
            if features.teacher_mel is not None:
                theirs.append(torch.from_numpy(features.teacher_mel))
            self.offsets[row.id] = size, len(features.mel)
            size += len(features.mel)
            progress(row.duration)
        if not own:
            raise DataError("none of the utterances can be read")
        self.mel = torch.cat(own).to(device)  # [N, 80]
        self.teacher_mel = torch.cat(theirs).to(device) if theirs else None

    def batch(self, ids: Sequence[str]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features [B, M, 80] with lengths [B], and a teacher's; silence behind the end."""
        places = [self.offsets[name] for name in ids]
        starts, lengths = (torch.tensor(column, device=self.device) for column in zip(*places, strict=True))
        offsets = torch.arange(int(max(size for _, size in places)), device=self.device)
        index = starts[:, None] + torch.minimum(offsets[None], lengths[:, None] - 1)  # [B, M]
        behind = offsets[None] >= lengths[:, None]

        def padded(frames: Tensor) -> Tensor:
            rows = frames[index].float()
            quietest = rows.amin(dim=(1, 2), keepdim=True)
            return torch.where(behind[..., None], quietest, rows)

        return padded(self.mel), lengths, None if self.teacher_mel is None else padded(self.teacher_mel)


def _fitted(mel: Tensor, length: int) -> Tensor:
    """Mel frames [M, 80] cut to a length, or the last one again."""
    return torch.cat((mel, mel[-1:].expand(max(0, length - len(mel)), -1)))[:length]


class ResidentSource:
    """Batches of resident speech: utterances of similar length, each in some views that are heard otherwise."""

    def __init__(
        self,
        utterances: Sequence[Utterance],
        speech: ResidentSpeech,
        options: ResidentOptions,
        batches: SpeechBatchOptions,
        augment: BatchAugment,
        stretch: MelAugmentOptions,
        say: Say = lambda line: None,
    ) -> None:
        longest = batches.max_utterance_s
        kept = [row for row in utterances if row.id in speech.offsets and row.duration <= longest]
        if left_out := len(utterances) - len(kept):
            say(f"{left_out} of {len(utterances)} utterances do not train: not readable, or over {longest:g} s")
        if not kept:
            raise DataError(f"none of {len(utterances)} utterances can be trained on")
        for line in sampling_weights(kept, batches.balance):
            say(line)
        self.utterances, self.speech, self.options, self.batches = kept, speech, options, batches
        self.augment, self.stretch = augment, stretch

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[ResidentBatch]:
        options = self.batches
        chosen = balanced(self.utterances, options.balance, options.seed, epoch) if options.balance < 1 else None
        groups = bucketed(chosen or self.utterances, options, random.Random(f"{options.seed}/{epoch}"))
        for number, rows in enumerate(groups):
            if number >= skip:
                yield self.batch(rows, random.Random(f"{options.seed}/{epoch}/{number}"))

    def batch(self, rows: Sequence[Utterance], draw: random.Random) -> ResidentBatch:
        """A batch of some utterances, augmented as `draw` says."""
        stretch, views = self.stretch, self.options.views
        mel, lengths, teacher_mel = self.speech.batch([row.id for row in rows])
        factors = [draw.uniform(*stretch.speeds) if draw.random() < stretch.stretch else 1.0 for _ in rows]
        speeds = torch.tensor(factors, device=mel.device)
        mel, own_lengths = stretched(mel, lengths, speeds)
        mel, own_lengths = mel.repeat(views, 1, 1), own_lengths.repeat(views)
        mel = self.augment(mel, own_lengths, draw.getrandbits(62))
        mel = mel * valid_frames(own_lengths, mel.shape[1])[..., None]
        return ResidentBatch(
            mel.reshape(len(mel), -1, FEATURE_DIM),
            own_lengths // STACK,
            tuple(row.text for row in rows),
            tuple(row.id for row in rows),
            tuple(row.language for row in rows),
            views,
            None if teacher_mel is None else teacher_mel.mT,
            lengths,
            speeds,
            views
            * sum(self.speech.offsets[row.id][1] * factor for row, factor in zip(rows, factors, strict=True))
            * HOP
            / SAMPLE_RATE,
        )


def resident_speech(
    utterances: Sequence[Utterance], options: ResidentOptions, device: torch.device, for_teacher: bool, say: Say
) -> ResidentSpeech:
    """Read a training set onto a device."""
    total = sum(row.duration for row in utterances)
    rows = measure_all(utterances, for_teacher, options.processes)
    speech = ResidentSpeech(rows, device, say, share_done(say, "resident: reading", total))
    gigabytes = sum(each.nbytes for each in (speech.mel, speech.teacher_mel) if each is not None) / 1e9
    say(
        f"resident: {len(speech.offsets)} utterances, {len(speech.mel) * HOP / SAMPLE_RATE / 3600:.2f} h, "
        f"{gigabytes:.2f} GB"
    )
    return speech
