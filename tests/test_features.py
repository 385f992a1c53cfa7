"""The ruler equals the published front ends."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file

from redline import features
from redline.errors import EmptyAudioError
from redline.types import Waveform

GOLDEN = Path(__file__).parent / "data" / "golden"
AR = load_file(GOLDEN / "features" / "ar.safetensors")


@pytest.mark.parametrize("clip", range(10))
def test_ar_features_equal_the_golden_ones(clip: int) -> None:
    got = features.clip_features(AR[f"wave.{clip}"], "ar")
    expected = AR[f"features.{clip}"]
    assert got.shape == expected.shape
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def mel_energies(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mel energies of one clip by numpy alone, [N // 160 + 1, 80], from the description of the published front end.

    16 kHz, FFT 512, periodic Hann window of 400 in its middle, hop 160, reflected edges, power, 80 HTK mels, no norm.
    """
    padded = np.pad(samples.astype(np.float64), 256, mode="reflect")
    window = np.zeros(512)
    window[56:456] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = np.lib.stride_tricks.sliding_window_view(padded, 512)[::160]
    power = np.abs(np.fft.rfft(frames * window, axis=-1)) ** 2
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 82) / 2595) - 1)
    bins = np.linspace(0, 8000, 257)[:, None]
    rising = (bins - edges[None, :-2]) / np.diff(edges)[:-1]
    falling = (edges[None, 2:] - bins) / np.diff(edges)[1:]
    return power @ np.maximum(0, np.minimum(rising, falling))


def by_the_published_rule(samples: NDArray[np.float32], rule: features.Rule) -> NDArray[np.float64]:
    """Features as each published extractor makes them, step by step."""
    mel = mel_energies(samples)
    if rule == "nar":  # cut first, so that what is cut off is never the loudest
        mel = mel[: 2 * (len(samples) // 320)]
    if rule == "native" and len(mel) % 2:  # a started pair is filled with silence
        mel = np.concatenate([mel, np.zeros((1, 80))])
    log = np.log10(np.maximum(mel, 1e-10))
    log = np.maximum(log, log.max() - 8) / 4 + 1
    if rule == "ar" and len(log) % 2:  # cut last, after the loudest was found
        log = log[:-1]
    return log.reshape(-1, 160)


LOUD_ENDS = {"click in the last 8 samples": 8, "click in the last sample": 1, "loud last 200 samples": 200, "even": 0}


@pytest.mark.parametrize("rule", ["nar", "native", "ar"])
@pytest.mark.parametrize("end", LOUD_ENDS)
@pytest.mark.parametrize("length", [16_000, 16_100, 16_159, 16_160, 16_319, 400])
def test_only_what_a_front_end_hears_sets_the_floor(length: int, end: str, rule: features.Rule) -> None:
    """A loud end of which the published NAR models never hear moves none of their features."""
    generator = np.random.default_rng(length)
    samples = (1e-5 * generator.standard_normal(length)).astype(np.float32)
    loud = LOUD_ENDS[end]
    samples[length - loud :] = np.resize([0.9, -0.9], loud)
    got = features.clip_features(samples, rule)
    wanted = by_the_published_rule(samples, rule)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got.numpy(), wanted, rtol=0, atol=2e-4)


def test_the_front_ends_differ_by_a_loud_last_frame_only() -> None:
    samples = np.full(16_100, 1e-6, dtype=np.float32)
    samples[-8:] = 0.9
    nar, native, ar = (features.clip_features(samples, rule) for rule in ("nar", "native", "ar"))
    assert [len(frames) for frames in (nar, native, ar)] == [50, 51, 50]
    assert not torch.equal(nar, ar) and torch.equal(native[:50], ar)
    assert torch.equal(native[50, 80:], torch.full((80,), float(native.min())))  # the missing half is silence


@pytest.mark.parametrize("samples", [257, 319, 320, 479, 480, 481, 16_000, 16_160])
def test_the_native_port_counts_a_started_frame(samples: int) -> None:
    assert features.num_frames(samples, "native") == math.ceil((samples // 160 + 1) / 2)
    assert len(features.clip_features(torch.ones(samples), "native")) == features.num_frames(samples, "native")


def test_nar_and_ar_disagree_about_half_of_all_lengths() -> None:
    lengths = range(16_000, 16_000 + 2 * features.FRAME_SAMPLES)
    different = sum(features.num_frames(n, "nar") != features.num_frames(n, "ar") for n in lengths)
    assert different == len(lengths) // 2
    assert all(0 <= features.num_frames(n, "ar") - features.num_frames(n, "nar") <= 1 for n in lengths)


@pytest.mark.parametrize("rule", ["nar", "native", "ar"])
def test_batched_equals_single(rule: features.Rule) -> None:
    generator = torch.Generator().manual_seed(0)
    clips = [0.1 * torch.randn(n, generator=generator) for n in (16_000, 4_799, 50_000, 320)]
    x, lengths = features.batch_features(clips, rule)
    for row, clip in enumerate(clips):
        alone = features.clip_features(clip, rule)
        assert lengths[row] == len(alone)
        assert torch.equal(x[row, : lengths[row]], alone)
        assert not x[row, lengths[row] :].any()


def test_every_kind_of_clip_gives_the_same_features() -> None:
    samples = np.sin(np.arange(8000) / 7).astype(np.float32)
    expected = features.clip_features(torch.from_numpy(samples))
    assert torch.equal(features.clip_features(samples), expected)
    assert torch.equal(features.clip_features(Waveform(samples)), expected)


def test_silence_is_the_floor() -> None:
    assert torch.equal(features.clip_features(torch.zeros(16_000)), torch.full((50, 160), -1.5))


@pytest.mark.parametrize(("rule", "least"), [("nar", 320), ("native", 257), ("ar", 257)])
def test_clips_under_one_frame_are_refused(rule: features.Rule, least: int) -> None:
    assert len(features.clip_features(torch.zeros(least), rule)) == 1
    with pytest.raises(EmptyAudioError, match=f"{least - 1} samples"):
        features.clip_features(torch.zeros(least - 1), rule)


@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=50), st.booleans())
def test_samples_of_16_bits_travel_as_such_and_others_as_they_are(steps: list[int], is_finer: bool) -> None:
    samples = np.array(steps, dtype=np.float32) / np.float32(32768)
    if is_finer:
        samples[0] += np.float32(2**-18)
    integers = features.as_int16(samples)
    assert (integers is None) == is_finer
    if integers is not None:
        assert np.array_equal((torch.from_numpy(integers).float() / 32768).numpy(), samples)
    assert np.array_equal(features.samples_on(samples, torch.device("cpu")).numpy(), samples)


def test_samples_beyond_full_scale_or_no_numbers_do_not_travel_in_16_bits() -> None:
    for value in (1.0, 2.5, -1.5, np.nan, np.inf):
        assert features.as_int16(np.array([0.5, value], dtype=np.float32)) is None
