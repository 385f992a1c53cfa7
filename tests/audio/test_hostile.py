"""Files made to do harm: many channels, little that claims much, lists without end, and 200 that were mutated."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from redline import audio
from redline.audio import AudioOptions, decode, isolation
from redline.audio.demux import packets
from redline.errors import AudioError, AudioLimitError
from redline.types import SAMPLE_RATE
from tests.audio import hostile_files
from tests.audio.audio_files import FILES, encode, recordings, sine, stereo_voice, written

HERE = AudioOptions(isolated=False)

# --- channels ---

MANY = [
    ("ipod", "aac", 44_100, "7.1(wide)"),
    ("adts", "aac", 48_000, "7.1(wide)"),
    ("matroska", "aac", 48_000, "7.1(wide)"),
    ("ipod", "alac", 44_100, "7.1(wide)"),
    ("ogg", "libopus", 48_000, "7.1"),
    ("webm", "libopus", 48_000, "7.1"),
    ("flac", "flac", 44_100, "7.1"),
    ("wav", "pcm_s16le", 44_100, "7.1"),
    ("matroska", "pcm_s16le", 16_000, "hexadecagonal"),
]


def is_the_voice(samples: np.ndarray) -> bool:
    want = stereo_voice()[0]
    size = 1 << (len(want) + len(samples)).bit_length()
    cross = np.fft.irfft(np.fft.rfft(samples, size) * np.conj(np.fft.rfft(want, size)))
    return float(cross.max()) > 0.9 * float(np.linalg.norm(samples) * np.linalg.norm(want))


@pytest.mark.parametrize("isolated", [True, False])
@pytest.mark.parametrize(("form", "codec", "rate", "layout"), MANY, ids=str)
def test_eight_channels_and_more_give_their_words(
    form: str, codec: str, rate: int, layout: str, isolated: bool
) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    data = hostile_files.many_channels(form, codec, rate, layout)
    for channel in (None, 0, 7):
        wave = audio.load(data, options=AudioOptions(channel=channel, isolated=isolated))
        assert wave.duration == pytest.approx(2.016, abs=0.1)
        assert is_the_voice(wave.samples)


@pytest.mark.parametrize("channels", [8, 12])
def test_vorbis_of_many_channels_is_read(channels: int) -> None:
    sound = np.repeat(stereo_voice()[0][:, np.newaxis], channels, axis=1)
    assert is_the_voice(audio.load(written(sound, SAMPLE_RATE, "OGG", "VORBIS")).samples)


@pytest.mark.parametrize("isolated", [True, False])
def test_a_later_frame_of_more_channels_is_checked_before_it_is_read(isolated: bool) -> None:
    mono = hostile_files.many_channels("adts", "aac", 48_000, "mono")
    many = hostile_files.many_channels("adts", "aac", 48_000, "7.1(wide)")
    wave = audio.load(mono + many + mono, options=AudioOptions(isolated=isolated))
    assert wave.duration == pytest.approx(3 * 2.016, abs=0.3)
    for first, second in ((mono, many), (many, mono)):
        with pytest.raises(AudioLimitError, match="8 channels; allowed are 1 to 2"):
            audio.load(first + second, options=AudioOptions(max_channels=2, isolated=isolated))


@pytest.mark.parametrize("configuration", range(16))
def test_every_channel_configuration_that_a_header_can_claim_is_survived(configuration: int) -> None:
    data = bytearray(hostile_files.many_channels("adts", "aac", 48_000, "mono"))
    position, number = 0, 0
    while position < len(data):
        size = (data[position + 3] & 3) << 11 | data[position + 4] << 3 | data[position + 5] >> 5
        if number > 20:
            data[position + 2] = data[position + 2] & 0xFE | configuration >> 2
            data[position + 3] = data[position + 3] & 0x3F | (configuration & 3) << 6
        position, number = position + size, number + 1
    for options in (HERE, AudioOptions()):
        assert audio.load(bytes(data), options=options).duration > 0.3


# --- small files, large memory; small files, long time ---


def test_silence_for_gaps_is_bounded_by_the_sound_and_told() -> None:
    for make in (hostile_files.LARGE["mp4-gaps"], hostile_files.LARGE["ogg-gaps"]):
        wave = audio.load(make())
        assert wave.duration < 1900
        (jump,) = (notice for notice in wave.warnings if notice.code == "time_jump")
        assert "s ahead; later times count the sound alone" in jump.message
        assert jump.start is not None and 1700 < jump.start < 1900


def test_a_claim_beyond_the_limit_is_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    planar = decode._planar

    def counted(frame: av.AudioFrame) -> np.ndarray:
        decoded.append(frame.samples)
        return planar(frame)

    monkeypatch.setattr(decode, "_planar", counted)
    with pytest.raises(AudioLimitError, match="longer than the 43200 s"):
        audio.load(hostile_files.silent_flac(13.0, 13.0), options=HERE)
    assert not decoded
    for claimed_hours in (0.0, 0.001, 11.0):
        decoded.clear()
        with pytest.raises(AudioLimitError, match="longer than the 43200 s"):
            audio.load(hostile_files.silent_flac(13.0, claimed_hours), options=HERE)
        assert sum(decoded) < 1000 * 8000


def test_a_header_that_claims_too_much_does_not_refuse_a_short_recording() -> None:
    data = bytearray(hostile_files.silent_flac(0.1, 20.0))
    assert audio.load(bytes(data)).duration == pytest.approx(360, abs=9)


def test_long_recordings_within_the_limit_are_still_read() -> None:
    assert audio.load(hostile_files.silent_flac(0.5, 0.5)).duration == pytest.approx(1800, abs=9)
    assert audio.load(encode(np.tile(stereo_voice(), 4), "m4a")).warnings == ()


@pytest.mark.parametrize("isolated", [True, False])
def test_edits_that_play_a_moment_for_hours_count_as_hours(isolated: bool) -> None:
    options = AudioOptions(max_duration_s=600, isolated=isolated)
    with pytest.raises(AudioLimitError, match="longer than the 600 s"):
        audio.load(hostile_files.plays_again_and_again(20_000), options=options)


MEASURE = """
import resource, sys
from pathlib import Path
from redline import audio
from redline.audio import isolation
from redline.errors import AudioError
def used_s(who):
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime
for path in sys.argv[1:]:
    before = used_s(resource.RUSAGE_SELF) + used_s(resource.RUSAGE_CHILDREN)
    try:
        audio.load(path)
        seen = "read"
    except AudioError as error:
        seen = type(error).__name__
        assert len(str(error)) < 700 + len(path)
    peaks = []
    for process in ["self", *(worker.process.pid for worker in isolation._idle)]:
        status = Path(f"/proc/{process}/status").read_text().split()
        peaks.append(int(status[status.index("VmHWM:") + 1]) / 1024)
    isolation.end_idle()
    print(Path(path).name, seen, used_s(resource.RUSAGE_SELF) + used_s(resource.RUSAGE_CHILDREN) - before, max(peaks))
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("hostile")
    paths = []
    for name, make in (hostile_files.LARGE | hostile_files.SLOW).items():
        paths.append(folder / name)
        paths[-1].write_bytes(make())
    return paths


