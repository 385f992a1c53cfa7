"""Ogg pages: every recording of a chain is read, no lost page is silent, and times stay true over the gap."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from redline import audio
from redline.audio.ogg_pages import Page, pages
from redline.errors import AudioError
from redline.types import SAMPLE_RATE
from tests.audio.audio_files import codes, encode, likeness, opened, recordings, sine, stereo_voice, written

OGG = ("opus", "vorbis", "ogg-flac")


@pytest.fixture(scope="module")
def long_voice() -> NDArray[np.float32]:
    """Six seconds in pages of a fifth of a second to a second."""
    return np.tile(stereo_voice(), 3)


@pytest.fixture(scope="module")
def ogg(long_voice: NDArray[np.float32]) -> dict[str, bytes]:
    encoded = {name: encode(long_voice, name) for name in ("opus", "ogg-flac")}
    return {**encoded, "vorbis": written(long_voice.T, SAMPLE_RATE, "OGG", "VORBIS")}


def pages_of(data: bytes) -> list[Page]:
    with opened(data) as source:
        return list(pages(source))


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
    ogg_pages = pages_of(ogg[name])
    assert all(page.is_whole for page in ogg_pages)
    assert [page.end for page in ogg_pages[:-1]] == [page.start for page in ogg_pages[1:]]
    assert ogg_pages[-1].end == len(ogg[name])
    assert audio.load(ogg[name]).warnings == ()


@pytest.mark.parametrize("name", OGG)
def test_an_ogg_that_loses_its_end_says_how_much(name: str, ogg: dict[str, bytes]) -> None:
    data = ogg[name]
    whole = audio.load(data).duration
    ogg_pages = pages_of(data)
    wave = audio.load(flipped(data, ogg_pages[len(ogg_pages) // 2 :]))
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
    ogg_pages = pages_of(data)
    for first, last in ((3, 4), (2, 5), (3, len(ogg_pages) - 1), (4, 5)):
        wave = audio.load(damage(data, ogg_pages[first:last]))
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
    ogg_pages = pages_of(data)
    for number in range(2, len(ogg_pages), 3):
        for damage in (flipped, without):
            try:
                wave = audio.load(damage(data, [ogg_pages[number]]))
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
    recording = written(voice.T, SAMPLE_RATE, "OGG", "VORBIS") if name == "vorbis" else encode(voice, name)
    alone = audio.load(recording)
    wave = audio.load(5 * recording)
    assert wave.warnings == ()
    assert wave.duration == pytest.approx(5 * alone.duration, abs=0.005)
    correlation, _ = likeness(wave.samples, np.tile(alone.samples, 5))
    assert correlation > 0.95


def test_recordings_of_other_codings_and_rates_are_chained(ogg: dict[str, bytes]) -> None:
    parts = [ogg["opus"], recordings()["vorbis"], written(sine(1.0, 8000), 8000, "OGG", "VORBIS"), ogg["ogg-flac"]]
    alone = [audio.load(part) for part in parts]
    wave = audio.load(b"".join(parts))
    assert wave.warnings == ()
    assert wave.duration == pytest.approx(sum(recording.duration for recording in alone), abs=0.01)


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


def test_a_long_chain_of_short_recordings_is_read_whole() -> None:
    wave = audio.load(50 * encode(stereo_voice()[:, :1600], "opus"))
    assert wave.warnings == () and wave.duration == 5.0
