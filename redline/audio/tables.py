"""The tables of an MP4 file: FFmpeg sets memory aside for every sample that they claim, before it reads one."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from redline.audio.collector import AudioOptions
from redline.audio.reader import Reader
from redline.errors import AudioLimitError, TruncatedAudioError

_PARENTS = frozenset((b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"udta", b"moof", b"traf", b"mvex"))
_LISTS = {b"stts": 8, b"ctts": 8, b"stsc": 12, b"stco": 4, b"co64": 8, b"stss": 4, b"elst": 12}
"""Tables of [version and flags, count, entries], and the bytes of an entry at least."""
_MOST_OTHER = 20_000
_BOXES_PER_S = 10.0  # of the duration allowed: fragments of most of a second
_SAMPLES_PER_S = 100.0  # frames of 1024 samples at 96 kHz, or pictures
_CUT_OFF = 16  # a file that holds less than this part of what its table claims never held it


@dataclass
class _Track:
    """What the tables of one track say."""

    is_sound: bool = False
    samples: int = 0
    sample_bytes: int = 0
    """0 where the table holds a size for each."""
    clock: tuple[int, ...] = ()
    """The first two numbers of the table of times: a count and the ticks of each."""
    clocks: int = 0
    chunks: int = 0
    runs: tuple[tuple[int, int], ...] = ()
    """(first chunk, samples in each) of the table of chunks."""

    def entries(self) -> int:
        """Entries of FFmpeg's index: one for each sample, but of plain PCM for each 1024 of a chunk."""
        if not self.is_sound or self.clocks != 1 or self.clock[1:] != (1,):
            return self.samples
        ends = [first for first, _ in self.runs[1:]] + [self.chunks + 1]
        counts = zip(self.runs, ends, strict=True)
        return sum(max(end - first, 0) * -(-samples // 1024) for (first, samples), end in counts)


def check(reader: Reader, options: AudioOptions) -> None:
    """Raise `AudioLimitError` or `TruncatedAudioError` where tables claim more than is allowed, or than the file holds."""
    most_boxes = _MOST_OTHER + _BOXES_PER_S * options.max_duration_s
    most_samples = _MOST_OTHER + _SAMPLES_PER_S * options.max_duration_s
    boxes = fragments = 0
    tracks: list[_Track] = []
    stack = [(0, reader.size)]
    while stack:
        position, end = stack.pop()
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
        stack.append((position + size, end))
        inner = (start, min(position + size, end))
        if name == b"trak":
            tracks.append(_Track())
        if name == b"cmov":
            raise AudioLimitError(f"{reader.name}: its tables are compressed, as of old; convert the recording")
        if name in _PARENTS:
            stack.append(inner)
        elif name in (b"meta", b"ilst"):  # in QuickTime's way without, in MP4's with four bytes in front
            stack.append((start + (4 if name == b"meta" and reader.at(start + 4, 4) != b"hdlr" else 0), inner[1]))
        elif name in (b"stsz", b"stz2") or name in _LISTS:
            _read_table(reader, name, start, tracks[-1] if tracks else _Track())
        elif name == b"hdlr" and tracks:
            tracks[-1].is_sound = reader.at(start + 8, 4) == b"soun"
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
    entries = fragments + sum(track.entries() for track in tracks)
    if entries > most_samples:
        raise AudioLimitError(
            f"{reader.name}: its tables claim {entries} samples, more than the {most_samples:.0f} allowed for "
            f"{options.max_duration_s:g} s; the file is broken, or raise max_duration_s"
        )


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
    if name == b"stts":
        track.clocks, track.clock = count, struct.unpack(">II", fields[4:12]) if len(fields) >= 12 else ()
    elif name in (b"stco", b"co64"):
        track.chunks = count
    elif name == b"stsc":
        rows = reader.at(start + 8, 12 * count)
        track.runs = tuple(struct.unpack_from(">II", rows, place) for place in range(0, len(rows) - 11, 12))


def _more_than_the_file(reader: Reader, count: int) -> TruncatedAudioError:
    return TruncatedAudioError(
        f"{reader.name}: a table claims {count} entries, more than its {reader.size} bytes can hold; "
        "it is cut off or damaged: get a complete copy"
    )
