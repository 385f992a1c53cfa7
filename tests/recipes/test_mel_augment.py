"""Augmentation on the mel spectrogram does there what it does to samples, and the same for the same draw."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from redline.errors import ConfigError, DataError
from redline.features import FEATURE_DIM, N_MELS, clip_features
from redline.train.run import Materials, build
from redline_recipes.tiny.mel_augment import (
    MelAugment,
    MelAugmentOptions,
    excerpt,
    log_power,
    loudness,
    noise_powers,
    power,
    reverberation,
    stretch,
)
from tests.corpus import silent, small_tiny_recipe

RATE = 16_000


def mel(samples: np.ndarray) -> torch.Tensor:
    return clip_features(samples.astype(np.float32)).reshape(-1, N_MELS)


def hiss(seconds: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE))


def test_powers_and_their_logarithms_are_each_others_inverse() -> None:
    features = mel(hiss(1.0, 0))
    assert torch.allclose(log_power(power(features)), features, atol=1e-5)


def test_noise_that_is_added_sounds_as_if_it_was_recorded() -> None:
    time = np.arange(RATE) / RATE
    speech, noise = 0.3 * np.sin(2 * np.pi * 440 * time), hiss(1.0, 1)
    # Powers stand for the clip up to a scale that log-mel features do not have, so both are in that of the sum.
    recorded = mel(speech + noise)
    added = log_power(power(mel(speech)) + power(mel(noise)))
    assert (added - recorded).abs().mean() < 0.05  # 2 dB: a phase is missing


def test_an_echo_decays_by_60_db_in_its_time() -> None:
    click = torch.zeros(80, N_MELS)
    click[5] = 1.0
    echo = reverberation(click, 0.5)
    assert not echo[:7].any()  # nothing before the sound, nor in its first 20 ms
    fall = 10 * math.log10(float(echo[10, 0] / echo[60, 0]))
    assert fall == pytest.approx(60.0, abs=0.5)
    assert float(reverberation(torch.ones(400, N_MELS), 0.3)[-1, 0]) == pytest.approx(1.0, rel=1e-3)


def test_a_noise_is_as_loud_as_the_draw_says() -> None:
    powers = power(mel(hiss(2.0, 2)))
    noises = [power(mel(hiss(0.7, 3)))]
    augment = MelAugment(MelAugmentOptions(noise=1.0, snr_db=(10.0, 10.0)), noises)
    powers_in_noise = power(augment(mel(hiss(2.0, 2)).reshape(-1, FEATURE_DIM), random.Random(0)).reshape(-1, N_MELS))
    # Ten decibels below the speech: a tenth more power.
    assert loudness(powers_in_noise) / loudness(powers) == pytest.approx(1.1, abs=0.03)


def test_speeds_change_the_length_and_nothing_else() -> None:
    features = mel(hiss(1.0, 4))
    assert len(stretch(features, 1.1)) == 110 and len(stretch(features, 0.87)) % 2 == 0
    assert torch.equal(stretch(features, 1.0), features)


def test_the_same_draw_gives_the_same() -> None:
    augment = MelAugment(MelAugmentOptions(stretch=1.0, rooms=1.0, noise=1.0), [power(mel(hiss(0.5, 5)))])
    features = clip_features(hiss(1.0, 6).astype(np.float32))
    once, again, other = (augment(features, random.Random(seed)) for seed in (1, 1, 2))
    assert torch.equal(once, again)
    assert once.shape != other.shape or not torch.equal(once, other)
    assert torch.isfinite(once).all()


def test_a_short_noise_goes_round() -> None:
    noise = torch.arange(3.0)[:, None].repeat(1, N_MELS)
    taken = excerpt(noise, 7, random.Random(0))[:, 0].tolist()
    assert len(taken) == 7 and taken[0] == taken[3] == taken[6]


def test_options_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ConfigError, match="rooms"):
        MelAugmentOptions(rooms=2.0)
    with pytest.raises(ConfigError, match="speeds"):
        MelAugmentOptions(speeds=(1.2, 0.8))
    with pytest.raises(DataError, match="--noise"):
        MelAugment(MelAugmentOptions(noise=0.5), [])


def test_a_recipe_augments_its_encoder(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "noise").mkdir()
    soundfile.write(tmp_path / "noise" / "hiss.wav", hiss(1.0, 7), RATE)
    assert len(noise_powers(tmp_path / "noise")) == 1 and noise_powers(None) == []
    recipe = small_tiny_recipe({"mel_augment": {"stretch": 0.5, "rooms": 0.5, "noise": 0.5}})
    materials = Materials(corpus, tmp_path / "run", noise=tmp_path / "noise")
    build(recipe, materials, ("tokenizer", "encoder"), silent)
    rows = [json.loads(line) for line in (tmp_path / "run" / "encoder" / "log.jsonl").read_text().splitlines()]
    assert any("loss" in row for row in rows)
