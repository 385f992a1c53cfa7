"""Sound files for tests: a real voice in every format, and headers that say what they are told to."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from redline.audio import AudioOptions
from redline.audio.source import Bytes, open_source
from redline.types import SAMPLE_RATE, Waveform

VOICE = Path(__file__).parents[1] / "data" / "audio" / "common_voice_en_17767698.flac"

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
FILES = [*ENCODINGS, "vorbis"]

# The same of what is found on old machines and phones, in studios and archives; mono where the encoder has no more.
FURTHER: dict[str, tuple[str, str, int, dict[str, str]]] = {
    "wma": ("asf", "wmav2", 44_100, {}),
    "wma-1": ("asf", "wmav1", 44_100, {}),
    "aiff": ("aiff", "pcm_s16be", 44_100, {}),
    "aiff-24": ("aiff", "pcm_s24be", 44_100, {}),
    "caf": ("caf", "pcm_s16be", 44_100, {}),
    "caf-alac": ("caf", "alac", 44_100, {}),
    "au": ("au", "pcm_mulaw", 16_000, {}),
    "w64": ("w64", "pcm_s16le", 44_100, {}),
    "rf64": ("wav", "pcm_s16le", 44_100, {"rf64": "always"}),
    "wav-adpcm": ("wav", "adpcm_ms", 22_050, {}),
    "wav-mp3": ("wav", "libmp3lame", 44_100, {}),
    "voc": ("voc", "pcm_s16le", 22_050, {}),
    "ircam": ("ircam", "pcm_s16le", 44_100, {}),
    "sox": ("sox", "pcm_s32le", 44_100, {}),
    "mp2": ("mp2", "mp2", 44_100, {}),
    "ac3": ("ac3", "ac3", 44_100, {}),
    "eac3": ("eac3", "eac3", 44_100, {}),
    "latm": ("latm", "aac", 32_000, {}),
    "amr": ("amr", "libopencore_amrnb", 8_000, {}),
    "wv": ("wv", "wavpack", 44_100, {}),
    "tta": ("tta", "tta", 44_100, {}),
    "ogg-flac": ("ogg", "flac", 44_100, {}),
    "mov": ("mov", "pcm_s16be", 44_100, {}),
    "mov-alac": ("mov", "alac", 44_100, {}),
    "3gp": ("3gp", "libopencore_amrnb", 8_000, {}),
    "3g2": ("3g2", "aac", 16_000, {}),
    "mkv-ac3": ("matroska", "ac3", 44_100, {}),
    "mka": ("matroska", "libopus", 48_000, {}),
    "avi": ("avi", "libmp3lame", 44_100, {}),
    "avi-pcm": ("avi", "pcm_s16le", 44_100, {}),
    "flv": ("flv", "aac", 44_100, {}),
    "flv-nelly": ("flv", "nellymoser", 22_050, {}),
    "ts": ("mpegts", "aac", 44_100, {}),
    "m2ts": ("mpegts", "ac3", 48_000, {"mpegts_m2ts_mode": "1"}),
    "mpg": ("mpeg", "mp2", 44_100, {}),
    "vob": ("vob", "ac3", 48_000, {}),
    "rm": ("rm", "ac3", 44_100, {}),
    "ra": ("rm", "real_144", 8_000, {}),
    "nut": ("nut", "libmp3lame", 44_100, {}),
}
MONO = ("libopencore_amrnb", "nellymoser", "real_144")


def encode(samples: NDArray[np.float32], name: str, video_frames: int = 0) -> bytes:
    """Stereo samples [2, N] at 16 kHz in one of ENCODINGS or FURTHER."""
    container_name, codec, rate, options = {**ENCODINGS, **FURTHER}[name]
    layout = "mono" if codec in MONO else "stereo"
    samples = samples.mean(axis=0, keepdims=True) if codec in MONO else samples
    out = BytesIO()
    with av.open(out, "w", format=container_name, options=options) as container:
        picture: Any = add_video(container) if video_frames else None
        stream: Any = container.add_stream(codec, rate=rate)
        stream.layout = layout
        stream.bit_rate = 12_200 if codec.endswith("amrnb") else 128_000
        for index in range(video_frames):
            black = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            black.pts, black.time_base = index, Fraction(1, 25)
            container.mux(picture.encode(black))
        resampler = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=rate)
        for start in range(0, samples.shape[1], 1000):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[:, start : start + 1000]), "fltp", layout)
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


@contextmanager
def opened(data: bytes) -> Iterator[Bytes]:
    """Bytes as the decoder sees them."""
    with ExitStack() as stack:
        yield open_source(data, AudioOptions(), stack)


def sine(seconds: float, rate: int = SAMPLE_RATE, hertz: float = 440.0) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def codes(wave: Waveform) -> list[str]:
    return [notice.code for notice in wave.warnings]


def stereo_voice() -> NDArray[np.float32]:
    """A real voice of about two seconds, stereo with a quieter right side [2, N]."""
    samples, rate = soundfile.read(VOICE, dtype="float32")
    assert rate == SAMPLE_RATE
    return np.stack([samples, 0.5 * samples])


class Files(dict[str, bytes]):
    """Recordings by name, without a megabyte of them in a failing test's report."""

    def __repr__(self) -> str:
        return f"<{len(self)} files>"


@cache
def recordings() -> dict[str, bytes]:
    """That voice in every one of FILES."""
    voice = stereo_voice()
    encoded = {name: encode(voice, name) for name in ENCODINGS}
    return Files(encoded, vorbis=written(voice.T, SAMPLE_RATE, "OGG", "VORBIS"))


def likeness(got: NDArray[np.float32], want: NDArray[np.float32]) -> tuple[float, int]:
    """How two sounds correlate where they fit best, and how many samples late the first is."""
    size = 1 << (len(want) + len(got)).bit_length()
    cross = np.fft.irfft(np.fft.rfft(got, size) * np.conj(np.fft.rfft(want, size)))
    lag = int(np.argmax(cross))
    return float(cross[lag] / (np.linalg.norm(got) * np.linalg.norm(want))), lag if lag < size // 2 else lag - size
