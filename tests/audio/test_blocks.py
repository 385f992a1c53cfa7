"""Laws of reading block by block: the blocks are the whole, in flat memory, and a reader that is left is gone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from redline import audio
from redline.audio import AudioOptions, isolation
from redline.audio.resample import BLOCK
from redline.errors import AudioError, RedlineError
from redline.types import SAMPLE_RATE
from tests.audio.audio_files import FILES, FURTHER, encode, recordings, sine, stereo_voice, wav, written

HERE = AudioOptions(isolated=False)
BOTH = [pytest.param(True, id="isolated"), pytest.param(False, id="here")]


def joined(source: Any, **options: Any) -> tuple[Any, ...]:
    """What the blocks of a recording are together, or the error."""
    try:
        with audio.open_blocks(source, options=AudioOptions(**options)) as reader:
            assert reader.warnings == ()
            blocks = list(reader)
            assert list(reader) == []
    except RedlineError as error:
        return type(error), str(error)
    assert all(block.dtype == np.float32 and len(block) == BLOCK for block in blocks[:-1])
    assert 0 < len(blocks[-1]) <= BLOCK
    return np.concatenate(blocks).tobytes(), reader.name, reader.warnings


def whole(source: Any, **options: Any) -> tuple[Any, ...]:
    try:
        wave = audio.load(source, options=AudioOptions(**options))
    except RedlineError as error:
        return type(error), str(error)
    return wave.samples.tobytes(), wave.source, wave.warnings


@pytest.mark.parametrize("isolated", BOTH)
@pytest.mark.parametrize("name", [*FILES, *FURTHER])
def test_blocks_joined_are_the_whole(name: str, isolated: bool) -> None:
    long = np.tile(stereo_voice(), 3)
    data = recordings()[name] if name == "vorbis" else encode(long, name)
    middle = len(data) // 2
    for source in (data, data[:middle] + bytes(600) + data[middle + 600 :], data[:middle], data[:40], b"no sound"):
        assert joined(source, isolated=isolated) == whole(source, isolated=not isolated)


def test_every_entrance_gives_blocks(tmp_path: Path) -> None:
    data = written(sine(7.3), SAMPLE_RATE, subtype="FLOAT")
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    array = sine(7.3)
    sources: list[tuple[Any, int | None]] = [
        *((source, None) for source in (path, str(path), data, BytesIO(data), path.open("rb"), {"bytes": data})),
        *((source, None) for source in ({"array": array, "sampling_rate": SAMPLE_RATE},)),
        (array, SAMPLE_RATE),
    ]
    for source, rate in sources:
        with audio.open_blocks(source, sample_rate=rate) as reader:
            assert np.array_equal(np.concatenate(list(reader)), array)


@pytest.mark.parametrize("isolated", BOTH)
def test_an_error_is_raised_where_it_occurs(isolated: bool) -> None:
    samples = sine(60.0)
    samples[50 * SAMPLE_RATE] = np.nan
    data = written(samples, SAMPLE_RATE, subtype="FLOAT")
    with audio.open_blocks(data, options=AudioOptions(isolated=isolated)) as reader:
        blocks = []
        with pytest.raises(AudioError, match="NaN"):
            for block in reader:
                blocks.append(block)
    got = np.concatenate(blocks)
    assert 45 * SAMPLE_RATE < len(got) <= 50 * SAMPLE_RATE and np.array_equal(got, samples[: len(got)])


def test_a_recording_that_breaks_in_the_middle_gives_what_there_is_and_says_so() -> None:
    data = written(sine(60.0), SAMPLE_RATE, "FLAC")
    with audio.open_blocks(data[: len(data) // 2]) as reader:
        samples = np.concatenate(list(reader))
    assert 20 < len(samples) / SAMPLE_RATE < 40 and [notice.code for notice in reader.warnings] == ["truncated"]


def test_several_recordings_are_read_side_by_side() -> None:
    sounds = [sine(10.0, hertz=200.0 + 100 * number) for number in range(5)]
    readers = [audio.open_blocks(written(sound, SAMPLE_RATE, subtype="FLOAT")) for sound in sounds]
    rows = list(zip(*readers, strict=True))
    for reader, sound, blocks in zip(readers, sounds, zip(*rows, strict=True), strict=True):
        assert np.array_equal(np.concatenate(blocks), sound)
        reader.close()


# --- a worker that waits, a reader that is left ---

needs_workers = pytest.mark.skipif(not hasattr(socket, "send_fds"), reason="this system cannot hand over open files")


@pytest.fixture(scope="module")
def hour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An hour of tones and silence."""
    path = tmp_path_factory.mktemp("long") / "hour.flac"
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, format="FLAC") as file:
        for _ in range(60):
            file.write(np.concatenate([sine(20.0), np.zeros(40 * SAMPLE_RATE, np.float32)]))
    return path