READ = ("mp4-gaps", "matroska-gaps", "ogg-gaps", "flac-blocks", "flac-seek-points", "wav-chunks-behind")
"""What costs no more than an ordinary recording."""


@pytest.mark.skipif(sys.platform != "linux", reason="limits that only Linux keeps")
def test_no_hostile_file_takes_much_memory_or_time(hostile: list[Path]) -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE, *map(str, hostile)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [name for name, seen, *_ in lines if seen == "read"] == list(READ)
    assert len(lines) == len(hostile)
    assert max(float(used_s) for _, _, used_s, _ in lines) < 5, done.stdout
    assert max(float(peak_mb) for *_, peak_mb in lines) < 300, done.stdout


def test_real_lists_are_no_floods() -> None:
    for data in (
        hostile_files.flac_comments(900),
        hostile_files.matroska_tags(900),
        hostile_files.wav_tags(900),
        hostile_files.wav_chunks(9000, 12),
        hostile_files.wav_chunks(9000, 36),
        hostile_files.flac_blocks(90),
        hostile_files.flac_seek_points(9),
        hostile_files.plays_again_and_again(1),
        hostile_files.id3_tags(9),
    ):
        assert audio.load(data).duration >= 0.1


def test_silence_behind_a_wav_that_claims_too_little_is_no_flood_of_chunks() -> None:
    sound = (sine(1.0) * 32767).astype("<i2").tobytes()
    data = written(sine(1.0), SAMPLE_RATE)[:44] + sound + bytes(2_000_000) + sound
    assert audio.load(data).duration >= 1.0


def test_a_lack_of_memory_is_an_audio_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("redline.audio.demux.packets", full)
    with pytest.raises(AudioLimitError, match=r"<bytes>.*more memory"):
        audio.load(written(sine(5.0), SAMPLE_RATE), options=HERE)


def test_a_stream_that_appears_on_the_way_does_not_spoil_the_others() -> None:
    def demux(_: object) -> Iterator[str]:
        yield from ("first", "last")
        raise IndexError("list index out of range")

    container: Any = SimpleNamespace(demux=demux)
    assert list(packets(container, container)) == ["first", "last"]


# --- mutated ---


def mutated(data: bytes, random: np.random.Generator) -> bytes:
    """One to eight changes: bits, bytes, large numbers, cuts, doubled and swapped pieces; many near the start."""
    out = bytearray(data)
    for _ in range(int(random.integers(1, 9))):
        place = int(random.integers(0, len(out) if random.random() < 0.5 else min(len(out), 400)))
        size = int(random.integers(1, 200))
        kind = int(random.integers(0, 6))
        if kind == 0:
            out[place] ^= 1 << int(random.integers(0, 8))
        elif kind == 1:
            out[place : place + size] = random.bytes(len(out[place : place + size]))
        elif kind == 2:
            number = int(random.choice([0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]))
            out[place : place + 4] = struct.pack(">I", number)
        elif kind == 3:
            out = out[: max(place, 16)]
        elif kind == 4:
            out[place:place] = out[place : place + size]
        else:
            del out[place : place + size]
        if len(out) < 16:
            out += bytes(16)
    return bytes(out)


@pytest.mark.parametrize("name", FILES)
def test_two_hundred_mutated_files_crash_hang_and_fill_nothing(name: str) -> None:
    data = recordings()[name]
    random = np.random.default_rng([ord(letter) for letter in name])
    for number in range(16):
        part = mutated(data, random)
        try:
            wave = audio.load(part, options=AudioOptions(max_duration_s=600))
        except AudioLimitError as error:
            assert "hangs" not in str(error) and "takes far longer" not in str(error), (name, number)
        except AudioError as error:
            assert "ended the worker process" not in str(error), (name, number)
            assert "nobody thought of" not in str(error), (name, number, str(error))
        else:
            assert np.isfinite(wave.samples).all()
    isolation.end_idle()
