"""Laws of the one door for sound: every format, every entrance, arrays and channels."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from fractions import Fraction
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from redline import audio
from redline.audio import AudioOptions
from redline.errors import AudioError, EmptyAudioError
from redline.types import SAMPLE_RATE
from tests.audio.audio_files import (
    FILES,
    VOICE,
    add_video,
    codes,
    encode,
    likeness,
    recordings,
    sine,
    stereo_voice,
    wav,
    written,
)


@pytest.fixture(scope="module")
def voice() -> NDArray[np.float32]:
    return stereo_voice()


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return recordings()


# --- formats ---


@pytest.mark.parametrize("name", FILES)
def test_every_format_sounds_like_the_original(name: str, files: dict[str, bytes], voice: NDArray[np.float32]) -> None:
    wave = audio.load(files[name])
    want = voice.mean(axis=0)
    assert wave.samples.dtype == np.float32
    assert wave.warnings == ()
    assert abs(len(wave.samples) - len(want)) <= 0.08 * SAMPLE_RATE  # a codec's delay and padding
    correlation, lag = likeness(wave.samples, want)
    assert correlation > 0.95
    assert abs(lag) <= 0.08 * SAMPLE_RATE


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("form", ["WAV", "FLAC"])
def test_resampling_keeps_pitch_and_length(rate: int, form: str) -> None:
    wave = audio.load(written(sine(2.0, rate), rate, form))
    assert abs(len(wave.samples) - 2 * SAMPLE_RATE) <= 1
    spectrum = np.abs(np.fft.rfft(wave.samples * np.hanning(len(wave.samples))))
    assert np.argmax(spectrum) * SAMPLE_RATE / len(wave.samples) == pytest.approx(440, abs=1)
    middle = wave.samples[SAMPLE_RATE // 2 : -SAMPLE_RATE // 2]
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.01)


def test_resampling_in_blocks_equals_resampling_the_whole() -> None:
    import soxr

    samples = np.random.default_rng(0).standard_normal(200_000).astype(np.float32) * 0.1
    whole = soxr.resample(samples, 44_100, SAMPLE_RATE)
    for wave in (audio.load(samples, sample_rate=44_100), audio.load(written(samples, 44_100, subtype="FLOAT"))):
        assert len(wave.samples) == len(whole)
        assert np.abs(wave.samples - whole).max() < 1e-6


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"])
def test_every_kind_of_wav_sample_has_full_scale_one(subtype: str) -> None:
    samples = sine(0.5)
    got = audio.load(written(samples, SAMPLE_RATE, subtype=subtype)).samples
    assert np.abs(got - samples).max() < {"PCM_U8": 0.01, "ULAW": 0.02, "ALAW": 0.02}.get(subtype, 1e-4)


@pytest.mark.parametrize(
    ("path", "duration"),
    [
        (Path(audio.__file__).parents[1] / "assets" / "demo.flac", 11.0),
        (VOICE, 2.016),
        (VOICE.with_name("common_voice_en_22060973.flac"), 2.352),
    ],
)
def test_human_voices_are_read(path: Path, duration: float) -> None:
    wave = audio.load(path)
    assert wave.duration == duration
    assert wave.warnings == ()
    assert 0.02 < np.abs(wave.samples).max() < 1


def test_wav_without_resampling_is_exact() -> None:
    samples = np.random.default_rng(1).integers(-32768, 32767, 50_000, dtype=np.int16)
    assert np.array_equal(audio.load(written(samples, SAMPLE_RATE)).samples, samples.astype(np.float32) / 32768)


def test_a_video_gives_its_sound(voice: NDArray[np.float32]) -> None:
    wave = audio.load(encode(voice, "m4a", video_frames=25))
    assert abs(len(wave.samples) - voice.shape[1]) < 0.08 * SAMPLE_RATE


def test_several_audio_streams_are_told() -> None:
    out = BytesIO()
    with av.open(out, "w", format="matroska") as container:
        streams: list[Any] = [container.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono") for _ in range(2)]
        for stream in streams:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), "s16", "mono")
            frame.sample_rate = SAMPLE_RATE
            container.mux(stream.encode(frame))
    wave = audio.load(out.getvalue())
    assert wave.duration == 0.1
    assert codes(wave) == ["several_streams"]


def test_sound_that_starts_late_keeps_its_time() -> None:
    wave = audio.load(with_gap(lead=25, gap=0))
    assert np.flatnonzero(np.abs(wave.samples) > 0.1)[0] == pytest.approx(0.5 * SAMPLE_RATE, abs=10)


def test_a_gap_in_the_time_stamps_becomes_silence_and_is_told() -> None:
    wave = audio.load(with_gap(lead=0, gap=50))
    assert codes(wave) == ["damaged"]
    assert (wave.warnings[0].start, wave.warnings[0].end) == (0.5, 1.5)
    assert wave.duration == 2.0
    assert not wave.samples[8_000:24_000].any()
    assert np.abs(wave.samples[24_000:]).max() > 0.4


def with_gap(lead: int, gap: int) -> bytes:
    """One second of sound in 20 ms frames: `lead` frames late behind a picture, with `gap` missing in the middle."""
    out = BytesIO()
    with av.open(out, "w", format="matroska") as container:
        picture = add_video(container)
        stream: Any = container.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono")
        container.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(picture.encode(None))
        sound = (sine(1.0) * 32767).astype(np.int16).reshape(50, 1, 320)
        for index, samples in enumerate(sound):
            frame = av.AudioFrame.from_ndarray(samples, "s16", "mono")
            frame.sample_rate, frame.time_base = SAMPLE_RATE, Fraction(1, SAMPLE_RATE)
            frame.pts = 320 * (lead + index + (gap if index >= 25 else 0))
            container.mux(stream.encode(frame))
    return out.getvalue()


# --- entrances ---


class Pipe:
    """A binary stream that cannot seek and gives little at a time."""

    def __init__(self, data: bytes) -> None:
        self._file = BytesIO(data)

    def read(self, count: int = -1) -> bytes:
        return self._file.read(min(count, 777) if count >= 0 else -1)


@pytest.mark.parametrize("name", FILES)
def test_every_entrance_gives_the_same_samples(name: str, files: dict[str, bytes], tmp_path: Path) -> None:
    data = files[name]
    path = tmp_path / "misleading.m3u8"
    path.write_bytes(data)
    want = audio.load(data).samples
    behind: BinaryIO = BytesIO(b"something else" + data)
    behind.seek(14)
    with path.open("rb") as file:
        pipe: Any = Pipe(data)
        for source in (path, str(path), file, BytesIO(data), behind, pipe):
            assert np.array_equal(audio.load(source).samples, want)


def test_standard_input_is_read(tmp_path: Path) -> None:
    program = "import sys; from redline import audio; print(audio.load(sys.stdin.buffer).duration)"
    done = subprocess.run([sys.executable, "-c", program], input=wav(), capture_output=True, check=True)
    assert done.stdout.strip() == b"0.1"


def test_a_named_pipe_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(wav(),))
    writer.start()
    assert audio.load(path).duration == 0.1
    writer.join()


def test_the_callers_stream_stays_open() -> None:
    stream = BytesIO(wav())
    audio.load(stream)
    assert not stream.closed


def test_source_is_named() -> None:
    assert audio.load(VOICE).source == str(VOICE)
    assert audio.load(wav()).source == "<bytes>"
    assert audio.load(sine(1), sample_rate=SAMPLE_RATE).source == "<array>"


def test_paths_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="is a folder"):
        audio.load(tmp_path)
    with pytest.raises(AudioError, match=r"gone\.wav: no such file"):
        audio.load(tmp_path / "gone.wav")
    with pytest.raises(AudioError, match="addresses are not opened"):
        audio.load("https://example.com/a.wav")
    with pytest.raises(AudioError, match="cannot be opened"):
        audio.load("a\0b.wav")
    with pytest.raises(AudioError, match="is a device"):
        audio.load(os.devnull)


def test_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.wav"
    path.write_bytes(wav())

    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    # Taking the rights away would not stop root, who runs many a test.
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(AudioError, match="Permission denied"):
        audio.load(path)


def test_wrong_kinds_of_source_say_what_is_allowed() -> None:
    text: Any = StringIO("RIFF")
    number: Any = 3
    with pytest.raises(AudioError, match="binary mode"):
        audio.load(text)
    with pytest.raises(AudioError, match="cannot read audio from int"):
        audio.load(number)
    with pytest.raises(AudioError, match="arrays only"):
        audio.load(wav(), sample_rate=16_000)


def test_a_stream_that_fails_is_an_audio_error() -> None:
    class Failing(BytesIO):
        def read(self, count: int | None = -1) -> bytes:
            if count and self.tell() > 10_000:
                raise OSError("the disk is gone")
            return super().read(count)

    with pytest.raises(AudioError, match="the disk is gone"):
        audio.load(Failing(wav(bytes(200_000))))


def test_importing_the_door_imports_no_decoder() -> None:
    program = "import sys, redline.audio; print([m for m in ('av', 'soxr', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"


# --- arrays ---


@pytest.mark.parametrize(
    ("dtype", "half"), [(np.int16, 2**15), (np.int32, 2**31), (np.uint8, 2**7), (">i2", 2**15), (np.float64, 1)]
)
def test_arrays_are_scaled_to_full_scale_one(dtype: Any, half: int) -> None:
    samples = sine(0.5).astype(np.float64) * (half if half == 1 else half - 1)
    array = (samples + (half if dtype is np.uint8 else 0)).astype(dtype)
    got = audio.load(array, sample_rate=SAMPLE_RATE).samples
    assert np.abs(got - sine(0.5)).max() < (0.02 if dtype is np.uint8 else 1e-4)


def test_an_array_is_copied() -> None:
    array = sine(0.1)
    wave = audio.load(array, sample_rate=SAMPLE_RATE)
    wave.samples[:] = 0
    assert array.any()


def test_arrays_of_other_kinds_are_refused() -> None:
    for array, message in (
        (np.zeros((1, 2, 3), np.float32), "allowed are"),
        (np.array(1, np.float32), "allowed are"),
        (np.zeros(10, np.int64), "int64"),
        (np.zeros(10, np.complex64), "complex64"),
        (np.zeros(10, bool), "bool"),
        (np.array(["a"]), "U1"),
        (np.zeros((2, 16_000), np.float32), "transpose"),
    ):
        with pytest.raises(AudioError, match=message):
            audio.load(array, sample_rate=SAMPLE_RATE)
    with pytest.raises(AudioError, match="sample_rate="):
        audio.load(sine(1))
    for shape in ((0,), (0, 2), (5, 0)):
        with pytest.raises(EmptyAudioError):
            audio.load(np.zeros(shape, np.float32), sample_rate=SAMPLE_RATE)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_everywhere(bad: float) -> None:
    samples = sine(1)
    samples[12_345] = bad
    with pytest.raises(AudioError, match="NaN or infinite"):
        audio.load(samples, sample_rate=SAMPLE_RATE)
    for rate in (SAMPLE_RATE, 44_100):
        with pytest.raises(AudioError, match="NaN or infinite"):
            audio.load(written(samples, rate, subtype="FLOAT"))
    with pytest.raises(AudioError, match="NaN or infinite"):
        audio.load(np.array([1e300]), sample_rate=SAMPLE_RATE)


def test_loud_samples_are_kept_and_absurd_ones_refused() -> None:
    loud = 2 * sine(1)
    loud[0] = audio.LOUDEST
    assert np.array_equal(audio.load(loud, sample_rate=SAMPLE_RATE).samples, loud)
    with pytest.raises(AudioError, match=r"32000.*divide"):
        audio.load(64_000 * sine(1), sample_rate=SAMPLE_RATE)


# --- channels ---


@pytest.mark.parametrize("form", ["WAV", "FLAC", "array"])
def test_stereo_is_mixed_down_or_one_side_chosen(form: str) -> None:
    stereo = np.stack([sine(0.5), sine(0.5, hertz=1000)], axis=1)
    source: Any = (
        stereo if form == "array" else written(stereo, SAMPLE_RATE, form, "PCM_24" if form == "FLAC" else None)
    )
    rate = SAMPLE_RATE if form == "array" else None
    for channel, want in ((None, stereo.mean(axis=1)), (0, stereo[:, 0]), (1, stereo[:, 1])):
        got = audio.load(source, sample_rate=rate, options=AudioOptions(channel=channel)).samples
        assert np.abs(got - want).max() < 1e-4
    with pytest.raises(AudioError, match="channel 2 asked for; there are channels 0 to 1"):
        audio.load(source, sample_rate=rate, options=AudioOptions(channel=2))
