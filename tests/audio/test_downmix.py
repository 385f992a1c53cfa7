"""Laws of several channels: what cancels in the mean is heard all the same, what does not is the mean to the bit."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from redline import audio
from redline.audio import AudioOptions
from redline.audio.resample import MonoResampler
from redline.errors import AudioError
from redline.types import SAMPLE_RATE
from tests.audio.audio_files import codes, encode, written

DEMO = Path(audio.__file__).parents[1] / "assets" / "demo.flac"


@cache
def voice() -> NDArray[np.float32]:
    samples, rate = soundfile.read(DEMO, dtype="float32")
    assert rate == SAMPLE_RATE
    return samples  # type: ignore[no-any-return]


def noise(like: NDArray[np.float32], share: float, seed: int = 0) -> NDArray[np.float32]:
    """White noise with a share of the power of `like`."""
    white = np.random.default_rng(seed).standard_normal(like.shape).astype(np.float32)
    return white * np.float32(np.sqrt(share * np.mean(like**2)))


def correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def stereo(*channels: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.stack(channels, axis=1)


INVERTED = {
    "exactly": lambda s: stereo(s, -s),
    "quieter": lambda s: stereo(-0.9 * s, s),
    # A correlation of -95 %: noise of its own, a twentieth of the voice, on each side.
    "95-percent": lambda s: stereo(s + noise(s, 0.0526, 1), -s + noise(s, 0.0526, 2)),
    "surround": lambda s: stereo(s, -s, 0.001 * s, 0 * s, 0 * s, 0 * s),
}


@pytest.mark.parametrize("name", INVERTED)
def test_channels_of_inverted_phase_do_not_cancel(name: str) -> None:
    array = INVERTED[name](voice())
    wave = audio.load(array, sample_rate=SAMPLE_RATE)
    assert abs(correlation(wave.samples, voice())) > 0.95
    assert np.std(wave.samples) > 0.9 * np.std(voice())
    (notice,) = wave.warnings
    assert notice.code == "phase_inverted" and "channel" in notice.message
    assert (notice.start, notice.end) == (0.0, wave.duration)


@pytest.mark.parametrize("name", ["wav", "m4a", "mp3", "opus", "flac"])
def test_inverted_phase_is_heard_in_every_format(name: str) -> None:
    wave = audio.load(encode(np.stack([voice(), -voice()])[:, : 3 * SAMPLE_RATE], name))
    assert np.std(wave.samples) > 0.9 * np.std(voice()[: 3 * SAMPLE_RATE])
    assert codes(wave) == ["phase_inverted"]


def test_a_chosen_channel_stays_the_chosen_one() -> None:
    array = stereo(voice(), -voice())
    for channel in (0, 1):
        wave = audio.load(array, sample_rate=SAMPLE_RATE, options=AudioOptions(channel=channel))
        assert np.array_equal(wave.samples, array[:, channel])
        assert wave.warnings == ()


ORDINARY = {
    "twice-the-same": lambda s: stereo(s, s),
    "one-silent": lambda s: stereo(s, 0 * s),
    "silent": lambda s: stereo(0 * s, 0 * s),
    "wide": lambda s: stereo(s + noise(s, 0.5, 1), 0.3 * s + noise(s, 0.5, 2)),
    "two-voices": lambda s: stereo(s, np.roll(s[::-1], 5000)),
    "noise": lambda s: stereo(noise(s, 1, 1), noise(s, 1, 2)),
    "delayed-by-1-ms": lambda s: stereo(s, np.roll(s, 16)),
    "delayed-by-4-ms": lambda s: stereo(s, np.roll(s, 64)),
    "delayed-by-30-ms": lambda s: stereo(s, np.roll(s, 480)),
    "opposite-offsets": lambda s: stereo(s + np.float32(0.2), s - np.float32(0.2)),
    "much-quieter-and-inverted": lambda s: stereo(s, -0.3 * s),
    "one-of-eight": lambda s: stereo(s, *[0 * s] * 7),
    "middle-and-side": lambda s: stereo(s + noise(s, 0.1), s - noise(s, 0.1)),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_channels_are_mixed_to_their_mean_to_the_bit(name: str) -> None:
    array = ORDINARY[name](voice())
    wave = audio.load(array, sample_rate=SAMPLE_RATE)
    assert wave.samples.tobytes() == array.mean(axis=1).tobytes()
    assert wave.warnings == ()


def test_only_the_part_that_cancels_is_taken_from_one_channel() -> None:
    s = np.tile(voice(), 12)  # two minutes
    third = len(s) // 3
    sign = np.ones(len(s), np.float32)
    sign[third : 2 * third] = -1
    array = stereo(s, sign * s)
    wave = audio.load(array, sample_rate=SAMPLE_RATE)
    (notice,) = wave.warnings
    assert notice.start == pytest.approx(third / SAMPLE_RATE, abs=17)
    assert notice.end == pytest.approx(2 * third / SAMPLE_RATE, abs=17)
    start, end = (round(time * SAMPLE_RATE) for time in (notice.start or 0, notice.end or 0))
    assert np.array_equal(wave.samples[start:end], array[start:end, 0])
    for part in (slice(0, start), slice(end, None)):
        assert np.array_equal(wave.samples[part], array[part].mean(axis=1))


def test_pauses_of_an_inverted_recording_are_no_mix() -> None:
    """Where only noise is left the mean cancels less; the level may not jump between words and pauses."""
    s = voice()
    words, pause = s, 0.003 * s
    left = np.concatenate([words, *[pause] * 4, words])
    hiss = [np.resize(noise(pause, 0.5, seed), len(left)) for seed in (1, 2)]  # a third of the pauses' sound
    array = stereo(left + hiss[0], -left + hiss[1])
    wave = audio.load(array, sample_rate=SAMPLE_RATE)
    assert codes(wave) == ["phase_inverted"]
    middle = slice(len(left) // 3, 2 * len(left) // 3)
    assert np.std(wave.samples[middle]) > 0.9 * np.std(array[middle, 0])


def test_the_mix_does_not_depend_on_the_size_of_blocks() -> None:
    rng = np.random.default_rng(3)
    array = rng.standard_normal((700_000, 2)).astype(np.float32)
    array[200_000:500_000, 1] = -array[200_000:500_000, 0]

    def mixed(sizes: int) -> NDArray[np.float32]:
        output, start = MonoResampler("noise", AudioOptions()), 0
        while start < len(array):
            count = int(rng.integers(1, sizes))
            output.add(array[start : start + count].T, SAMPLE_RATE)
            start += count
        return np.concatenate(list(output.finish()))

    whole = mixed(len(array) * 2)
    assert len(whole) == len(array)
    for sizes in (2000, 60_000, 400_000):
        assert np.array_equal(mixed(sizes), whole)


def test_inverted_phase_is_heard_behind_a_change_of_rate() -> None:
    output, s = MonoResampler("voice", AudioOptions()), voice()
    for block, rate in ((stereo(s, -s), 16_000), (s[:, np.newaxis], 16_000), (stereo(s, -s), 8_000)):
        output.add(block.T, rate)
    mono = np.concatenate(list(output.finish()))
    assert np.array_equal(mono[: 2 * len(s)], np.tile(s, 2)) and len(mono) == 4 * len(s)
    assert np.std(mono[2 * len(s) :]) > 0.9 * np.std(s)
    assert output.notices()[0].end == pytest.approx(4 * len(s) / SAMPLE_RATE, abs=0.01)


def test_channels_are_judged_one_by_one() -> None:
    array = np.array([[2000.0, -2000.0]] * 100, np.float32)
    with pytest.raises(AudioError, match="a sample of 2000"):
        audio.load(written(array, SAMPLE_RATE, subtype="FLOAT"))
