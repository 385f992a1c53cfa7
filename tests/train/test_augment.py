"""What training does to sound, features and drafts so that a model hears more than its corpus."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

pytest.importorskip("lhotse")

from redline.features import FEATURE_DIM
from redline.train.data.augment import SpecAugmentOptions, augment_features
from redline.train.data.feature_cache import AugmentOptions, build_feature_cache
from redline.train.data.rows import training_rows


def test_another_throat_moves_bands_and_another_microphone_colours_them() -> None:
    quiet = SpecAugmentOptions(time_warp_frames=0, probability=0.0)
    picture = torch.zeros(6, FEATURE_DIM).reshape(-1, 80)
    picture[:, 30] = 1.0
    features = picture.reshape(6, FEATURE_DIM)
    assert torch.equal(augment_features([features], quiet, seed=1)[0], features)
    peaks = set()
    for seed in range(20):
        (moved,) = augment_features([features], replace(quiet, tract_warp=0.15), seed)
        assert moved.min() >= 0 and torch.equal(moved, moved[:1, :80].repeat(6, 2))
        peaks.add(int(moved[0, :80].argmax()))
    assert min(peaks) < 29 and max(peaks) > 31
    (coloured,) = augment_features([features], replace(quiet, colour_db=6.0), seed=1)
    change = (coloured - features).reshape(-1, 80)
    assert torch.allclose(change, change[:1].expand_as(change), atol=1e-6) and change.abs().max() > 0.03
    assert change[0].diff().abs().max() < 0.1


def test_views_are_rendered_once_and_differ(corpus: Path, tmp_path: Path) -> None:
    noise = tmp_path / "noise"
    noise.mkdir()
    soundfile.write(noise / "n.wav", np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32), 16_000)
    rows = training_rows(corpus, split="train")
    options = AugmentOptions(noise_dir=str(noise), noise_probability=1.0, speeds=(0.9, 1.1))
    plain = build_feature_cache(rows, 0, options, tmp_path / "cache")
    noisy = build_feature_cache(rows, 1, options, tmp_path / "cache")
    assert plain.offsets.keys() == noisy.offsets.keys()
    assert all(len(noisy[row.id]) != len(plain[row.id]) for row in rows)
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()}
    build_feature_cache(rows, 1, options, tmp_path / "cache")
    assert files == {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()}


def test_spec_augment_masks_no_more_than_allowed_and_is_repeatable() -> None:
    features = torch.randn(400, FEATURE_DIM)
    options = SpecAugmentOptions(time_warp_frames=0, feature_masks=0, max_masked_share=0.2, probability=1.0)
    state = random.getstate()
    (masked,) = augment_features([features], options, seed=3)
    assert random.getstate() == state
    changed = (masked != features).reshape(-1, 80).any(dim=1).float().mean()
    assert 0 < changed <= 0.2
    warped = replace(options, time_warp_frames=80)
    assert torch.equal(*(augment_features([features], warped, seed=3)[0] for _ in range(2)))
    assert not torch.equal(*(augment_features([features], warped, seed=seed)[0] for seed in (3, 4)))
