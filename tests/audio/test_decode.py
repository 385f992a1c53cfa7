"""Bad files at the door for sound: what is empty, cut or damaged is told or refused, what is not audio is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redline import audio
from redline.audio import AudioOptions
from redline.errors import AudioError, EmptyAudioError, NotAudioError, TruncatedAudioError
from redline.types import SAMPLE_RATE
from tests.audio.audio_files import FILES, add_video, codes, recordings, wav


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return recordings()


# --- empty, cut and damaged ---


def test_emptiness_is_named() -> None:
    for source, message in ((b"", "0 bytes"), (wav(b""), "0 audio frames"), (BytesIO(b""), "0 bytes")):
        with pytest.raises(EmptyAudioError, match=message):
            audio.load(source)


@pytest.mark.parametrize("samples", [1, 15, 16, 159, 160, 255, 256, 257, 319, 320])
def test_very_short_clips_are_read(samples: int) -> None:
    assert len(audio.load(wav(bytes(2 * samples))).samples) == samples


CUTS = [0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 0.95, 0.99]


@pytest.mark.parametrize("name", FILES)
def test_a_cut_file_is_told_or_refused(name: str, files: dict[str, bytes]) -> None:
    data = files[name]
    whole = audio.load(data).duration
    for cut in CUTS:
        part = data[: int(cut * len(data))]
        try:
            wave = audio.load(part)
        except (TruncatedAudioError, EmptyAudioError, NotAudioError) as error:
            assert "<bytes>" in str(error)
            assert cut < {"m4a": 1, "vorbis": 0.7}.get(name, 0.3)  # contents listed at the end; pages of a second
            continue
        assert 0 < wave.duration <= whole
        if name != "webm-live":  # states no length, and its blocks may end anywhere
            assert codes(wave) == ["truncated"], cut
            assert wave.warnings[0].start == pytest.approx(wave.duration, abs=0.002)


def test_a_cut_wav_says_how_much_was_announced() -> None:
    wave = audio.load(wav(bytes(32_000), size=64_000))
    assert wave.warnings[0].message == "cut off: of 2.000 s that were announced 1.000 s could be read"
    assert (wave.warnings[0].start, wave.warnings[0].end) == (1.0, 2.0)


def test_a_header_without_sound_is_truncated() -> None:
    for data in (wav()[:44], wav()[:20], wav(b"", size=2**32 - 1), wav(bytes(1))):
        with pytest.raises(TruncatedAudioError, match="complete copy"):
            audio.load(data)


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 2**32 - 1])
def test_a_wav_of_unknown_length_is_read_and_told(size: int) -> None:
    wave = audio.load(wav(bytes(32_000), size=size))
    assert wave.duration == 1.0
    assert codes(wave) == ["unknown_length"]


def test_a_wav_that_claims_too_little_is_read_as_claimed() -> None:
    wave = audio.load(wav(bytes(32_000), size=16_000))
    assert wave.duration == 0.5
    assert wave.warnings == ()


def test_many_chunks_before_the_sound_are_passed() -> None:
    data = wav()
    assert audio.load(data[:12] + b"LIST\4\0\0\0abcd" * 10_000 + data[12:]).duration == 0.1


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("wav")])
@pytest.mark.parametrize("fill", ["zeros", "noise"])
def test_damage_in_the_middle_is_told_and_the_rest_is_read(name: str, fill: str, files: dict[str, bytes]) -> None:
    data = bytearray(files[name])
    whole = audio.load(bytes(data)).duration
    middle = len(data) // 2
    data[middle : middle + 600] = bytes(600) if fill == "zeros" else np.random.default_rng(1).bytes(600)
    wave = audio.load(bytes(data))
    assert set(codes(wave)) & {"damaged", "truncated"}
    assert wave.duration > 0.4 * whole
    if "damaged" in codes(wave):
        assert wave.duration == pytest.approx(whole, abs=0.3)
        start = wave.warnings[0].start
        assert start is not None
        assert whole / 2 - 1.1 < start < whole / 2 + 0.4  # a Vorbis page, lost as a whole, is a second long


@pytest.mark.parametrize("name", ["mp3", "mp3-no-length", "m4a", "aac", "opus", "vorbis", "flac", "mkv-flac"])
def test_what_comes_after_damage_is_heard(name: str, files: dict[str, bytes]) -> None:
    data = bytearray(files[name])
    middle = len(data) // 2
    data[middle : middle + 600] = bytes(600)
    assert codes(audio.load(bytes(data))) == ["damaged"]


@pytest.mark.parametrize("name", ["mp3-no-length", "aac"])
def test_a_damaged_frame_that_decodes_to_a_blast_is_left_out(name: str, files: dict[str, bytes]) -> None:
    blasts = 0
    for seed in range(40):
        broken = bytearray(files[name])
        for place in np.random.default_rng(seed).integers(2000, len(broken), 20):
            broken[place] = 255
        with av.open(BytesIO(broken), format=name.split("-")[0]) as container:
            blast = any(np.abs(frame.to_ndarray()).max() > audio.LOUDEST for frame in decodable(container))
        wave = audio.load(bytes(broken))
        assert np.abs(wave.samples).max() < 20
        assert "damaged" in codes(wave) or not blast
        blasts += blast
    assert blasts > 0


def decodable(container: Any) -> Iterator[av.AudioFrame]:
    for packet in container.demux(audio=0):
        with suppress(av.FFmpegError):
            yield from packet.decode()


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_no_damage_escapes_as_another_error(name: str, files: dict[str, bytes], data: st.DataObject) -> None:
    broken = bytearray(files[name])
    places = st.integers(0, len(broken) - 1)
    near_start = st.integers(0, 400)
    for place, value in data.draw(st.lists(st.tuples(places | near_start, st.integers(0, 255)), max_size=8)):
        broken[place] = value
    cut = data.draw(st.integers(0, len(broken)) | st.just(len(broken)))
    try:
        wave = audio.load(bytes(broken[:cut]), options=AudioOptions(max_duration_s=60))
    except AudioError as error:
        assert str(error).startswith("<bytes>: ")
    else:
        assert 0 < len(wave.samples) <= 60.1 * SAMPLE_RATE
        assert np.isfinite(wave.samples).all()


# --- not audio ---


NOT_AUDIO = {
    "m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "mpd": b'<?xml version="1.0"?><MPD><BaseURL>http://127.0.0.1/</BaseURL></MPD>',
    "concat": b"ffconcat version 1.0\nfile /etc/passwd\n",
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
    "text": b"The quick brown fox.\n" * 100,
    "jpeg": b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(2000),
    "png": b"\x89PNG\r\n\x1a\n" + bytes(2000),
    "zip": b"PK\x03\x04" + bytes(2000),
    "gzip": b"\x1f\x8b\x08" + bytes(2000),
    "midi": b"MThd\x00\x00\x00\x06" + bytes(2000),
    "zeros": bytes(100_000),
    "ones": b"\xff" * 100_000,
    "one-byte": b"R",
}


@pytest.mark.parametrize("name", NOT_AUDIO)
def test_what_is_not_audio_is_refused_whatever_its_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / "recording.wav"
    path.write_bytes(NOT_AUDIO[name])
    for source in (NOT_AUDIO[name], path):
        with pytest.raises(NotAudioError, match=r"(text that|bytes that) start.*allowed are WAV, FLAC"):
            audio.load(source)


def test_a_video_without_sound_is_not_audio() -> None:
    out = BytesIO()
    with av.open(out, "w", format="mp4") as container:
        picture = add_video(container)
        container.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(picture.encode(None))
    with pytest.raises(NotAudioError, match="no audio stream, only video"):
        audio.load(out.getvalue())


@pytest.mark.parametrize("data", [b"Creative Voice File\x1a\x1a\0\x0a\x01\x29\x11" + b"\2\0\0\0" * 100])
def test_sound_of_which_nothing_is_known_is_told_as_damage(data: bytes) -> None:
    with pytest.raises(TruncatedAudioError, match="neither its codec nor its sample rate"):
        audio.load(data)


def test_random_bytes_are_not_audio() -> None:
    for seed in range(30):
        with pytest.raises(NotAudioError):
            audio.load(np.random.default_rng(seed).bytes(50_000))


def test_ffmpeg_is_told_the_container_and_given_no_name(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []
    opened = av.open

    def spy(file: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append({"name": getattr(file, "name", ""), **kwargs})
        return opened(file, *args, **kwargs)

    monkeypatch.setattr(av, "open", spy)
    path = tmp_path / "list.m3u8"
    path.write_bytes(files["mp3"])
    audio.load(path, options=AudioOptions(isolated=False))
    assert calls[0]["format"] == "mp3"
    with pytest.raises(PermissionError):
        calls[0]["io_open"]("file:///etc/passwd", 1, {})


def test_no_decoder_of_pictures_may_run() -> None:
    from redline.audio.demux import DECODERS

    assert not DECODERS - av.codecs_available
    assert all(av.Codec(name, "r").type == "audio" for name in DECODERS)


def test_sound_in_an_unlisted_coding_is_refused() -> None:
    with pytest.raises(NotAudioError, match="coded as pcm_s64le"):
        audio.load(wav(bits=64))


def id3(size: int, claimed: int | None = None) -> bytes:
    claimed = size if claimed is None else claimed
    return b"ID3\x04\x00\x00" + bytes(claimed >> shift & 0x7F for shift in (21, 14, 7, 0)) + bytes(size)


@pytest.mark.parametrize("name", ["mp3", "aac", "flac"])
def test_an_id3_tag_in_front_is_passed(name: str, files: dict[str, bytes]) -> None:
    tagged = id3(300_000) + id3(10) + files[name]
    assert np.array_equal(audio.load(tagged).samples, audio.load(files[name]).samples)


def test_an_id3_tag_beyond_the_end_is_truncated() -> None:
    with pytest.raises(TruncatedAudioError, match="ID3"):
        audio.load(id3(100, claimed=2**28 - 1))


def test_an_mp3_tag_at_the_end_is_no_damage(files: dict[str, bytes]) -> None:
    assert audio.load(files["mp3"] + b"TAG" + bytes(125)).warnings == ()


def test_an_mp3_that_starts_within_a_frame_is_read(files: dict[str, bytes]) -> None:
    assert audio.load(files["mp3-no-length"][100:]).duration > 1
