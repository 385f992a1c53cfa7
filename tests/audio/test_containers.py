"""Laws of the table of containers: all that is listed is read, all that is read is told by its bytes alone."""

from __future__ import annotations

from functools import cache
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
from redline.audio.containers import CONTAINER_NAMES, CONTAINERS, SUFFIXES, sniff
from redline.audio.demux import DECODERS
from redline.cli.inputs import expand
from redline.errors import AudioError, ConfigError, EmptyAudioError, NotAudioError, TruncatedAudioError
from redline.types import SAMPLE_RATE
from tests.audio.audio_files import ENCODINGS, FURTHER, codes, encode, likeness, opened, sine, stereo_voice, written

COARSE = {"amr": 0.8, "3gp": 0.8, "ra": 0.5, "flv-nelly": 0.8, "wav-gsm": 0.8, "aiff-gsm": 0.8}
"""What a coding of the telephone leaves of the sound."""
OTHERS = {  # what libsndfile writes: form, subtype
    "gsm": ("RAW", "GSM610"),
    "wav-gsm": ("WAV", "GSM610"),
    "aiff-gsm": ("AIFF", "GSM610"),
    "nist": ("NIST", "PCM_16"),
    "wavex": ("WAVEX", "PCM_24"),
    "caf-alac-16": ("CAF", "ALAC_16"),
    "au-adpcm": ("AU", "G721_32"),
    "ogg-opus": ("OGG", "OPUS"),
    "mp3-lame": ("MP3", "MPEG_LAYER_III"),
}


@cache
def file(name: str) -> bytes:
    voice = stereo_voice()
    if name in OTHERS:
        form, subtype = OTHERS[name]
        return written(voice.mean(axis=0), SAMPLE_RATE, form, subtype)
    return encode(voice, name)


@pytest.mark.parametrize("name", [*FURTHER, *OTHERS])
def test_every_container_that_is_listed_sounds_like_the_original(name: str) -> None:
    wave = audio.load(file(name))
    want = stereo_voice().mean(axis=0)
    if name == "gsm":  # 8 kHz is all there is, so it plays at half its speed
        assert abs(len(wave.samples) - 2 * len(want)) <= 0.05 * SAMPLE_RATE
        return
    assert wave.warnings == ()
    assert abs(len(wave.samples) - len(want)) <= 0.1 * SAMPLE_RATE
    correlation, lag = likeness(wave.samples, want)
    assert correlation > COARSE.get(name, 0.9)
    assert abs(lag) <= 0.1 * SAMPLE_RATE


@pytest.mark.parametrize("name", [*FURTHER, *OTHERS])
def test_a_cut_container_is_told_or_refused(name: str) -> None:
    data = file(name)
    whole = audio.load(data).duration
    for cut in (0.01, 0.05, 0.31, 0.513, 0.77, 0.97):
        size = int(cut * len(data))
        size += size % 2 == 0  # two-byte samples without a length may end at any of them
        try:
            wave = audio.load(data[:size])
        except (TruncatedAudioError, EmptyAudioError, NotAudioError):
            continue
        assert wave.duration <= whole
        assert "truncated" in codes(wave) or name in ("nut", "ircam"), cut  # these state no length anywhere


def test_every_container_of_the_tests_is_listed_and_every_other_has_no_encoder_here() -> None:
    names = set()
    for name in (*ENCODINGS, *FURTHER, *OTHERS):
        with opened(file(name)) as source:
            names.add(sniff(source)[0])
    without_encoder = {"ilbc", "qcp", "dss", "dts", "ape", "mpc", "mpc8", "tak", "shn", "mxf"}
    assert names == set(CONTAINER_NAMES) - without_encoder


def test_the_table_names_what_ffmpeg_has() -> None:
    for container in CONTAINERS:
        assert av.format.ContainerFormat(container.form, "r").is_input
        assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in container.suffixes.split())
    assert {".wma", ".3gp", ".m4v", ".aiff", ".amr", ".ts", ".spx", ".wav"} <= set(SUFFIXES)
    foreign = {"hls", "dash", "concat", "sdp", "image2", "lavfi", "imf", "rtsp", "tty", "xbin", "ass"}
    assert not set(CONTAINER_NAMES) & foreign
    assert not DECODERS - av.codecs_available


