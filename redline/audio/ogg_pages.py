"""Ogg pages: which are whole, where one recording of a chain ends and the next begins, and how long each says it is.

FFmpeg drops a page whose checksum is wrong without a word, takes the page behind it for its successor, and loses short
recordings that are chained. So each recording, and each run of whole pages in it, is given to it as a file of its own.
Source: RFC 3533, RFC 7845 (Opus).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from redline.audio.source import Bytes, FileBytes, JoinedBytes

_CHUNK = 1 << 20
_HEAD_BYTES = 27
_LONGEST_PAGE = _HEAD_BYTES + 255 + 255 * 255
_LONGEST_PAGE_S = 31.0  # 255 packets of 120 ms
_BEGINS, _ENDS = 2, 4
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class Page(NamedTuple):
    """One page: where it is, what its header says, and whether its bytes are those that its checksum was made of."""

    start: int
    end: int
    flags: int
    granule: int
    serial: int
    sequence: int
    is_whole: bool


@dataclass(frozen=True)
class Part:
    """A run of bytes that is decoded by itself: a recording, or what is left of one behind a damage."""

    source: Bytes
    begins: bool = True
    """A recording starts here; otherwise its time line goes on."""
    ends_s: tuple[float | None, ...] = ()
    """When this recording's streams end by its own time line, of the last part of it, where that is known."""
    lost: int = 0
    """Pages that were damaged or missing in front of this part, and behind it."""
    lost_behind: int = 0


@dataclass
class _Stream:
    """A logical stream; its granules count samples of `rate`, `skip` of them before its start."""

    rate: int | None
    skip: int
    sequence: int
    granule: int = 0
    """The last one of a whole page, or a likely one of a damaged page behind it."""

    @property
    def end_s(self) -> float | None:
        return max(self.granule - self.skip, 0) / self.rate if self.rate else None


@dataclass
class _Run:
    """Whole pages in a row, and how many pages were lost in front of them."""

    start: int
    end: int
    lost: int

    @property
    def span(self) -> tuple[int, int]:
        return self.start, self.end


@dataclass
class _Link:
    """One recording of a chain: its streams in their order, the ranges of its header pages, its runs of pages."""

    start: int
    streams: dict[int, _Stream] = field(default_factory=dict)
    headers: list[tuple[int, int]] = field(default_factory=list)
    runs: list[_Run] = field(default_factory=list)
    last: Page | None = None
    lost: int = 0
    """Pages lost behind the last run."""


def parts(source: FileBytes) -> list[Part]:
    """What is to be decoded for itself, in order: the file as it is where nothing is damaged or chained."""
    links = [link for link in _links(source) if link.runs]
    made: list[Part] = []
    for link in links:
        ends_s = tuple(stream.end_s for stream in link.streams.values())
        if len(links) == len(link.runs) == 1 and link.start == link.runs[0].lost == 0:
            return [Part(source, True, ends_s, 0, link.lost)]
        for run in link.runs:
            joined = JoinedBytes(source, [*link.headers, _without_end(source, run) if run.lost else run.span])
            behind = (ends_s, run.lost, link.lost) if run is link.runs[-1] else ((), run.lost, 0)
            made.append(Part(joined, run is link.runs[0], *behind))
    return made or [Part(source)]


def is_cut(source: FileBytes) -> bool:
    """Whether the last page is not all there, or says that more follow."""
    tail = source.at(max(source.size - 2 * _LONGEST_PAGE, 0), 2 * _LONGEST_PAGE)
    page = tail[max(tail.rfind(b"OggS"), 0) :]
    return not 0 < _page_bytes(page) <= len(page) or not page[5] & _ENDS


def _without_end(source: FileBytes, run: _Run) -> tuple[int, int] | bytes:
    """A run behind others; a single last page must not say it is the last, or FFmpeg starts it at zero."""
    page = source.at(run.start, min(run.end - run.start, _LONGEST_PAGE))
    if run.end - run.start > len(page) or not page[5] & _ENDS or _page_bytes(page) != len(page):
        return run.span
    page = page[:5] + bytes((page[5] & ~_ENDS,)) + page[6:]
    return page[:22] + struct.pack("<I", _checksum(page)) + page[26:]


