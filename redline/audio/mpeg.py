"""Runs of coded frames without a container (MP3, AAC, AC-3, AMR, GSM): where each ends, and where recordings join."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator

from redline.audio.reader import Reader

HEADER_BYTES = 6
"""What `frame_bytes` needs to see of a frame."""
_CHUNK = 1 << 20
_HEAD_BYTES = 1 << 15
_MOST_TAGS = 10_000
_TAG = re.compile(rb"ID3[\x02-\x04]|APETAGEX|TAG")
_APE_FOOTER_BYTES = 32
_ID3V1_BYTES = 128


def frame_bytes(header: bytes) -> int:
    """Length of the MPEG audio or ADTS AAC frame that starts with these 6 bytes; 0 when none does."""
    if len(header) < 6 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return 0
    if header[1] & 0xF6 == 0xF0:  # ADTS: 12 bits of sync, layer 0
        length = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
        return length if (header[2] >> 2 & 15) < 13 and length > 7 else 0
    version, layer, bitrate, rate = header[1] >> 3 & 3, header[1] >> 1 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer == 0 or bitrate in (0, 15) or rate == 3:
        return 0
    kbps = _KBPS[version == 3, layer][bitrate - 1]
    rate_hz = (44_100, 48_000, 32_000)[rate] >> {3: 0, 2: 1, 0: 2}[version]  # MPEG 1, 2 and 2.5
    padding = header[2] >> 1 & 1
    if layer == 3:  # layer I counts in slots of four bytes
        return 4 * (12_000 * kbps // rate_hz + padding)
    return (72 if layer == 1 and version != 3 else 144) * 1000 * kbps // rate_hz + padding


_KBPS = {
    (True, 3): tuple(range(32, 449, 32)),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 1): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 3): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 1): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Kilobits a second, by whether it is MPEG 1 and by layer (3 is I, 2 is II, 1 is III, as the header writes them)."""


