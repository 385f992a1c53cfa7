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

from redline.audio.source import Bytes, Piece

_CHUNK = 1 << 20
_HEAD_BYTES = 27
_LONGEST_PAGE = _HEAD_BYTES + 255 + 255 * 255
_LONGEST_PAGE_S = 31.0  # 255 packets of 120 ms
_BEGINS, _ENDS = 2, 4
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class Page(NamedTuple):
    """A page: where it is, its header, and whether its checksum is right."""

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

    rate: int
    skip: int
    sequence: int
    granule: int = 0
    """The last one of a whole page, or a likely one of a damaged page behind it."""

    @property
    def end_s(self) -> float | None:
        return max(self.granule - self.skip, 0) / self.rate if self.rate else None


@dataclass
class _Link:
    """A recording of a chain: its streams in their order, the ranges of its header pages, its runs of whole pages."""

    start: int
    streams: dict[int, _Stream] = field(default_factory=dict)
    headers: list[tuple[int, int]] = field(default_factory=list)
    runs: list[tuple[int, int]] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    """How many pages were lost in front of each run."""
    lost_behind: int = 0
    is_ended: bool = False


def parts(source: Bytes) -> list[Part]:
    """What is to be decoded for itself, in order: the file as it is where nothing is damaged or chained."""
    links = [link for link in _links(source) if link.runs]
    decodable: list[Part] = []
    for link in links:
        ends_s = tuple(stream.end_s for stream in link.streams.values())
        if len(links) == len(link.runs) == 1 and link.start == link.lost[0] == 0:
            return [Part(source, True, ends_s, 0, link.lost_behind)]
        for number, (run, lost) in enumerate(zip(link.runs, link.lost, strict=True)):
            pages_of_run = source.join([*link.headers, _without_end(source, *run) if lost else run])
            behind = (ends_s, lost, link.lost_behind) if number == len(link.runs) - 1 else ((), lost, 0)
            decodable.append(Part(pages_of_run, number == 0, *behind))
    return decodable or [Part(source)]


def last_page_is_cut(source: Bytes) -> bool:
    """Whether the last page is not all there, or says that more follow."""
    tail = source.at(max(source.size - 2 * _LONGEST_PAGE, 0), 2 * _LONGEST_PAGE)
    page = tail[max(tail.rfind(b"OggS"), 0) :]
    return not 0 < _page_bytes(page) <= len(page) or not page[5] & _ENDS


def _without_end(source: Bytes, start: int, end: int) -> Piece:
    """A run behind others; a single last page must not say it is the last, or FFmpeg starts it at zero."""
    page = source.at(start, min(end - start, _LONGEST_PAGE))
    if _page_bytes(page) != end - start or not page[5] & _ENDS:
        return start, end
    page = page[:5] + bytes((page[5] & ~_ENDS,)) + page[6:]
    return page[:22] + struct.pack("<I", _checksum(page)) + page[26:]


def _links(source: Bytes) -> list[_Link]:
    links: list[_Link] = []
    lost, end = 0, 0  # pages lost since the last whole one, and where that ended
    for page in pages(source):
        link = links[-1] if links else None
        stream = link.streams.get(page.serial) if link else None
        if not page.is_whole:
            lost += 1
            if stream and 0 < page.granule - stream.granule <= _LONGEST_PAGE_S * stream.rate:
                stream.granule = page.granule
        elif page.flags & _BEGINS:
            if link is None or link.runs or stream or lost:
                if link:
                    link.lost_behind += lost or not (link.is_ended and page.start == end)
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
            elif link.runs and page.start == end and not missed:
                link.runs[-1] = link.runs[-1][0], page.end
                lost = 0
            else:  # a live recording may start anywhere, right behind the headers
                link.runs.append((page.start, page.end))
                link.lost.append(0 if len(link.runs) == 1 and page.start == end else max(lost, missed, 1))
                lost = 0
            stream.sequence, link.is_ended = page.sequence, bool(page.flags & _ENDS)
            stream.granule = page.granule if page.granule > 0 else stream.granule
        end = page.end if page.is_whole else -1
    if links:
        links[-1].lost_behind += lost
    return links


def _extend(ranges: list[tuple[int, int]], page: Page, end: int) -> None:
    follows = bool(ranges) and page.start == end == ranges[-1][1]
    ranges.append((ranges.pop()[0] if follows else page.start, page.end))


def _stream(page: bytes, sequence: int) -> _Stream:
    """A stream by its first page; its rate is 0 where it is no sound that is known here."""
    packet = page[_HEAD_BYTES + page[26] :].ljust(40, b"\0")
    rate, skip = 0, 0
    if packet.startswith(b"OpusHead"):
        rate, skip = 48_000, int.from_bytes(packet[10:12], "little")
    elif packet.startswith(b"\x01vorbis"):
        rate = int.from_bytes(packet[12:16], "little")
    elif packet.startswith(b"Speex   "):
        rate = int.from_bytes(packet[36:40], "little")
    elif packet.startswith(b"\x7fFLAC"):
        rate = int.from_bytes(packet[27:30], "big") >> 4
    return _Stream(rate, skip, sequence)


def pages(source: Bytes) -> Iterator[Page]:
    """Every page that starts like one, damaged ones too."""
    position = 0
    while head := source.at(position, _HEAD_BYTES + 255):
        if not head.startswith(b"OggS"):
            chunk = source.at(position, _CHUNK)
            place = chunk.find(b"OggS")
            position += place if place >= 0 else max(len(chunk) - 3, 1)
            continue
        size = _page_bytes(head)
        page = source.at(position, size)
        if size == 0:
            return
        flags, granule, serial, sequence, checksum = struct.unpack("<xBqIII", head[4:26])
        is_whole = len(page) == size and _checksum(page) == checksum
        granule = granule if len(page) == size else 0  # of a recording that is cut, nobody knows its end
        end = position + (size if is_whole or source.at(position + size, 4) == b"OggS" else 4)
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
