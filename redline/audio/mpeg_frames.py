"""Elementary streams: frame headers of MPEG audio, ADTS AAC, AC-3 and LATM, ID3 and APE tags, joined recordings."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator

from redline.audio.source import Bytes

HEADER_BYTES = 6
"""What `frame_bytes` needs to see of a frame."""
_CHUNK = 1 << 20
_HEAD_BYTES = 1 << 15
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


def latm_bytes(header: bytes) -> int:
    """Length of the AAC frame in LATM that starts with these bytes; 0 when none does."""
    is_frame = len(header) > 2 and header[0] == 0x56 and header[1] & 0xE0 == 0xE0
    return 3 + ((header[1] & 0x1F) << 8 | header[2]) if is_frame else 0


FRAME_LENGTHS: dict[str, Callable[[bytes], int]] = {
    "mp3": frame_bytes,
    "aac": frame_bytes,
    "ac3": ac3_bytes,
    "eac3": ac3_bytes,
    "loas": latm_bytes,
}
"""What tells the length of a frame, by FFmpeg's name of containers of nothing but frames."""


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


def joined_recordings(source: Bytes) -> list[Bytes]:
    """The recordings of a run of MPEG frames, without the tags at their ends and between them.

    FFmpeg takes a tag behind the first frame for damage.
    """
    recordings, start = [], 0
    for end, following in [*_tags(source), (source.size, source.size)]:
        recording = source.part(start, end)
        if first_frame(recording.at(0, _HEAD_BYTES), frame_bytes) is not None:
            recordings.append(recording)
        start = following
    return recordings or [source]


def _tags(source: Bytes) -> Iterator[tuple[int, int]]:
    """From where to where tags reach, one or some in a row; behind them stands a frame, or the file ends."""
    passed = 0
    for position in range(0, source.size, _CHUNK):
        for match in _TAG.finditer(source.at(position, _CHUNK + 8)):
            start = end = position + match.start()
            if start < passed or match.start() >= _CHUNK:
                continue
            tags = 0
            while length := _tag_bytes(source.at(end, _APE_FOOTER_BYTES)):
                end, tags = end + length, tags + 1
            is_border = end >= source.size or first_frame(source.at(end, _HEAD_BYTES), frame_bytes, search=1) == 0
            if is_border and tags:
                yield start, end
            passed = end if is_border or tags > 1 else passed


def _tag_bytes(head: bytes) -> int:
    """Length of the tag of any kind that starts with these bytes; 0 when none does."""
    if head[:8] == b"APETAGEX" and len(head) >= _APE_FOOTER_BYTES:
        size, flags = struct.unpack("<I4xI", head[12:24])
        is_header = flags >> 29 & 1  # the length is without the header and with the footer
        return _APE_FOOTER_BYTES + (size if is_header else 0)
    return _ID3V1_BYTES if head[:3] == b"TAG" else id3_bytes(head)