def test_a_folder_is_searched_for_every_container(tmp_path: Path) -> None:
    for number, suffix in enumerate((*SUFFIXES, ".WMA", ".3GP")):
        (tmp_path / f"{number}{suffix}").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("not heard")
    inputs = expand([str(tmp_path)])[0]
    assert len(inputs) == len(SUFFIXES) + 2


@pytest.mark.parametrize("name", ["avi", "mov", "mka", "ts"])
def test_only_the_container_that_was_told_may_be_opened(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    opened = av.open

    def spy(source: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs)
        return opened(source, *args, **kwargs)

    monkeypatch.setattr(av, "open", spy)
    audio.load(file(name), options=AudioOptions(isolated=False))
    assert calls and all(call["options"]["format_whitelist"] == call["format"] for call in calls)


def test_text_of_another_alphabet_is_no_gsm() -> None:
    text = "Шумел камыш, деревья гнулись, и ночка тёмная была. " * 200
    for data in (text.encode(), text.encode("koi8-r"), text.encode("utf-16")):
        with pytest.raises(AudioError):
            audio.load(data)


@pytest.mark.parametrize("name", [*FURTHER, *OTHERS])
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_no_damage_of_any_container_escapes_as_another_error(name: str, data: st.DataObject) -> None:
    broken = bytearray(file(name))
    places = st.integers(0, len(broken) - 1) | st.integers(0, 300)
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=8)):
        broken[place] = value
    start = data.draw(st.integers(0, len(broken)) | st.just(len(broken)))
    broken[start : start + data.draw(st.integers(0, 5000))] = b""
    try:
        wave = audio.load(bytes(broken), options=AudioOptions(max_duration_s=60))
    except AudioError as error:
        assert str(error).startswith("<bytes>: ")
    else:
        assert 0 < len(wave.samples) <= 60.1 * SAMPLE_RATE


# --- tracks ---


def two_tracks(form: str = "matroska") -> bytes:
    out = BytesIO()
    with av.open(out, "w", format=form) as container:
        streams: list[Any] = [container.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono") for _ in range(2)]
        for stream, language in zip(streams, ("eng", "deu"), strict=True):
            stream.metadata["language"] = language
        for stream, hertz in zip(streams, (440.0, 1000.0), strict=True):
            samples = (32767 * sine(0.5, hertz=hertz)).astype(np.int16)[np.newaxis]
            frame = av.AudioFrame.from_ndarray(samples, "s16", "mono")
            frame.sample_rate = SAMPLE_RATE
            container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    return out.getvalue()


def test_a_track_is_chosen_by_its_number() -> None:
    data = two_tracks()
    for track, hertz in ((0, 440.0), (1, 1000.0)):
        wave = audio.load(data, options=AudioOptions(track=track))
        assert np.abs(wave.samples - sine(0.5, hertz=hertz)).max() < 1e-3
        assert wave.warnings == ()
    wave = audio.load(data)
    assert codes(wave) == ["several_streams"]
    assert "0 (eng, pcm_s16le, 16000 Hz, mono); 1 (deu, pcm_s16le" in wave.warnings[0].message
    assert "track 0 was read" in wave.warnings[0].message


def test_a_track_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(
        AudioError, match=r"track 2 asked for; there are audio tracks 0 \(eng, pcm_s16le.*1 \(deu, pcm_s16le"
    ):
        audio.load(two_tracks(), options=AudioOptions(track=2))
    with pytest.raises(AudioError, match="track 1 asked for; there are audio tracks 0"):
        audio.load(file("wma"), options=AudioOptions(track=1))
    with pytest.raises(ConfigError, match="track"):
        AudioOptions(track=-1)
    with pytest.raises(AudioError, match="track"):
        audio.load(sine(1), sample_rate=SAMPLE_RATE, options=AudioOptions(track=1))
