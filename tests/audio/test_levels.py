"""Loud and quiet recordings are heard as ordinary ones are, silence and the noise of converters stay silent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import redline
from redline import audio
from redline.audio import levels
from redline.testing import FakeRecognizer, tone
from redline.transcriber import Transcriber
from redline.types import SAMPLE_RATE, Waveform

JFK = Path(__file__).parents[1] / "data" / "jfk.flac"
Samples = NDArray[np.float32]


@pytest.fixture(scope="module")
def speech() -> Samples:
    return audio.load(JFK).samples


@pytest.fixture(scope="module", params=["tiny", "tiny-plus"])
def model(request: pytest.FixtureRequest) -> redline.Model:
    return redline.load_model(request.param)


def at(samples: Samples, db: float) -> Samples:
    """Samples whose mean power is so many dB below full scale."""
    return (samples * (10 ** (db / 20) / np.sqrt(np.mean(np.square(samples, dtype=np.float64))))).astype(np.float32)


def coloured(power: float, seed: int, seconds: float = 4.0) -> Samples:
    """Noise whose power falls with frequency: 0 white, 1 pink, 2 brown."""
    size = round(seconds * SAMPLE_RATE)
    bins = np.fft.rfft(np.random.default_rng(seed).normal(size=size))
    hertz = np.maximum(np.arange(len(bins)), 1)
    return np.fft.irfft(bins / hertz ** (power / 2), size).astype(np.float32)


def dither(steps: float, seed: int) -> Samples:
    """The last steps of a 16-bit converter."""
    drawn = np.random.default_rng(seed).triangular(-steps, 0, steps, 4 * SAMPLE_RATE)
    return (np.round(drawn) / 32768).astype(np.float32)


NOISES = {
    "zeros": np.zeros(4 * SAMPLE_RATE, np.float32),
    **{f"colour {power} at {db}": at(coloured(power, 1), db) for power in (0, 1, 2) for db in (-75.0, -90.0)},
    "hum": at(tone(4.0, 50.0).samples + tone(4.0, 150.0, -35.0).samples, -75.0),
    "last bit": dither(1.5, 2),
    "last bits": dither(2.0, 3),
    "gated": np.concatenate([np.zeros(SAMPLE_RATE, np.float32), at(coloured(0, 4), -90.0)]),
    "one click": np.eye(1, 4 * SAMPLE_RATE, 999, dtype=np.float32)[0] * np.float32(1 / 32768),
}


def test_ordinary_levels_are_left_to_the_bit(speech: Samples) -> None:
    for db in (-40.0, -34.0, -25.0, -15.0):
        wave = Waveform(at(speech, db))
        assert levels.levelled(wave) is wave


@given(st.floats(-110, 25))
@settings(max_examples=60, deadline=None)
def test_any_level_is_brought_to_a_usual_one_without_rounding(db: float) -> None:
    speech = audio.load(JFK).samples[: 3 * SAMPLE_RATE]
    wave = Waveform(at(speech, db))
    levelled = levels.levelled(wave)
    assert levels.QUIET_DB - 0.1 <= levels.level_db(levelled.samples) <= levels.LOUD_DB + 0.1
    factor = levels.gain(levels.restored(wave.samples))
    assert np.log2(factor) == round(np.log2(factor))
    if levels.clipped_share(wave.samples) < levels.CLIPPED:  # peaks a little above full scale may have been cut off
        assert np.array_equal(levelled.samples / np.float32(factor), wave.samples)
        assert levels.levelled(levelled) is levelled


def test_a_click_does_not_pass_for_speech(speech: Samples) -> None:
    quiet = at(speech, -60.0)
    clicked = quiet.copy()
    clicked[[1000, 90_000]] = 1.0
    assert levels.gain(clicked) == levels.gain(quiet) > 1


@pytest.mark.parametrize("db", [-50.0, -70.0, -95.0])
def test_quiet_speech_is_heard_as_ordinary_speech_is(model: redline.Model, speech: Samples, db: float) -> None:
    wanted = model.transcribe(Waveform(at(speech, -20.0)))
    for vad in (True, False):
        transcript = model.transcribe(Waveform(at(speech, db)), vad=vad)
        assert not transcript.warnings or {notice.code for notice in transcript.warnings} <= {"faint-speech"}
        same = sum(word == other for word, other in zip(transcript.text.split(), wanted.text.split(), strict=False))
        assert transcript.text and (not vad or same >= 0.6 * len(wanted.text.split())), transcript.text


def test_what_is_said_too_loud_in_floats_is_not_clipped(model: redline.Model, speech: Samples) -> None:
    wanted, transcript = (model.transcribe(Waveform(at(speech, db))) for db in (-20.0, 6.0))
    assert not transcript.warnings and transcript.text.split()[:4] == wanted.text.split()[:4]


@pytest.mark.parametrize("name", NOISES)
def test_silence_and_the_noise_of_a_converter_give_empty_text(model: redline.Model, name: str) -> None:
    wave = Waveform(NOISES[name])
    assert levels.is_silent(wave.samples) and levels.gain(wave.samples) == 1.0
    transcript = model.transcribe(wave)
    assert transcript.text == "" and [notice.code for notice in transcript.warnings] == ["no-speech"]
    assert model.transcribe(wave, vad=False).text == ""


def test_quiet_speech_is_not_silence(speech: Samples) -> None:
    for db in (-60.0, -75.0, -90.0, -110.0):
        assert not levels.is_silent(at(speech, db))
    steps = np.round(at(speech, -80.0) * 32768) / np.float32(32768)
    assert not levels.is_silent(steps.astype(np.float32)), "speech in the last bits is speech"
    assert levels.is_silent(np.zeros(0, np.float32)) and levels.gain(np.zeros(0, np.float32)) == 1.0


@pytest.mark.parametrize("over_db", [6.0, 12.0, 20.0])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_clipped_samples_are_counted_and_told(speech: Samples, over_db: float, scale: float) -> None:
    loud = speech / np.abs(speech).max() * 10 ** (over_db / 20)
    share = float((np.abs(loud) >= 1).mean())
    clipped = (np.round(np.clip(loud, -1, 1) * scale * 32767) / 32768).astype(np.float32)  # also when turned down later
    assert levels.clipped_share(clipped) == pytest.approx(share, rel=0.3)
    for vad in (True, False):
        transcript = Transcriber(FakeRecognizer()).transcribe(Waveform(clipped), vad=vad)
        (notice,) = [notice for notice in transcript.warnings if notice.code == "clipped"]
        assert f"{100 * levels.clipped_share(clipped):.1f} % of the samples" in notice.message


def test_tops_that_were_cut_off_are_drawn_in(speech: Samples) -> None:
    loud = (speech / np.abs(speech).max() * 4).astype(np.float32)
    clipped = np.clip(loud, -1, 1)
    restored = levels.restored(clipped)
    at = np.abs(clipped) >= 0.998
    assert np.array_equal(restored[~at], clipped[~at]) and (np.abs(restored[at]) >= 0.99).all()
    assert (np.sign(restored) == np.sign(clipped)).all()
    assert np.square(restored - loud).sum() < 0.5 * np.square(clipped - loud).sum()
    for whole in (speech, loud, at_zero := np.zeros(99, np.float32)):
        assert levels.restored(whole) is whole
    assert levels.levelled(Waveform(at_zero)).samples is at_zero
    square = np.sign(tone(1.0, 997.0).samples + 1e-9)  # nothing else is left: no slope to go on with
    assert np.isfinite(levels.restored(square.astype(np.float32))).all()


def test_what_is_not_clipped_is_not_told(speech: Samples) -> None:
    full = speech / np.abs(speech).max()
    for samples in (speech, full, full * 4, at(speech, -60.0), tone(2.0).samples, tone(2.0, 60.0, -3.1).samples):
        assert levels.clipped_share(samples.astype(np.float32)) < levels.CLIPPED
    assert levels.clipped_share(np.zeros(99, np.float32)) == levels.clipped_share(np.zeros(0, np.float32)) == 0


def test_a_recording_that_is_clipped_late_is_clipped() -> None:
    long = np.tile(audio.load(JFK).samples, 4)  # 44 s
    samples = np.concatenate([long * 0.1, np.clip(long * 20, -1, 1)])
    assert levels.clipped_share(samples) == pytest.approx(float((np.abs(samples) >= 1).mean()), rel=0.2)


def test_nothing_is_silent() -> None:
    nothing = np.zeros(0, np.float32)
    assert levels.is_silent(nothing) and levels.is_steady(nothing) and levels.level_db(nothing) < -190
