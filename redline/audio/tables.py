"""The tables of an MP4 file: FFmpeg sets memory aside for every sample that they claim, before it reads one."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from redline.audio.collector import AudioOptions
from redline.audio.reader import Reader
from redline.errors import AudioLimitError, TruncatedAudioError

_PARENTS = frozenset(
    (b"ilst", b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"udta", b"moof", b"traf", b"mvex")
)
_LISTS = {b"stts": 8, b"ctts": 8, b"stsc": 12, b"stco": 4, b"co64": 8, b"stss": 4, b"elst": 12}
"""Tables of [version and flags, count, entries], and the bytes of an entry at least."""
_MOST_OTHER = 20_000
_BOXES_PER_S = 10.0  # of the duration allowed: fragments of most of a second
_SAMPLES_PER_S = 100.0  # frames of 1024 samples at 96 kHz, or pictures
_PLAYED = 4.0  # times that a list of edits may play a track on average
_CUT_OFF = 16  # a file that holds less than this part of what its table claims never held it


@dataclass
class _Track:
    """What the tables of one track say."""

    is_sound: bool = False
    samples: int = 0
    sample_bytes: int = 0
    """0 where the table holds a size for each."""
    clock: NDArray[np.uint32] = field(default_factory=lambda: np.zeros((0, 2), np.uint32))
    """Rows of the table of times: a count and the ticks of each."""
    ticks_per_s: int = 0
    chunks: int = 0
    runs: NDArray[np.uint32] = field(default_factory=lambda: np.zeros((0, 3), np.uint32))
    """Rows of the table of chunks: the first chunk, the samples in each, its description."""
    played: int = 0
    """Ticks of the movie's clock that the list of edits plays."""

    def entries(self) -> int:
        """Entries of FFmpeg's index: one for each sample, but of plain PCM for each 1024 of a chunk."""
        if not self.is_sound or len(self.clock) != 1 or self.clock[0, 1] != 1:
            return self.samples
        firsts = np.append(self.runs[:, 0], self.chunks + 1).astype(np.float64)
        return int(np.sum(np.diff(firsts).clip(min=0) * np.ceil(self.runs[:, 1] / 1024)))

    def seconds(self) -> float:
        """The length of all samples."""
        return float(np.sum(np.prod(self.clock.astype(np.float64), axis=1))) / max(self.ticks_per_s, 1)


