"""What a recording says of its own length is compared with what was read: nothing ends early without a word."""

from __future__ import annotations

import struct
from io import BytesIO

import numpy as np
import pytest

from redline import audio
from redline.audio.duration_check import wav_header
from redline.errors import AudioLimitError
from redline.types import SAMPLE_RATE
from tests.audio.audio_files import codes, opened, recordings, sine, wav, written


def test_a_wav_that_shrinks_while_it_is_read_is_told() -> None:
    data = wav(bytes(600 * 32_000))

    class Shrinking(BytesIO):
        def read(self, count: int | None = -1) -> bytes:
            place = self.tell()
            wanted = len(data) if count is None or count < 0 else count
            return super().read(max(min(wanted, len(data) // 18 - place), 0))

    wave = audio.load(Shrinking(data))
    (notice,) = wave.warnings
    assert notice.code == "truncated" and "of 600.000 s that were announced" in notice.message
    assert (notice.start, notice.end) == (wave.duration, 600.0)


@pytest.mark.parametrize("name", ["flac", "mp3-no-length", "aac", "opus"])
def test_whatever_shrinks_while_it_is_read_is_told(name: str) -> None:
    data = recordings()[name]

    class Shrinking(BytesIO):
        def read(self, count: int | None = -1) -> bytes:
            place = self.tell()
            wanted = len(data) if count is None or count < 0 else count
            return super().read(max(min(wanted, len(data) * 2 // 3 - place), 0))

    assert "truncated" in codes(audio.load(Shrinking(data)))


def noise(seconds: float) -> bytes:
    values = np.random.default_rng(0).integers(-3000, 3000, round(seconds * SAMPLE_RATE))
    return values.astype("<i2").tobytes()


@pytest.mark.parametrize(
    ("behind", "seconds"),
    [
        (noise(1), 1.0),  # a header that was written before the recording ended
        (b"data" + struct.pack("<I", 16_000) + noise(0.5), 0.5),
        (b"LIST\4\0\0\0abcd" + b"data" + struct.pack("<I", 16_000) + noise(0.5), 0.5),
        (wav(noise(1)), 1.001),
    ],
)
def test_sound_behind_the_end_that_a_wav_states_is_told(behind: bytes, seconds: float) -> None:
    wave = audio.load(wav(noise(0.5)) + behind)
    assert wave.duration == 0.5
    (notice,) = wave.warnings
    assert notice.code == "unread"
    assert (notice.start, notice.end) == (0.5, pytest.approx(0.5 + seconds, abs=0.002))


@pytest.mark.parametrize(
    "behind",
    [b"", b"\0", bytes(100_000), b"LIST\4\0\0\0abcd", b"id3 \6\0\0\0abcdef", b"TAG" + bytes(125), b"\r\n"],
)
def test_what_else_lies_behind_the_samples_is_no_sound(behind: bytes) -> None:
    assert audio.load(wav(noise(0.5)) + behind).warnings == ()


def test_a_wav_of_endless_chunks_is_refused_soon() -> None:
    data = wav()
    with pytest.raises(AudioLimitError, match="chunks"):
        audio.load(data[:12] + b"junk\0\0\0\0" * 300_000 + data[12:])


def test_the_extensible_kind_of_wav_says_its_length() -> None:
    with opened(written(sine(1.0), SAMPLE_RATE, "WAVEX")) as source:
        header = wav_header(source)
        assert header.is_pcm and header.stated_s(source, 0.0) == 1.0
