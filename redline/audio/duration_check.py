"""Duration and size that a container states about itself: what ends before that is truncated."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redline.audio import ogg_pages
from redline.audio.mpeg_frames import id3_bytes
from redline.audio.source import Bytes
from redline.errors import AudioLimitError
from redline.types import Notice

if TYPE_CHECKING:
    from av import AudioStream
    from av.container import InputContainer

_MOST_CHUNKS = 100_000
_MOST_CHUNKS_BEHIND = 1000
_TAIL_BYTES = 1 << 17
_UNKNOWN_SIZES = (0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)  # what recorders write into a pipe
_LEAST_UNREAD_S = 0.02

EXACT = frozenset(("wav", "flac", "aiff", "au", "w64", "tta", "wv", "ape", "tak", "nistsphere"))
"""Containers that count their samples; others are padded by their encoders with a coded frame or two."""
_COUNTED = EXACT - {"wav", "w64"} | {"mov", "avi", "rm", "mpc", "mpc8"}
"""Where FFmpeg has the length from the header, and not from the size of the file."""
_TIMED = ("matroska", "flv")
"""The same, but for the longest of all streams."""


def stated_s(form: str, source: Bytes, container: InputContainer, stream: AudioStream) -> float | None:
    """The duration in the header, where FFmpeg has it from there and not from the file's size."""
    stated = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
    if form == "mp3":
        counted = _xing_s(source.at(0, 256), stream.rate)
        # FFmpeg takes off what the encoder padded; with another recording behind the first it guesses.
        return min(stated, counted) if stated is not None and counted is not None else counted
    if form in _COUNTED and not (form == "aiff" and not stream.codec_context.name.startswith("pcm_")):
        return stated
    if form in _TIMED and len(container.streams) == 1 and container.duration:
        return container.duration / 1e6
    return None


def _xing_s(head: bytes, rate: int) -> float | None:
    """Seconds by the count of frames in the first frame of an MP3 (Xing, Info or VBRI header)."""
    match = re.search(
        rb"(?:Xing|Info)...[\x01\x03\x05\x07\x09\x0b\x0d\x0f](....)|VBRI.{10}(....)", head[:200], re.DOTALL
    )
    frames = int.from_bytes(match[1] or match[2], "big") if match else 0
    samples = 1152 if head[1] >> 3 & 3 == 3 else 576  # MPEG 1, and 2 or 2.5
    return frames * samples / rate if frames else None


def is_cut(form: str, source: Bytes) -> bool:
    """Whether the bytes end before the container says they do, where the container tells."""
    if form == "ogg":
        return ogg_pages.last_page_is_cut(source)
    if form == "mpegts":  # the last packet must be complete: of 188 bytes, with a time in front, or a check behind
        is_of = {188: source.at(188, 1), 192: source.at(196, 1), 204: source.at(204, 1)}
        return source.size % next((size for size, sync in is_of.items() if sync == b"G"), 188) != 0
    if form == "mpeg":
        return _program_stream_is_cut(source)
    if form == "flv":  # behind each tag stands its length once more
        size = int.from_bytes(source.at(max(source.size - 4, 0), 4), "big")
        tag = source.at(max(source.size - 4 - size, 0), 4)
        return size < 11 or int.from_bytes(tag[1:], "big") + 11 != size
    if form == "matroska":
        return _segment_end(source) > source.size
    if form == "sox":
        fields = source.at(0, 16).ljust(16, b"\0")
        start, samples = struct.unpack("<4xIQ" if fields.startswith(b".SoX") else ">4xIQ", fields)
        return bool(4 + start + 4 * samples > source.size)
    return form in _CHUNKED and _chunks_end(source, *_CHUNKED[form]) > source.size + _MISSING.get(form, 1)


_CHUNKED = {
    "aiff": (0, 4, ">I", 8, 2),
    "avi": (0, 4, "<I", 8, 2),
    "qcp": (0, 4, "<I", 8, 2),
    "caf": (8, 4, ">q", 12, 1),
    "voc": (26, 0, "<I", 4, 1),
    "w64": (40, 16, "<Q", 0, 8),
    "asf": (0, 16, "<Q", 0, 1),
    "rm": (0, 4, ">I", 0, 1),
}
"""Where the first chunk starts, where in it its length stands and how, bytes that this does not count, alignment."""
_MISSING = {"rm": 18}
"""Bytes that may be missing: a byte of padding is often left out, and some writers count a header twice."""


def _chunks_end(source: Bytes, position: int, place: int, layout: str, uncounted: int, align: int) -> int:
    """Where the last chunk says that it ends: the first that ends behind the file, or does not say."""
    size = place + struct.calcsize(layout)
    for _ in range(_MOST_CHUNKS):
        fields = source.at(position, size)
        is_voc = place == 0  # a byte of its kind and three of its length, then zeros or nothing
        if len(fields) < size or not any(fields):
            return source.size + 2 if is_voc and any(source.at(position, _TAIL_BYTES)) else position
        length = int(struct.unpack(layout, fields[place:])[0])
        length = length >> 8 if is_voc else length
        if length + uncounted < size or (layout[1] == "I" and length in _UNKNOWN_SIZES):
            return position
        position += length + uncounted
        if position >= source.size:
            return position
        position += -position % align
    return position


