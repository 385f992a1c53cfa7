"""Joined recordings and tags of MP3 and AAC: all sound is read, no tag swallows or spoils any."""

from __future__ import annotations

import contextlib
import struct
import time

import numpy as np
import pytest
from numpy.typing import NDArray

from redline import audio
from redline.errors import AudioError
from redline.types import SAMPLE_RATE
from tests.audio.audio_files import encode, recordings, stereo_voice, written
from tests.audio.hostile_files import many_channels


@pytest.fixture(scope="module")
def long_voice() -> NDArray[np.float32]:
    """Six seconds in pages of a fifth of a second to a second."""
    return np.tile(stereo_voice(), 3)


def test_joined_recordings_of_other_rates_are_read_whole_without_a_false_alarm(
    long_voice: NDArray[np.float32],
) -> None:
    whole = encode(long_voice, "mp3")
    tagged = id3(20_000) + written(long_voice[0], SAMPLE_RATE, "MP3")
    alone = audio.load(whole).duration + audio.load(tagged).duration
    for joined in (whole + tagged, whole + b"TAG" + bytes(125) + tagged, whole + tagged + b"TAG" + bytes(125)):
        wave = audio.load(joined)
        assert wave.warnings == ()
        assert wave.duration == pytest.approx(alone, abs=0.02)
    untagged = written(long_voice[0], SAMPLE_RATE, "MP3")
    wave = audio.load(whole + untagged)
    assert "missing" not in " ".join(notice.message for notice in wave.warnings)
    assert wave.duration == pytest.approx(alone, abs=0.3)


def test_frames_without_a_container_that_change_their_rate_get_no_silence_between_them() -> None:
    parts = [many_channels("adts", "aac", rate, layout) for rate, layout in ((16_000, "mono"), (48_000, "stereo"))]
    wave = audio.load(b"".join(parts))
    assert wave.warnings == ()
    assert wave.duration == pytest.approx(sum(audio.load(part).duration for part in parts), abs=0.1)


def id3(size: int, claimed: int | None = None, version: int = 4) -> bytes:
    """A tag with one entry and padding, which may claim to be longer than it is."""
    entry = b"TSSE" + struct.pack(">I", 6) + b"\0\0" + b"\0Lavf5"
    claimed = size if claimed is None else claimed
    sizes = bytes(claimed >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3" + bytes((version, 0, 0)) + sizes + entry + bytes(size - len(entry))


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("name", ["mp3", "mp3-no-length", "aac"])
def test_a_tag_that_lies_about_its_length_swallows_no_sound(name: str, version: int) -> None:
    data = recordings()[name]
    want = audio.load(data)
    for tag in (id3(35, claimed=9000, version=version), id3(2000, claimed=2**28 - 1, version=version)):
        wave = audio.load(tag + data)
        assert wave.duration == want.duration and wave.warnings == ()
    broken = bytearray(id3(35, version=version))
    broken[8:12] = b"\x7f\xff\xff\xff"  # no length at all: the first bit of each byte is 0 in a tag
    assert audio.load(bytes(broken) + data).duration == pytest.approx(want.duration, abs=0.08)


def test_a_tag_that_is_truly_long_is_passed() -> None:
    data = recordings()["mp3"]
    picture = np.random.default_rng(0).bytes(50_000)
    entry = b"APIC" + bytes((0, 3, 6, 80)) + b"\0\0" + picture
    size = len(entry)
    tag = b"ID3\4\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + entry
    assert np.array_equal(audio.load(tag + data).samples, audio.load(data).samples)


def test_endless_tags_take_little_time() -> None:
    started = time.process_time()
    with pytest.raises(AudioError):
        audio.load(b"ID3\4\0\0\0\0\0\0" * 100_000 + recordings()["mp3"])
    for tag in (b"TAG", b"ID3\4\0\0\0\0\0\0", b"APETAGEX" + bytes(24)):
        with contextlib.suppress(AudioError):
            audio.load(recordings()["mp3"] + tag * (1_000_000 // len(tag)))
    assert time.process_time() - started < 15
