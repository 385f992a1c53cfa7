"""Laws of the one door for sound: every entrance and format, every limit, every kind of broken input."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from redline import audio
from redline.audio import AudioOptions
from redline.errors import (
    AudioError,
    AudioLimitError,
    ConfigError,
    EmptyAudioError,
    NotAudioError,
    TruncatedAudioError,
)
from redline.types import SAMPLE_RATE, Waveform

DATA = Path(__file__).parent / "data"
VOICE = DATA / "audio" / "common_voice_en_17767698.flac"

# name: container, encoder, sample rate, muxer options
ENCODINGS: dict[str, tuple[str, str, int, dict[str, str]]] = {
    "wav": ("wav", "pcm_s16le", 44_100, {}),
    "wav-float": ("wav", "pcm_f32le", 22_050, {}),
    "flac": ("flac", "flac", 44_100, {}),
    "mp3": ("mp3", "libmp3lame", 44_100, {}),
    "mp3-no-length": ("mp3", "libmp3lame", 44_100, {"write_xing": "0"}),
    "m4a": ("ipod", "aac", 44_100, {}),
    "mp4-fragments": ("mp4", "aac", 32_000, {"movflags": "frag_keyframe+empty_moov", "frag_duration": "300000"}),
    "aac": ("adts", "aac", 32_000, {}),
    "opus": ("ogg", "libopus", 48_000, {"page_duration": "200000"}),
    "webm": ("webm", "libopus", 48_000, {}),
    "webm-live": ("webm", "libopus", 48_000, {"live": "1"}),
    "mkv-flac": ("matroska", "flac", 44_100, {}),
}


def encode(samples: NDArray[np.float32], name: str, video_frames: int = 0) -> bytes:
    """Stereo samples [2, N] at 16 kHz in one of ENCODINGS."""
    container_name, codec, rate, options = ENCODINGS[name]
    out = BytesIO()
    with av.open(out, "w", format=container_name, options=options) as container:
        picture: Any = add_video(container) if video_frames else None
        stream: Any = container.add_stream(codec, rate=rate)
        stream.layout = "stereo"
        stream.bit_rate = 128_000
        for index in range(video_frames):
            black = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            black.pts, black.time_base = index, Fraction(1, 25)
            container.mux(picture.encode(black))
        resampler = av.AudioResampler(format=stream.codec_context.format, layout="stereo", rate=rate)
        for start in range(0, samples.shape[1], 1000):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[:, start : start + 1000]), "fltp", "stereo")
            frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
            for part in resampler.resample(frame):
                container.mux(stream.encode(part))
        for part in resampler.resample(None):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
        if picture:
            container.mux(picture.encode(None))
    return out.getvalue()


def add_video(container: Any) -> Any:
    picture = container.add_stream("mpeg4", rate=25)
    picture.width = picture.height = 64
    picture.pix_fmt = "yuv420p"
    return picture


def wav(
    body: bytes = bytes(3200), *, rate: int = 16_000, channels: int = 1, bits: int = 16, size: int | None = None
) -> bytes:
    """A WAV file whose header says what it is told to."""
    block = channels * bits // 8
    fields = struct.pack("<HHIIHH", 1, channels, rate, rate * block % 2**32, block % 2**16, bits)
    claimed = len(body) if size is None else size
    return (
        b"RIFF\xff\xff\xff\x7fWAVEfmt " + struct.pack("<I", 16) + fields + b"data" + struct.pack("<I", claimed) + body
    )


def written(samples: NDArray[Any], rate: int, form: str = "WAV", subtype: str | None = None) -> bytes:
    """Samples [N] or [N, channels] as libsndfile writes them, in blocks: large Vorbis writes crash it."""
    out = BytesIO()
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    with soundfile.SoundFile(out, "w", rate, channels, format=form, subtype=subtype) as file:
        for start in range(0, len(samples), 4096):
            file.write(samples[start : start + 4096])
    return out.getvalue()


def sine(seconds: float, rate: int = SAMPLE_RATE, hertz: float = 440.0) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def codes(wave: Waveform) -> list[str]:
    return [notice.code for notice in wave.warnings]


@pytest.fixture(scope="module")
def voice() -> NDArray[np.float32]:
    """A real voice of about two seconds, stereo with a quieter right side [2, N]."""
    samples, rate = soundfile.read(VOICE, dtype="float32")
    assert rate == SAMPLE_RATE
    return np.stack([samples, 0.5 * samples])


class Files(dict[str, bytes]):
    """Recordings by name, without a megabyte of them in a failing test's report."""

    def __repr__(self) -> str:
        return f"<{len(self)} files>"


@pytest.fixture(scope="module")
def files(voice: NDArray[np.float32]) -> dict[str, bytes]:
    made = {name: encode(voice, name) for name in ENCODINGS}
    return Files(made, vorbis=written(voice.T, SAMPLE_RATE, "OGG", "VORBIS"))


FILES = [*ENCODINGS, "vorbis"]


# --- formats ---


@pytest.mark.parametrize("name", FILES)
def test_every_format_sounds_like_the_original(name: str, files: dict[str, bytes], voice: NDArray[np.float32]) -> None:
    wave = audio.load(files[name])
    want = voice.mean(axis=0)
    assert wave.samples.dtype == np.float32
    assert wave.warnings == ()
    assert abs(len(wave.samples) - len(want)) <= 0.08 * SAMPLE_RATE  # a codec's delay and padding
    size = 1 << (len(want) + len(wave.samples)).bit_length()
    cross = np.fft.irfft(np.fft.rfft(wave.samples, size) * np.conj(np.fft.rfft(want, size)))
    lag = int(np.argmax(cross))
    correlation = cross[lag] / (np.linalg.norm(wave.samples) * np.linalg.norm(want))
    assert correlation > 0.95
    assert min(lag, size - lag) <= 0.08 * SAMPLE_RATE


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


