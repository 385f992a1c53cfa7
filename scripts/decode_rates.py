"""CPU seconds of reading and of speech detection, for an hour of sound in each format: rates for `redline plan`.

    python scripts/decode_rates.py speech/*.flac --minutes 10

The recordings are joined to so many minutes, encoded in each format, and read as `redline transcribe` reads them, but
in this process, whose CPU seconds are counted; least of three, since others may run.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from redline.audio import load, open_blocks
from redline.audio.options import AudioOptions
from redline.longform.detector import SpeechDetector
from redline.longform.vad import BLOCK_FRAMES, VAD_FRAME, VadOptions
from redline.types import SAMPLE_RATE

FORMATS = {
    "wav": ("pcm_s16le", 16_000, None),
    "flac": ("flac", 16_000, None),
    "mp3": ("mp3", 44_100, 128_000),
    "m4a": ("aac", 44_100, 96_000),
    "opus": ("libopus", 48_000, 32_000),
}
REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="+", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    given = parser.parse_args()
    speech = np.concatenate([load(path).samples for path in given.recordings])
    samples = np.resize(speech, round(given.minutes * 60 * SAMPLE_RATE))
    with tempfile.TemporaryDirectory() as folder:
        for name, (codec, rate, bit_rate) in FORMATS.items():
            path = Path(folder) / f"speech.{name}"
            encode(samples, path, codec, rate, bit_rate)
            kbit = path.stat().st_size / 125 / (given.minutes * 60)
            print(f"{name:10} {per_hour(lambda path=path: read(path), samples):5.1f} CPU s an hour, {kbit:.0f} kbit/s")
    print(f"{'detection':10} {per_hour(lambda: detect(samples), samples):5.1f} CPU s an hour")


def per_hour(work: Callable[[], None], samples: NDArray[np.float32]) -> float:
    times = []
    for _ in range(REPEATS):
        before = cpu_s()
        work()
        times.append(cpu_s() - before)
    return min(times) * 3600 * SAMPLE_RATE / len(samples)


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def read(path: Path) -> None:
    with open_blocks(path, options=AudioOptions(isolated=False)) as blocks:
        for _ in blocks:
            pass


def detect(samples: NDArray[np.float32]) -> None:
    detector, size = SpeechDetector(VadOptions()), BLOCK_FRAMES * VAD_FRAME
    for start in range(0, len(samples), size):
        detector.push(samples[start : start + size], last=start + size >= len(samples))


def encode(samples: NDArray[np.float32], path: Path, codec: str, rate: int, bit_rate: int | None) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        if bit_rate is not None:
            stream.bit_rate = bit_rate
        stream.codec_context.open()
        size = stream.codec_context.frame_size or 4096
        resampler = av.AudioResampler(stream.codec_context.format, "mono", rate, frame_size=size)
        for start in range(0, len(samples), SAMPLE_RATE):
            part = (samples[None, start : start + SAMPLE_RATE] * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(part, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
            for ready in resampler.resample(frame):
                container.mux(stream.encode(ready))
        for ready in resampler.resample(None):
            container.mux(stream.encode(ready))
        container.mux(stream.encode(None))


if __name__ == "__main__":
    main()