def open_files() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def processor_s(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@needs_workers
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here")
def test_a_worker_waits_when_nobody_takes_its_blocks(hour: Path) -> None:
    isolation.end_idle()
    isolation.prepare()
    worker = isolation._idle[0]
    worker.wait_for_start()  # with all the time that it wants
    worker.socket.settimeout(1.0)
    process = worker.process.pid
    with audio.open_blocks(hour) as reader:
        first = next(reader)
        time.sleep(0.3)
        worked_s = processor_s(process)
        time.sleep(1.5)
        assert processor_s(process) - worked_s < 0.1
        assert len(first) + sum(map(len, reader)) == 3600 * SAMPLE_RATE


@needs_workers
def test_a_reader_that_is_left_early_leaves_nothing_behind(hour: Path) -> None:
    isolation.end_idle()
    audio.load(wav())
    (worker,) = isolation._idle
    files = open_files()
    for _ in range(3):
        with audio.open_blocks(hour) as reader:
            next(reader)
    assert worker.process.poll() is not None
    with audio.open_blocks(hour):
        pass
    reader = audio.open_blocks(hour)
    next(reader)
    del reader
    assert audio.load(wav()).duration == 0.1
    assert len(isolation._idle) == 1
    assert open_files() <= files


# --- memory ---

MEASURE = """
import resource, sys
from redline import audio
from redline.audio import AudioOptions, isolation
options = AudioOptions(isolated=sys.argv[1] == "True")
def peak_mb():
    used = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]
    for worker in isolation._idle:
        status = open(f"/proc/{worker.process.pid}/status").read().split()
        used.append(int(status[status.index("VmHWM:") + 1]))
    return [kib / 1024 for kib in used]
for path in sys.argv[2:]:
    with audio.open_blocks(path, options=options) as reader:
        count = sum(map(len, reader))
    print(count / 16_000, *peak_mb())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="no /proc here")
@pytest.mark.parametrize("isolated", BOTH)
def test_an_hour_is_read_in_flat_memory(isolated: bool, hour: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.flac"
    soundfile.write(short, sine(20.0), SAMPLE_RATE)
    command = [sys.executable, "-c", MEASURE, str(isolated), str(short), str(hour)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, after = ([float(field) for field in line.split()] for line in done.stdout.splitlines())
    assert (before[0], after[0]) == (20.0, 3600.0)
    for base, peak in zip(before[1:], after[1:], strict=True):
        assert peak - base < 12


@pytest.mark.parametrize("isolated", BOTH)
@pytest.mark.parametrize("name", ["wav", "flac", "mp3", "opus"])
def test_a_reader_says_from_the_first_block_on_about_how_long_the_recording_is(name: str, isolated: bool) -> None:
    data = encode(np.tile(stereo_voice(), 3), name)
    with audio.open_blocks(data, options=AudioOptions(isolated=isolated)) as reader:
        samples = len(next(reader))
        assert reader.duration_s is not None
        estimate_s = reader.duration_s
        samples += sum(map(len, reader))
    assert estimate_s == pytest.approx(samples / SAMPLE_RATE, rel=0.1)
