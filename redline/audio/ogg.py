"""Ogg pages: which are whole, where one recording ends and the next begins, and how long each says that it is.

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

from redline.audio.reader import Reader
from redline.audio.splice import Part, Piece, Spliced

_MOST_PARTS = 1000
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


@dataclass
class _Stream:
    """One logical stream; its granules count samples of `rate`, `skip` of them before its start."""

    rate: int | None
    skip: int
    sequence: int
    granule: int = 0
    """The last one of a whole page, or a likely one of a damaged page behind it."""


@dataclass
class _Link:
    """One recording of a chain: its streams in their order, the pages of its headers, runs of whole pages."""

    start: int
    streams: dict[int, _Stream] = field(default_factory=dict)
    headers: list[tuple[int, int]] = field(default_factory=list)
    runs: list[list[int]] = field(default_factory=list)
    """From where to where, and how many pages were lost in front of it."""
    last: Page | None = None
    lost: int = 0
    """Pages lost behind the last run."""


def parts(reader: Reader) -> list[Part]:
    """What is to be decoded for itself, in order; the whole as it is where nothing is damaged or chained."""
    links = _links(reader)
    if len(links) == 1 and len(links[0].runs) == 1 and not links[0].lost:
        (only,) = links
        if only.start == 0 and only.runs[0][2] == 0:
            return [Part(reader, True, _ends_s(only))]
    found: list[Part] = []
    for place, link in enumerate(links):
        for number, (start, end, lost) in enumerate(link.runs):
            run: list[Piece] = _late_run(reader, start, end) if lost else [(start, end)]
            is_last = number == len(link.runs) - 1
            ends_s, lost_behind = (_ends_s(link), link.lost) if is_last else ((), 0)
            is_enough = len(found) == _MOST_PARTS - 1
            if is_enough:  # more is hostile; what is left out is told
                rest_s = sum(max((end_s or 0.0 for end_s in _ends_s(one)), default=0.0) for one in links[place + 1 :])
                ends_s = tuple(None if end_s is None else end_s + rest_s for end_s in _ends_s(link))
            found.append(Part(Spliced(reader, [*link.headers, *run]), number == 0, ends_s, lost, lost_behind))
            if is_enough:
                return found
    return found or [Part(reader)]


def _ends_s(link: _Link) -> tuple[float | None, ...]:
    return tuple(max(one.granule - one.skip, 0) / one.rate if one.rate else None for one in link.streams.values())


def _late_run(reader: Reader, start: int, end: int) -> list[Piece]:
    """The pages of a run behind others; a single last page says it is not the last, or FFmpeg starts it at zero."""
    page = reader.at(start, min(end - start, _LONGEST_PAGE))
    if end - start > len(page) or not page[5] & _ENDS or _page_bytes(page) != end - start:
        return [(start, end)]
    page = page[:5] + bytes((page[5] & ~_ENDS,)) + page[6:]
    return [page[:22] + struct.pack("<I", _checksum(page)) + page[26:]]


def _links(reader: Reader) -> list[_Link]:
    links: list[_Link] = []
    lost, end = 0, 0
    for page in pages(reader):
        link = links[-1] if links else None
        stream = link.streams.get(page.serial) if link else None
        if not page.is_whole:
            lost += 1
            if link and stream:
                _guess(stream, page.granule)
        elif page.flags & _BEGINS:
            if link is None or link.runs or stream or lost:
                if link:
                    is_ended = link.last is not None and link.last.flags & _ENDS and page.start == end
                    link.lost += lost or not is_ended
                    lost = 0
                link = _Link(page.start)
                links.append(link)
            link.streams[page.serial] = _stream(reader.at(page.start, min(page.end - page.start, 512)), page.sequence)
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
                    link.runs.append([page.start, page.end, max(lost, missed, 1) if is_lost else 0])
                link.runs[-1][1] = page.end
                lost = 0
            stream.sequence = page.sequence
            link.last = page
            if page.granule > 0:
                stream.granule = page.granule
        end = page.end if page.is_whole else -1
    if links:
        links[-1].lost += lost
    return [link for link in links if link.runs]


def _extend(ranges: list[tuple[int, int]], page: Page, end: int) -> None:
    if ranges and page.start == end == ranges[-1][1]:
        ranges[-1] = (ranges[-1][0], page.end)
    else:
        ranges.append((page.start, page.end))


def _guess(stream: _Stream, granule: int) -> None:
    """Believe a damaged page about its end, if a page can be that long."""
    if stream.rate and stream.granule < granule <= stream.granule + _LONGEST_PAGE_S * stream.rate:
        stream.granule = granule


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


def pages(reader: Reader) -> Iterator[Page]:
    """Every page that starts like one, damaged ones too."""
    position = 0
    at, chunk = 0, b""
    while True:
        if position + _LONGEST_PAGE > at + len(chunk) and at + len(chunk) < reader.size:
            at, chunk = position, reader.at(position, _CHUNK)
        place = chunk.find(b"OggS", position - at)
        if place < 0:
            if at + len(chunk) >= reader.size or not chunk:
                return
            position = max(at + len(chunk) - 3, position + 1)
            continue
        position = at + place
        if place + _LONGEST_PAGE > len(chunk) and at + len(chunk) < reader.size:
            at, chunk, place = position, reader.at(position, _CHUNK), 0
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
