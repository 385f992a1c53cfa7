"""What the door for sound will not go beyond: rates, channels, bytes, length and memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from redline import audio
from redline.audio import AudioOptions
from redline.audio.resample import MonoResampler
from redline.errors import AudioLimitError, ConfigError
from redline.types import SAMPLE_RATE
from tests.audio.audio_files import VOICE, sine, wav, written


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


def test_an_endless_stream_is_stopped() -> None:
    class Endless:
        def read(self, count: int = -1) -> bytes:
            return bytes(count)

    endless: Any = Endless()
    with pytest.raises(AudioLimitError, match="1000000 bytes"):
        audio.load(endless, options=AudioOptions(max_stream_bytes=1_000_000))


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """Three hours of silence in half a megabyte."""
    out = BytesIO()
    with soundfile.SoundFile(out, "w", SAMPLE_RATE, 1, format="FLAC") as file:
        for _ in range(180):
            file.write(np.zeros(60 * SAMPLE_RATE, np.int16))
    return out.getvalue()


def test_the_duration_limit_stops_decoding_early(bomb: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    add = MonoResampler.add

    def counted(self: MonoResampler, block: NDArray[np.float32], rate: int) -> None:
        seen.append(block.shape[1])
        add(self, block, rate)

    monkeypatch.setattr(MonoResampler, "add", counted)
    started = time.process_time()
    with pytest.raises(AudioLimitError, match="longer than the 5 s"):
        audio.load(bomb, options=AudioOptions(max_duration_s=5, isolated=False))
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
    audio.load({str(path)!r}, options=audio.AudioOptions(max_duration_s={max_duration_s}, isolated=False))
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