def ac3_bytes(header: bytes) -> int:
    """Length of the AC-3 or E-AC-3 frame that starts with these 6 bytes; 0 when none does."""
    if len(header) < 6 or header[:2] != b"\x0b\x77":
        return 0
    if header[5] >> 3 > 10:
        return 2 * ((header[2] & 7) << 8 | header[3]) + 2
    rate, size = header[4] >> 6, header[4] & 63
    if rate == 3 or size > 37:
        return 0
    kbps = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)[size // 2]
    return 2 * (kbps * 96_000 // (48_000, 44_100, 32_000)[rate] + (size % 2 if rate == 1 else 0))


def loas_bytes(header: bytes) -> int:
    """Length of the AAC frame in LATM that starts with these bytes; 0 when none does."""
    return 3 + ((header[1] & 0x1F) << 8 | header[2]) if len(header) > 2 and _starts(header, 0x56E0, 0xFFE0) else 0


def gsm_bytes(header: bytes) -> int:
    """Length of the GSM full-rate frame that starts with these bytes; 0 when none does."""
    return 33 if header[:1] and header[0] >> 4 == 0xD else 0


def _amr_bytes(header: bytes) -> int:
    """Length of a narrow-band AMR frame, by the type that its first byte tells."""
    return (13, 14, 16, 18, 20, 21, 27, 32, 6, 1, 1, 1, 1, 1, 1, 1)[header[0] >> 3 & 15] if header else 0


def _awb_bytes(header: bytes) -> int:
    """The same of wide-band AMR."""
    return (18, 24, 33, 37, 41, 47, 51, 59, 61, 6, 1, 1, 1, 1, 1, 1)[header[0] >> 3 & 15] if header else 0


def _starts(header: bytes, mark: int, mask: int) -> bool:
    return int.from_bytes(header[:2], "big") & mask == mark


def frame_length(form: str, head: bytes) -> Callable[[bytes], int] | None:
    """What tells the length of a frame in a container of frames only; None where the container itself has lengths."""
    if form == "amr":
        return _awb_bytes if head.startswith(b"#!AMR-WB") else _amr_bytes
    lengths = {"mp3": frame_bytes, "aac": frame_bytes, "ac3": ac3_bytes, "eac3": ac3_bytes, "loas": loas_bytes}
    return {**lengths, "gsm": gsm_bytes}.get(form)


def first_frame(head: bytes, length_of: Callable[[bytes], int], frames: int = 3, search: int = 4096) -> int | None:
    """Where a run of frames starts: some in a row, or all of a very short file."""
    for start in range(min(len(head), search)):
        position = start
        for _ in range(frames):
            length = length_of(head[position : position + HEADER_BYTES])
            position += length
            if length == 0 or position >= len(head):
                break
        if length and (position < len(head) or start == 0):
            return start
    return None


def id3_bytes(head: bytes) -> int:
    """Length of the ID3v2 tag that starts with these 10 bytes; 0 when none does."""
    if len(head) < 10 or head[:3] != b"ID3" or not 2 <= head[3] <= 4 or max(head[6:10]) > 0x7F:
        return 0
    size = sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    return 10 + size + (10 if head[5] & 0x10 else 0)


def sound_in_tag(reader: Reader, start: int, size: int) -> int | None:
    """Where frames of sound start inside an ID3 tag whose length is a lie, counted from the tag; None where none do.

    Behind its entries a tag has nothing but zeros.
    """
    version = reader.at(start, 10)[3]
    position, name_bytes = 10, 3 if version == 2 else 4
    for _ in range(1000):
        entry = reader.at(start + position, 10)
        name = entry[:name_bytes]
        if position >= size or len(entry) < 10 or not re.fullmatch(rb"[A-Z0-9]{3,4}", name):
            break
        if version == 2:
            position += 6 + int.from_bytes(entry[3:6], "big")
        elif version == 3:
            position += 10 + struct.unpack(">I", entry[4:8])[0]
        else:
            position += 10 + sum((byte & 0x7F) << shift for byte, shift in zip(entry[4:8], (21, 14, 7, 0), strict=True))
    if position >= size:
        return None
    found = first_frame(reader.at(start + position, _HEAD_BYTES), frame_bytes, frames=5)
    return position + found if found is not None and position + found < size else None


def recordings(reader: Reader) -> list[tuple[int, int]]:
    """From where to where each of some joined recordings reaches, without the tags at their ends and between them.

    FFmpeg takes a tag behind the first frame for damage.
    """
    spans, start = [], 0
    for end, following in _tags(reader):
        if first_frame(reader.at(start, min(end - start, _HEAD_BYTES)), frame_bytes) is not None:
            spans.append((start, end))
        start = following
    return [*spans, (start, reader.size)] if start < reader.size or not spans else spans


def _tags(reader: Reader) -> Iterator[tuple[int, int]]:
    """From where to where tags reach, one or some in a row; behind them stands a frame, or the file ends."""
    passed = looked_at = 0
    for position in range(0, reader.size, _CHUNK):
        for match in _TAG.finditer(reader.at(position, _CHUNK + 8)):
            start = end = position + match.start()
            if start < passed or match.start() >= _CHUNK:
                continue
            while looked_at < _MOST_TAGS and (length := _tag_bytes(reader.at(end, _APE_FOOTER_BYTES))):
                end += length
                looked_at += 1
            if looked_at == _MOST_TAGS:  # hostile
                return
            if end > start and (end >= reader.size or _is_frame(reader, end)):
                yield start, end
                passed = end


def _is_frame(reader: Reader, position: int) -> bool:
    if not frame_bytes(reader.at(position, HEADER_BYTES)):
        return False
    return first_frame(reader.at(position, _HEAD_BYTES), frame_bytes, search=1) == 0


def _tag_bytes(head: bytes) -> int:
    """Length of the tag of any kind that starts with these bytes; 0 when none does."""
    if head[:8] == b"APETAGEX" and len(head) >= _APE_FOOTER_BYTES:
        size, flags = struct.unpack("<I4xI", head[12:24])
        is_header = flags >> 29 & 1  # the length is without the header and with the footer
        return _APE_FOOTER_BYTES + (size if is_header else 0)
    return _ID3V1_BYTES if head[:3] == b"TAG" else id3_bytes(head)