def _links(source: FileBytes) -> list[_Link]:
    links: list[_Link] = []
    lost, end = 0, 0  # pages lost since the last whole one, and where that ended
    for page in pages(source):
        link = links[-1] if links else None
        stream = link.streams.get(page.serial) if link else None
        if not page.is_whole:
            lost += 1
            if stream and stream.rate and 0 < page.granule - stream.granule <= _LONGEST_PAGE_S * stream.rate:
                stream.granule = page.granule
        elif page.flags & _BEGINS:
            if link is None or link.runs or stream or lost:
                if link:
                    is_ended = link.last is not None and link.last.flags & _ENDS and page.start == end
                    link.lost += lost or not is_ended
                    lost = 0
                link = _Link(page.start)
                links.append(link)
            link.streams[page.serial] = _stream(source.at(page.start, min(page.end - page.start, 512)), page.sequence)
            _extend(link.headers, page, end)
        elif link is None or stream is None:
            lost += 1  # of a recording whose first page is damaged
        else:
            missed = page.sequence - stream.sequence - 1
            if not link.runs and page.granule in (0, -1):
                _extend(link.headers, page, end)
            else:
                # A live recording may start anywhere, right behind the headers.
                is_lost = page.start != end or (missed and link.runs)
                if is_lost or not link.runs:
                    link.runs.append(_Run(page.start, page.end, max(lost, missed, 1) if is_lost else 0))
                link.runs[-1].end = page.end
                lost = 0
            stream.sequence = page.sequence
            link.last = page
            stream.granule = page.granule if page.granule > 0 else stream.granule
        end = page.end if page.is_whole else -1
    if links:
        links[-1].lost += lost
    return links


def _extend(ranges: list[tuple[int, int]], page: Page, end: int) -> None:
    if ranges and page.start == end == ranges[-1][1]:
        ranges[-1] = (ranges[-1][0], page.end)
    else:
        ranges.append((page.start, page.end))


def _stream(page: bytes, sequence: int) -> _Stream:
    """A stream by its first page; its rate is None where it is no sound that is known here."""
    packet = page[_HEAD_BYTES + page[26] :]
    rate, skip = None, 0
    if packet.startswith(b"OpusHead") and len(packet) >= 12:
        rate, skip = 48_000, struct.unpack("<H", packet[10:12])[0]
    elif packet.startswith(b"\x01vorbis") and len(packet) >= 16:
        rate = struct.unpack("<I", packet[12:16])[0]
    elif packet.startswith(b"Speex   ") and len(packet) >= 40:
        rate = struct.unpack("<I", packet[36:40])[0]
    elif packet.startswith(b"\x7fFLAC") and len(packet) >= 30:
        rate = int.from_bytes(packet[27:30], "big") >> 4
    return _Stream(rate or None, skip, sequence)


def pages(source: FileBytes) -> Iterator[Page]:
    """Every page that starts like one, damaged ones too."""
    position = 0
    at, chunk = 0, b""  # where the bytes at hand start
    while True:
        if position + _LONGEST_PAGE > at + len(chunk) and at + len(chunk) < source.size:
            at, chunk = position, source.at(position, _CHUNK)
        place = chunk.find(b"OggS", position - at)
        if place < 0:
            if at + len(chunk) >= source.size or not chunk:
                return
            position = max(at + len(chunk) - 3, position + 1)
            continue
        if place > position - at:
            position = at + place
            continue
        size = _page_bytes(chunk[place : place + _HEAD_BYTES + 255])
        page = chunk[place : place + size]
        if size == 0 or len(page) < _HEAD_BYTES:
            return
        flags, granule, serial, sequence, checksum = struct.unpack("<xBqIII", page[4:26])
        is_whole = len(page) == size and _checksum(page) == checksum
        granule = granule if len(page) == size else 0  # of a recording that is cut, nobody knows its end
        follows = chunk[place + size : place + size + 4]
        end = position + (size if is_whole or follows == b"OggS" else 4)
        yield Page(position, end, flags, granule, serial, sequence, is_whole)
        position = end


def _page_bytes(page: bytes) -> int:
    """Length of the page that starts with these bytes, by its table; 0 where the table is not all there."""
    if len(page) < _HEAD_BYTES or len(page) < _HEAD_BYTES + page[26]:
        return 0
    return _HEAD_BYTES + page[26] + sum(page[_HEAD_BYTES : _HEAD_BYTES + page[26]])


def _checksum(page: bytes) -> int:
    """Ogg's CRC of a page: that of zlib with the bits of each byte and of the result the other way round."""
    plain = page[:22] + bytes(4) + page[26:]
    crc = zlib.crc32(plain.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)
