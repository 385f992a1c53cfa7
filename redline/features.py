"""The ruler: every rate of the front end, and the log-mel features of all three models.

    1 sample          62.5 us
    1 mel frame       160 samples   10 ms
    1 encoder frame   2 mel frames  20 ms   50 a second

Each clip is measured alone, before padding, so its features never depend on its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from redline.errors import EmptyAudioError
from redline.types import SAMPLE_RATE, Waveform

N_FFT = 512
WINDOW = 400
HOP = 160
N_MELS = 80
STACK = 2
FRAME_SAMPLES = HOP * STACK
"""Samples in one encoder frame (before any subsampling inside the encoder)."""
FEATURE_DIM = N_MELS * STACK
FRAME_RATE = SAMPLE_RATE // FRAME_SAMPLES
DYNAMIC_RANGE = 8.0
"""The floor lies this many decades below the loudest bin of the clip."""

Rule = Literal["nar", "native", "ar", "ctc"]
"""Whose front end. They disagree about the last encoder frame, and so about what counts for the loudest bin:

    nar       the published NAR models: T // 320 frames, and the mel frames behind them are not used
    native    the native port of NAR: a started frame counts, its missing mel frame is silence
    ar        2B and 2B-Plus: whole pairs of mel frames; one left over still counts for the loudest bin
    ctc       5.0 TurboCTC: as native, the clip itself filled up with silence; each mel frame with its delta
"""
Clip = Waveform | Tensor | NDArray[np.float32]


def num_frames(samples: int, rule: Rule = "nar") -> int:
    """Encoder frames of a clip; the NAR and the AR front end disagree for half of all lengths."""
    mels = samples // HOP + 1
    rules = {"nar": samples // FRAME_SAMPLES, "native": -(-mels // STACK), "ar": mels // STACK}
    return rules[rule] if rule != "ctc" else -(-(samples // HOP) // STACK)


def band_edges() -> Tensor:
    """Where the mel bands begin, peak and end, in hertz: band i from [i] over [i + 1] to [i + 2], [N_MELS + 2]."""
    mel_top = 2595.0 * math.log10(1.0 + (SAMPLE_RATE / 2) / 700.0)
    # float32 throughout, because the published filters were: float64 edges move features by 3e-5.
    return 700.0 * (10.0 ** (torch.linspace(0.0, mel_top, N_MELS + 2) / 2595.0) - 1.0)


@lru_cache(maxsize=1)
def filterbank() -> Tensor:
    """Triangular HTK mel filters without area normalisation, [N_FFT // 2 + 1, N_MELS]."""
    edges = band_edges()
    bins = torch.linspace(0.0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    slopes = edges[None, :] - bins[:, None]  # [F, mels + 2]
    widths = edges.diff()
    rising = -slopes[:, :-2] / widths[:-1]
    falling = slopes[:, 2:] / widths[1:]
    return torch.minimum(rising, falling).clamp(min=0.0)


@lru_cache(maxsize=1)
def _window() -> Tensor:
    return torch.hann_window(WINDOW, periodic=True)


def log_mel(samples: Tensor, count: int | None = None) -> Tensor:
    """Normalised log-mel energies of one clip: samples [N] -> [count, 80], about -1.5 to 1.5.

    There are N // 160 + 1; with a smaller `count` the others are not used, with a larger one silence follows. The
    clip must be longer than half an FFT window (256 samples), which the reflected edges need.
    """
    spectrum = torch.stft(
        samples,
        N_FFT,
        hop_length=HOP,
        win_length=WINDOW,
        window=_window().to(samples.device),
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )  # [F, M]
    power = spectrum.abs().square().T  # [M, F]
    mel = power @ filterbank().to(samples.device)  # [M, 80]
    if count is not None:
        mel = torch.nn.functional.pad(mel[:count], (0, 0, 0, max(0, count - len(mel))))
    log = mel.clamp(min=1e-10).log10()
    return torch.maximum(log, log.max() - DYNAMIC_RANGE) / 4.0 + 1.0


def deltas(mels: Tensor) -> Tensor:
    """Half the difference between the next and the last frame, edges repeated: [M, D] -> [M, D]."""
    padded = torch.cat((mels[:1], mels, mels[-1:]))
    return (padded[2:] - padded[:-2]) / 2


def as_int16(samples: NDArray[np.float32]) -> NDArray[np.int16] | None:
    """Samples [N] as 16-bit integers, or None where they are none: most recordings have no finer steps."""
    steps = samples * np.float32(32768)
    with np.errstate(invalid="ignore"):
        integers = steps.clip(-32768, 32767).astype(np.int16)
    return integers if np.array_equal(integers, steps) else None


def samples_on(samples: NDArray[np.float32], device: torch.device) -> Tensor:
    """Samples [N] on a device, through pinned memory and in 16 bits where nothing is lost by that."""
    integers = as_int16(samples) if device.type != "cpu" else None
    sent = torch.from_numpy(samples if integers is None else integers)
    if device.type == "cuda":
        sent = sent.pin_memory()
    there = sent.to(device, non_blocking=True)
    return there if integers is None else there.float() / 32768


def clip_features(clip: Clip, rule: Rule = "nar") -> Tensor:
    """Features of one clip [T, 160], [T, 320] with deltas; raises `EmptyAudioError` below 320 samples (257: AR)."""
    raw = clip.samples if isinstance(clip, Waveform) else clip
    samples = torch.as_tensor(raw, dtype=torch.float32)
    least = FRAME_SAMPLES if rule == "nar" else N_FFT // 2 + 1
    if len(samples) < least:
        raise EmptyAudioError(
            f"the clip has {len(samples)} samples; one frame needs {least} at 16 kHz (20 ms): leave such clips out"
        )
    frames = num_frames(len(samples), rule)
    if rule == "ctc":
        missing = max(0, (frames * STACK - 1) * HOP + 1 - len(samples))
        mels = log_mel(torch.nn.functional.pad(samples, (0, missing)), frames * STACK)
        return torch.cat((mels, deltas(mels)), dim=1).reshape(frames, 2 * FEATURE_DIM)
    mels = log_mel(samples) if rule == "ar" else log_mel(samples, frames * STACK)
    return mels[: frames * STACK].reshape(frames, FEATURE_DIM)  # [T, 160]


def batch_features(clips: Sequence[Clip], rule: Rule = "nar") -> tuple[Tensor, Tensor]:
    """Features of several clips, each measured alone, then padded with zeros: [B, T, 160] and lengths [B]."""
    return pad([clip_features(clip, rule) for clip in clips])


def pad(rows: Sequence[Tensor], multiple: int = 1) -> tuple[Tensor, Tensor]:
    """Stack rows [T_i, D] into [B, T, D], T a multiple, padded with zeros at the end; and their lengths [B]."""
    lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
    padded = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    return F.pad(padded, (0, 0, 0, -padded.shape[1] % multiple)), lengths
