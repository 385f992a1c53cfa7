"""What a recording says of its own length is compared with what was read: nothing ends early without a word."""

from __future__ import annotations

import contextlib
import struct
import time
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from redline import audio
from redline.audio import AudioOptions
from redline.audio.claims import wav_claim
from redline.audio.ogg import Page, pages
from redline.audio.reader import Reader
from redline.errors import AudioError, AudioLimitError
from redline.types import SAMPLE_RATE
from tests.audio_files import codes, encode, likeness, recordings, sine, stereo_voice, wav, written
from tests.hostile_files import many_channels

OGG = ("opus", "vorbis", "ogg-flac")


@pytest.fixture(scope="module")
def long_voice() -> NDArray[np.float32]:
    """Six seconds in pages of a fifth of a second to a second."""
    return np.tile(stereo_voice(), 3)


@pytest.fixture(scope="module")
def ogg(long_voice: NDArray[np.float32]) -> dict[str, bytes]:
    made = {name: encode(long_voice, name) for name in ("opus", "ogg-flac")}
    return {**made, "vorbis": written(long_voice.T, SAMPLE_RATE, "OGG", "VORBIS")}


def pages_of(data: bytes) -> list[Page]:
    return list(pages(Reader(BytesIO(data), "ogg")))


def flipped(data: bytes, chosen: list[Page]) -> bytes:
    """One bit of each of these pages is another."""
    broken = bytearray(data)
    for page in chosen:
        broken[(page.start + page.end) // 2] ^= 16
    return bytes(broken)


def without(data: bytes, chosen: list[Page]) -> bytes:
    return b"".join(data[page.start : page.end] for page in pages_of(data) if page not in chosen)


# --- Ogg ---


@pytest.mark.parametrize("name", OGG)
def test_every_page_of_a_good_file_is_whole(name: str, ogg: dict[str, bytes]) -> None:
    found = pages_of(ogg[name])
    assert all(page.is_whole for page in found)
    assert [page.end for page in found[:-1]] == [page.start for page in found[1:]]
    assert found[-1].end == len(ogg[name])
    assert audio.load(ogg[name]).warnings == ()


@pytest.mark.parametrize("name", OGG)
def test_an_ogg_that_loses_its_end_says_how_much(name: str, ogg: dict[str, bytes]) -> None:
    data = ogg[name]
    whole = audio.load(data).duration
    found = pages_of(data)
    wave = audio.load(flipped(data, found[len(found) // 2 :]))
    (notice,) = wave.warnings
    assert notice.code == "truncated" and "announced" in notice.message
    assert notice.start == pytest.approx(wave.duration, abs=0.002)
    assert wave.duration < 0.8 * whole
    assert notice.end == pytest.approx(whole, abs=0.02)


@pytest.mark.parametrize("name", ["opus", "vorbis"])
@pytest.mark.parametrize("damage", [flipped, without])
def test_lost_pages_become_silence_and_the_end_keeps_its_time(name: str, damage: Any, ogg: dict[str, bytes]) -> None:
    data = ogg[name]
    whole = audio.load(data)
    found = pages_of(data)
    for first, last in ((3, 4), (2, 5), (3, len(found) - 1), (4, 5)):
        wave = audio.load(damage(data, found[first:last]))
        assert codes(wave) == ["damaged"]
        assert wave.duration == pytest.approx(whole.duration, abs=0.05)
        (notice,) = wave.warnings
        assert notice.start is not None and notice.end is not None and notice.end > notice.start
        after = round((notice.end + 0.1) * SAMPLE_RATE)
        if len(whole.samples) - after > SAMPLE_RATE / 4:
            correlation, lag = likeness(wave.samples[after:], whole.samples[after:])
            assert correlation > 0.9 and abs(lag) < 0.05 * SAMPLE_RATE


@pytest.mark.parametrize("name", OGG)
def test_no_loss_of_a_page_is_silent(name: str, ogg: dict[str, bytes]) -> None:
    data = ogg[name]
    found = pages_of(data)
    for number in range(2, len(found), 3):
        for damage in (flipped, without):
            try:
                wave = audio.load(damage(data, [found[number]]))
            except AudioError:
                continue
            assert wave.warnings, number


def test_vorbis_that_was_made_for_the_telephone_has_no_gap_in_front() -> None:
    wave = audio.load(written(sine(1.0, 8000), 8000, "OGG", "VORBIS"))
    assert wave.warnings == ()
    assert wave.duration == pytest.approx(1.0, abs=0.04)


@pytest.mark.parametrize("seconds", [0.3, 0.9, 2.0])
@pytest.mark.parametrize("name", OGG)
def test_every_recording_of_a_chain_is_read(name: str, seconds: float) -> None:
    voice = stereo_voice()[:, : round(seconds * SAMPLE_RATE)]
    one = written(voice.T, SAMPLE_RATE, "OGG", "VORBIS") if name == "vorbis" else encode(voice, name)
    alone = audio.load(one)
    wave = audio.load(5 * one)
    assert wave.warnings == ()
    assert wave.duration == pytest.approx(5 * alone.duration, abs=0.005)
    correlation, _ = likeness(wave.samples, np.tile(alone.samples, 5))
    assert correlation > 0.95


def test_recordings_of_other_codings_and_rates_are_chained(ogg: dict[str, bytes]) -> None:
    parts = [ogg["opus"], recordings()["vorbis"], written(sine(1.0, 8000), 8000, "OGG", "VORBIS"), ogg["ogg-flac"]]
    alone = [audio.load(part) for part in parts]
    wave = audio.load(b"".join(parts))
    assert wave.warnings == ()
    assert wave.duration == pytest.approx(sum(one.duration for one in alone), abs=0.01)


def test_a_chain_says_where_a_recording_lost_its_end(ogg: dict[str, bytes]) -> None:
    first = ogg["opus"]
    whole = audio.load(first).duration
    last = pages_of(first)[-8:]
    second = recordings()["vorbis"]
    for broken in (flipped(first, last), without(first, last)):
        wave = audio.load(broken + second)
        (notice,) = wave.warnings
        assert notice.code == "damaged" and notice.start is not None and 3 < notice.start < whole
        assert audio.load(second).duration < wave.duration <= whole + audio.load(second).duration + 0.01
    assert codes(audio.load(first + flipped(second, [pages_of(second)[0]]))) == ["damaged"]


def test_a_chain_of_more_recordings_than_are_opened_says_what_was_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redline.audio.ogg._MOST_PARTS", 20)
    wave = audio.load(50 * encode(stereo_voice()[:, :1600], "opus"), options=AudioOptions(isolated=False))
    (notice,) = wave.warnings
    assert notice.code == "truncated"
    assert (notice.start, notice.end) == (2.0, 5.0)


# --- WAV ---


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
    claim = wav_claim(Reader(BytesIO(written(sine(1.0), SAMPLE_RATE, "WAVEX")), "x"))
    assert claim.is_plain and claim.claimed_s == 1.0


# --- MP3 and other runs of frames ---


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
        audio.load(b"ID3\4\0\0\0\0\0\0" * 300_000 + recordings()["mp3"])
    for tag in (b"TAG", b"ID3\4\0\0\0\0\0\0", b"APETAGEX" + bytes(24)):
        with contextlib.suppress(AudioError):
            audio.load(recordings()["mp3"] + tag * (3_000_000 // len(tag)))
    assert time.process_time() - started < 15