def check(reader: Reader, options: AudioOptions) -> int:
    """How many tags there are.

    Raises `AudioLimitError` or `TruncatedAudioError` where tables claim more than is allowed, or than the file holds.
    """
    most_boxes = _MOST_OTHER + _BOXES_PER_S * options.max_duration_s
    most_samples = _MOST_OTHER + _SAMPLES_PER_S * options.max_duration_s
    boxes = fragments = tags = ticks_per_s = 0
    tracks: list[_Track] = []
    stack = [(0, reader.size, b"")]
    while stack:
        position, end, parent = stack.pop()
        head = reader.at(position, 16)
        if position + 8 > end or len(head) < 8:
            continue
        size, name = struct.unpack(">I4s", head[:8])
        start = position + 8
        if size == 1 and len(head) == 16:
            size, start = struct.unpack(">Q", head[8:])[0], position + 16
        size = end - position if size == 0 else size
        if size < start - position:
            continue
        boxes += 1
        tags += parent in (b"ilst", b"udta")
        stack.append((position + size, end, parent))
        inner = min(position + size, end)
        if name == b"trak":
            tracks.append(_Track())
        if name == b"cmov":
            raise AudioLimitError(f"{reader.name}: its tables are compressed, as of old; convert the recording")
        if name in _PARENTS:
            stack.append((start, inner, name))
        elif name == b"meta":  # in QuickTime's way without, in MP4's with four bytes in front
            stack.append((start + (0 if reader.at(start + 4, 4) == b"hdlr" else 4), inner, name))
        elif name in (b"stsz", b"stz2") or name in _LISTS:
            _read_table(reader, name, start, tracks[-1] if tracks else _Track())
        elif name == b"hdlr" and parent == b"mdia" and tracks:
            tracks[-1].is_sound = reader.at(start + 8, 4) == b"soun"
        elif name == b"mvhd":
            ticks_per_s = _ticks_per_s(reader, start)
        elif name == b"mdhd" and tracks:
            tracks[-1].ticks_per_s = _ticks_per_s(reader, start)
        elif name == b"trun":
            fragments += int.from_bytes(reader.at(start + 4, 4), "big")
        if boxes > most_boxes:
            raise AudioLimitError(
                f"{reader.name}: more than {most_boxes:.0f} boxes, too many for {options.max_duration_s:g} s of sound; "
                "convert the recording, or raise max_duration_s"
            )
    for track in tracks:
        if track.sample_bytes * track.samples > _CUT_OFF * max(reader.size, 1 << 20):
            raise _more_than_the_file(reader, track.samples)
        played_s = track.played / max(ticks_per_s, 1)
        if track.is_sound and not fragments and played_s > _PLAYED * track.seconds() + 60:
            raise AudioLimitError(
                f"{reader.name}: its list of edits plays {track.seconds():.3f} s of sound for {played_s:.3f} s; "
                "the file is broken, or made to do harm: convert it"
            )
    entries = fragments + sum(track.entries() for track in tracks)
    if entries > most_samples:
        raise AudioLimitError(
            f"{reader.name}: its tables claim {entries} samples, more than the {most_samples:.0f} allowed for "
            f"{options.max_duration_s:g} s; the file is broken, or raise max_duration_s"
        )
    return tags


def _read_table(reader: Reader, name: bytes, start: int, track: _Track) -> None:
    """Note what one table says; its entries must have room in the file."""
    fields = reader.at(start + 4, 16)
    if len(fields) < 8:
        return
    first, second = struct.unpack(">II", fields[:8])
    count, entry_bits = first, 8 * _LISTS.get(name, 0)
    if name in (b"stsz", b"stz2"):
        count, track.samples = second, max(track.samples, second)
        track.sample_bytes = first if name == b"stsz" else 0
        entry_bits = (0 if first else 32) if name == b"stsz" else 4
    if count * entry_bits > 8 * reader.size:
        raise _more_than_the_file(reader, count)
    if name in (b"stco", b"co64"):
        track.chunks = count
    elif name == b"stts":
        track.clock = _rows(reader, start + 8, count, 2)
    elif name == b"stsc":
        track.runs = _rows(reader, start + 8, count, 3)
    elif name == b"elst" and reader.at(start, 1) == b"\1":  # 64 bits each of length and place, 32 of rate
        rows = _rows(reader, start + 8, count, 5)
        track.played = int(np.sum(rows[:, 0] * 2.0**32 + rows[:, 1]))
    elif name == b"elst":
        track.played = int(np.sum(_rows(reader, start + 8, count, 3)[:, 0], dtype=np.float64))


def _rows(reader: Reader, start: int, count: int, width: int) -> NDArray[np.uint32]:
    """Rows of 32-bit numbers, as many as are there."""
    data = reader.at(start, 4 * width * count)
    return np.frombuffer(data[: len(data) // (4 * width) * 4 * width], ">u4").reshape(-1, width).astype(np.uint32)


def _ticks_per_s(reader: Reader, start: int) -> int:
    """The clock of a movie's or a track's header."""
    return int.from_bytes(reader.at(start + (20 if reader.at(start, 1) == b"\1" else 12), 4), "big")


def _more_than_the_file(reader: Reader, count: int) -> TruncatedAudioError:
    return TruncatedAudioError(
        f"{reader.name}: a table claims {count} entries, more than its {reader.size} bytes can hold; "
        "it is cut off or damaged: get a complete copy"
    )