def _segment_end(source: Bytes) -> int:
    """Where the Segment of a Matroska file says that it ends; 0 where it does not, as in a live recording."""
    head = source.at(0, 4096)
    start = head.find(b"\x18\x53\x80\x67") + 4
    if not 4 <= start < len(head):
        return source.size + 1
    width = 9 - head[start].bit_length()  # a leading one after width - 1 zeros
    unknown = (1 << 7 * width) - 1
    size = int.from_bytes(head[start : start + width], "big") & unknown
    return 0 if size == unknown else start + width + size


def _program_stream_is_cut(source: Bytes) -> bool:
    """The last packet of an MPEG program stream must be complete; packs of packets start with marks of their own."""
    tail = source.at(max(source.size - _TAIL_BYTES, 0), _TAIL_BYTES)
    position = tail.rfind(b"\0\0\1\xba")
    if position < 0 or len(tail) < position + 14:
        return True
    position += 14 + (tail[position + 13] & 7) if tail[position + 4] >> 6 == 1 else 12  # MPEG 2, MPEG 1
    while tail[position : position + 3] == b"\0\0\1" and tail[position + 3 : position + 4] > b"\xb9":
        position += 6 + int.from_bytes(tail[position + 4 : position + 6], "big")
    return position > len(tail)


@dataclass(frozen=True)
class WavHeader:
    """What a WAV header says, None where it does not, and where its samples lie."""

    rate: int | None = None
    channels: int | None = None
    start: int = 0
    stated_bytes: int | None = 0
    bytes_per_s: int = 0
    is_pcm: bool = False
    """Samples as they are, so that bytes are seconds."""

    def stated_s(self, source: Bytes, read_s: float) -> float | None:
        """The stated duration; of coded sound a guess by the share of the bytes that are there."""
        present = source.size - self.start
        if not self.stated_bytes or present <= 0 or not self.bytes_per_s:
            return None
        return self.stated_bytes / self.bytes_per_s if self.is_pcm else read_s * max(self.stated_bytes / present, 1.0)

    def notices(self, source: Bytes, read_s: float) -> list[Notice]:
        """What the header does not say, or says wrongly."""
        if self.stated_bytes is None:
            return [Notice("unknown_length", "the WAV header states no length, so a missing end cannot be noticed")]
        unread_s = _unread_bytes(source, self.start + self.stated_bytes) / self.bytes_per_s if self.bytes_per_s else 0.0
        if unread_s < _LEAST_UNREAD_S:
            return []
        message = (
            f"{unread_s:.3f} s of what looks like sound lie behind the end that the WAV header states, and were not "
            "read; repair the header to hear them"
        )
        return [Notice("unread", message, round(read_s, 3), round(read_s + unread_s, 3))]


def wav_header(source: Bytes) -> WavHeader:
    """Walk the chunks of a WAV file up to its samples."""
    rate = channels = wide_bytes = None
    bytes_per_s, is_pcm, position = 0, False, 12
    for _ in range(_MOST_CHUNKS):
        fields = source.at(position, 34)
        if len(fields) < 8:
            return WavHeader(rate, channels)
        name, size = struct.unpack("<4sI", fields[:8])
        position += 8
        if name == b"data":
            is_wide = wide_bytes is not None and size == 0xFFFFFFFF
            is_unknown = size in _UNKNOWN_SIZES and source.size > position
            stated = wide_bytes if is_wide else None if is_unknown else size
            return WavHeader(rate, channels, position, stated, bytes_per_s, is_pcm)
        if name == b"fmt " and len(fields) >= 24:
            code, channels, rate, bytes_per_s = struct.unpack("<HHII", fields[8:20])
            if code == 0xFFFE:  # the extensible kind keeps the code itself further behind
                code = int.from_bytes(fields[32:34], "little")
            is_pcm = code in (1, 3, 6, 7)  # PCM, float, A-law, mu-law
        if name == b"ds64" and len(fields) >= 24:
            wide_bytes = struct.unpack("<Q", fields[16:24])[0]
        position += size + size % 2
    raise AudioLimitError(f"{source.name}: more than {_MOST_CHUNKS} chunks before its sound; write it anew")


def _unread_bytes(source: Bytes, position: int) -> int:
    """Bytes behind the samples that are a second run of samples, or nothing that a WAV file holds."""
    unread = 0
    position += position % 2
    for _ in range(_MOST_CHUNKS_BEHIND):
        chunk = source.at(position, 12)
        if len(chunk) < 8:
            break
        name, size = struct.unpack("<4sI", chunk[:8])
        rest = source.size - position
        if name == b"RIFF" and chunk[8:] == b"WAVE":  # another whole recording
            return unread + rest
        if not (all(0x20 <= byte < 0x7F for byte in name) and position + 8 + size <= source.size + 1):
            is_tag = name[:3] in (b"TAG", b"APE") or id3_bytes(chunk)
            return unread if is_tag or not any(source.at(position, _TAIL_BYTES)) else unread + rest
        if name == b"data":
            unread += min(size, rest)
        position += 8 + size + size % 2
    return unread