def test_a_video_without_sound_is_not_audio() -> None:
    out = BytesIO()
    with av.open(out, "w", format="mp4") as container:
        picture = add_video(container)
        container.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(picture.encode(None))
    with pytest.raises(NotAudioError, match="no audio stream, only video"):
        audio.load(out.getvalue())


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


def test_an_endless_stream_is_stopped() -> None:
    class Endless:
        def read(self, count: int = -1) -> bytes:
            return bytes(count)

    endless: Any = Endless()
    with pytest.raises(AudioLimitError, match="1000000 bytes"):
        audio.load(endless, options=AudioOptions(max_stream_bytes=1_000_000))


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


# --- limits ---


@pytest.mark.parametrize("rate", [0, 1, 3_999, 384_001, 655_350, 2**32 - 1])
def test_sample_rates_beyond_the_limits_are_refused(rate: int) -> None:
    with pytest.raises(AudioLimitError, match=f"sample rate {rate} Hz; allowed are 4000 to 384000"):
        audio.load(wav(rate=rate))
    with pytest.raises(AudioLimitError, match=f"sample rate {rate} Hz"):
        audio.load(sine(1), sample_rate=rate)


@pytest.mark.parametrize("channels", [0, 33, 200, 1_024, 65_535])
def test_channels_beyond_the_limits_are_refused(channels: int) -> None:
    with pytest.raises(AudioLimitError, match=f"{channels} channels; allowed are 1 to 32"):
        audio.load(wav(channels=channels))


def test_a_flac_header_with_an_absurd_rate_is_refused() -> None:
    with pytest.raises(AudioLimitError, match="655350 Hz"):
        audio.load(written(np.zeros((65_535, 8), np.int16), 655_350, "FLAC"))


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """Three hours of silence in half a megabyte."""
    out = BytesIO()
    with soundfile.SoundFile(out, "w", SAMPLE_RATE, 1, format="FLAC") as file:
        for _ in range(180):
            file.write(np.zeros(60 * SAMPLE_RATE, np.int16))
    return out.getvalue()


def test_the_duration_limit_stops_decoding_early(bomb: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    from redline.audio import collector

    seen: list[int] = []
    add = collector.Collector.add

    def counted(self: collector.Collector, block: NDArray[np.float32], rate: int) -> None:
        seen.append(len(block))
        add(self, block, rate)

    monkeypatch.setattr(collector.Collector, "add", counted)
    started = time.process_time()
    with pytest.raises(AudioLimitError, match="longer than the 5 s"):
        audio.load(bomb, options=AudioOptions(max_duration_s=5))
    assert sum(seen) < 6 * SAMPLE_RATE
    assert time.process_time() - started < 2


def test_a_bomb_takes_no_memory(bomb: bytes, tmp_path: Path) -> None:
    pytest.importorskip("resource")
    path = tmp_path / "bomb.flac"
    path.write_bytes(bomb)
    assert peak_growth_mb(path, max_duration_s=5) < 16


def test_memory_is_the_result_and_little_more(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    path = tmp_path / "long.wav"
    path.write_bytes(wav(bytes(10 * 60 * 44_100 * 4), rate=44_100, channels=2))
    result_mb = 10 * 60 * SAMPLE_RATE * 4 / 2**20  # 36.6
    assert peak_growth_mb(path) < 1.3 * result_mb + 8


def peak_growth_mb(path: Path, max_duration_s: float = 3600) -> float:
    """What loading a file adds to the largest memory of a fresh process."""
    program = f"""
import resource
from redline import audio
from redline.errors import AudioLimitError
audio.load({str(VOICE)!r})
audio.load({os.fspath(path)!r}[:0].encode() + {wav()!r})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    audio.load({str(path)!r}, options=audio.AudioOptions(max_duration_s={max_duration_s}))
except AudioLimitError:
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    return int(done.stdout) / (2**20 if sys.platform == "darwin" else 2**10)


def test_an_array_keeps_the_duration_limit() -> None:
    assert audio.load(sine(2), sample_rate=SAMPLE_RATE, options=AudioOptions(max_duration_s=2)).duration == 2
    with pytest.raises(AudioLimitError, match="longer than the 1 s"):
        audio.load(sine(2), sample_rate=SAMPLE_RATE, options=AudioOptions(max_duration_s=1))


@pytest.mark.parametrize(
    "values", [{"channel": -1}, {"max_duration_s": 0}, {"min_rate_hz": 0}, {"max_rate_hz": 10}, {"max_channels": 0}]
)
def test_options_that_allow_nothing_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        AudioOptions(**values)


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
    "avi": b"RIFF\x00\x10\x00\x00AVI LIST" + bytes(2000),
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
    audio.load(path)
    assert calls[0]["format"] == "mp3"
    with pytest.raises(PermissionError):
        calls[0]["io_open"]("file:///etc/passwd", 1, {})


def test_no_decoder_of_pictures_may_run() -> None:
    from redline.audio.decode import DECODERS

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


def test_importing_the_door_imports_no_decoder() -> None:
    program = "import sys, redline.audio; print([m for m in ('av', 'soxr', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"
