"""The ruler equals the published front ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
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


def test_nar_and_ar_disagree_about_half_of_all_lengths() -> None:
    lengths = range(16_000, 16_000 + 2 * features.FRAME)
    different = sum(features.num_frames(n, "nar") != features.num_frames(n, "ar") for n in lengths)
    assert different == len(lengths) // 2
    assert all(0 <= features.num_frames(n, "ar") - features.num_frames(n, "nar") <= 1 for n in lengths)


@pytest.mark.parametrize("rule", ["nar", "ar"])
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


@pytest.mark.parametrize(("rule", "least"), [("nar", 320), ("ar", 257)])
def test_clips_under_one_frame_are_refused(rule: features.Rule, least: int) -> None:
    assert len(features.clip_features(torch.zeros(least), rule)) == 1
    with pytest.raises(EmptyAudioError, match=f"{least - 1} samples"):
        features.clip_features(torch.zeros(least - 1), rule)
