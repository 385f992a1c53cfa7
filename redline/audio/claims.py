"""What a recording says about its own length, where it says so itself: what ends before that has lost something."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redline.audio.content import transport_packet
from redline.audio.mpeg import id3_bytes
from redline.audio.reader import Reader
from redline.errors import AudioLimitError

if TYPE_CHECKING:
    from av import AudioStream
    from av.container import InputContainer

_MOST_CHUNKS = 100_000
_TAIL_BYTES = 1 << 16
_UNKNOWN_SIZES = (0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)  # what recorders write into a pipe
_LONGEST_OGG_PAGE = 27 + 255 + 255 * 255
_LEAST_UNREAD_S = 0.02

EXACT = frozenset(("wav", "flac", "aiff", "au", "w64", "tta", "wv", "ape", "tak", "nistsphere"))
"""Containers that count their samples; others are padded by their encoders with a coded frame or two."""
_COUNTED = EXACT - {"wav", "w64"} | {"mov", "avi", "rm", "mpc", "mpc8"}
"""Where FFmpeg has the length from the header, and not from the size of the file."""
_TIMED = ("matroska", "flv")
"""The same, but for the longest of all streams."""


def claimed_s(form: str, head: bytes, container: InputContainer, stream: AudioStream) -> float | None:
    """The seconds that the header promises, where FFmpeg has them from the header and not from the file's size."""
    told = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
    if form == "mp3":
        counted = _counted_s(head, stream.rate)
        # FFmpeg takes off what the encoder padded; with another recording behind the first it guesses.
        return min(told, counted) if told is not None and counted is not None else counted
    if form in _COUNTED and not (form == "aiff" and not stream.codec_context.name.startswith("pcm_")):
        return told
    if form in _TIMED and len(container.streams) == 1 and container.duration:
        return container.duration / 1e6
    return None


def _counted_s(head: bytes, rate: int) -> float | None:
    """Seconds by the count of frames in the first frame of an MP3."""
    for mark in (b"Xing", b"Info", b"VBRI"):
        place = head[:200].find(mark)
        if place < 0:
            continue
        if mark == b"VBRI":
            count = head[place + 14 : place + 18]
        else:
            count = head[place + 8 : place + 12] if head[place + 7 : place + 8] and head[place + 7] & 1 else b""
        samples = 1152 if head[1] >> 3 & 3 == 3 else 576  # MPEG 1, and 2 or 2.5
        return int.from_bytes(count, "big") * samples / rate if len(count) == 4 and any(count) else None
    return None


def is_cut(form: str, reader: Reader) -> bool:
    """Whether the bytes end before the container says they do, where the container tells."""
    if form == "ogg":
        return _ogg_is_cut(reader)
    if form == "matroska":
        return _matroska_is_cut(reader)
    if form == "flv":
        return _flv_is_cut(reader)
    if form == "mpegts":
        return _transport_is_cut(reader)
    if form == "mpeg":
        return _program_is_cut(reader)
    if form == "au":
        start, length = struct.unpack(">II", reader.at(4, 8).ljust(8, b"\0"))
        return length not in _UNKNOWN_SIZES and start + length > reader.size
    if form == "sox":
        fields = reader.at(0, 16).ljust(16, b"\0")
        start, samples = struct.unpack("<4xIQ" if fields.startswith(b".SoX") else ">4xIQ", fields)
        return bool(4 + start + 4 * samples > reader.size)
    return any(end > reader.size + _SLACK.get(form, 1) for end in _ends(form, reader))


_LAYOUTS = {
    "aiff": (0, ">4sI", 0, 2),
    "avi": (0, "<4sI", 0, 2),
    "qcp": (0, "<4sI", 0, 2),
    "caf": (8, ">4sq", 0, 1),
    "w64": (40, "<16sQ", 24, 8),
    "asf": (0, "<16sQ", 24, 1),
    "rm": (0, ">4sI", 8, 1),
    "voc": (26, "<cI", 0, 1),
}
"""Where the first chunk starts, its name and length, how much of it the length counts as well, and its alignment."""
_SLACK = {"rm": 18}
"""Bytes that may be missing: a byte of padding is often left out, and some writers count a header twice."""


def _ends(form: str, reader: Reader) -> Iterator[int]:
    """Where each chunk says that it ends, up to the first that ends behind the file or does not say."""
    if form not in _LAYOUTS:
        return
    position, layout, counted, align = _LAYOUTS[form]
    size = struct.calcsize(layout)
    for _ in range(_MOST_CHUNKS):
        if form == "voc":  # a length of three bytes
            fields = reader.at(position, 4)
            if fields[:1] == b"\0" and any(reader.at(max(position, reader.size - _TAIL_BYTES), _TAIL_BYTES)):
                yield reader.size + 2  # the end, and more behind it
            if len(fields) < 4 or fields[0] == 0:
                return
            length, start = int.from_bytes(fields[1:], "little"), position + 4
        else:
            fields = reader.at(position, size)
            if len(fields) < size or not any(fields):
                return
            length, start = struct.unpack(layout, fields)[1] - counted, position + size
        if length < 0 or (size == 8 and length + counted in _UNKNOWN_SIZES):
            return
        position = start + length
        yield position
        if position >= reader.size:
            return
        position += -position % align


@dataclass(frozen=True)
class WavClaim:
    """What a WAV header says, None where it does not, and the bytes of samples that are really there."""

    rate: int | None
    channels: int | None
    claimed_bytes: int | None
    present_bytes: int
    bytes_per_s: int = 0
    is_plain: bool = False
    """Samples as they are, so that bytes are seconds."""
    unread_bytes: int = 0
    """Bytes behind the samples that are no chunk of another kind."""

    @property
    def claimed_s(self) -> float | None:
        """The seconds that were announced; of coded sound they are a guess, and None."""
        known = self.is_plain and self.claimed_bytes is not None and self.bytes_per_s
        return self.claimed_bytes / self.bytes_per_s if known and self.claimed_bytes else None

    @property
    def unread_s(self) -> float:
        """Seconds of sound behind the end that the header states."""
        seconds = self.unread_bytes / self.bytes_per_s if self.bytes_per_s else 0.0
        return seconds if seconds >= _LEAST_UNREAD_S else 0.0


def wav_claim(reader: Reader) -> WavClaim:
    """Walk the chunks of a WAV file up to its samples, and look at what lies behind them."""
    rate = channels = wide_size = None
    bytes_per_s, is_plain = 0, False
    position = 12
    for _ in range(_MOST_CHUNKS):
        chunk = reader.at(position, 8)
        if len(chunk) < 8:
            return WavClaim(rate, channels, 0, 0)
        name, size = chunk[:4], struct.unpack("<I", chunk[4:])[0]
        position += 8
        if name == b"data":
            present = reader.size - position
            is_wide = wide_size is not None and size == 0xFFFFFFFF
            unknown = not is_wide and size in _UNKNOWN_SIZES and present > 0
            claimed = None if unknown else wide_size if is_wide else size
            unread = 0 if claimed is None else _unread_bytes(reader, position + claimed)
            return WavClaim(rate, channels, claimed, present, bytes_per_s, is_plain, unread)
        fields = reader.at(position, 26)
        if name == b"fmt " and len(fields) >= 16:
            code, channels, rate, bytes_per_s = struct.unpack("<HHII", fields[:12])
            if code == 0xFFFE:  # the extensible kind keeps the code itself further behind
                code = int.from_bytes(fields[24:26], "little")
            is_plain = code in (1, 3, 6, 7)  # PCM, float, A-law, mu-law
        if name == b"ds64" and len(fields) >= 16:
            wide_size = struct.unpack("<Q", fields[8:16])[0]
        position += size + size % 2
    raise AudioLimitError(f"{reader.name}: more than {_MOST_CHUNKS} chunks before its sound; write it anew")


def _unread_bytes(reader: Reader, position: int) -> int:
    """Bytes behind the samples that are a second run of samples, or nothing that a WAV file holds."""
    unread = 0
    position += position % 2
    for _ in range(1000):
        chunk = reader.at(position, 12)
        if len(chunk) < 8:
            break
        name, size = chunk[:4], struct.unpack("<I", chunk[4:8])[0]
        rest = reader.size - position
        if name == b"RIFF" and chunk[8:] == b"WAVE":  # another whole recording
            return unread + rest
        if not (all(0x20 <= byte < 0x7F for byte in name) and position + 8 + size <= reader.size + 1):
            is_tag = name[:3] in (b"TAG", b"APE") or id3_bytes(chunk)
            return unread if is_tag or not any(reader.at(position, _TAIL_BYTES)) else unread + rest
        if name == b"data":
            unread += min(size, rest)
        position += 8 + size + size % 2
    return unread


def _ogg_is_cut(reader: Reader) -> bool:
    """The last page must be complete and carry the end-of-stream flag."""
    start = max(reader.size - 2 * _LONGEST_OGG_PAGE, 0)
    tail = reader.at(start, 2 * _LONGEST_OGG_PAGE)
    page = tail.rfind(b"OggS")
    segments = tail[page + 27 : page + 27 + tail[page + 26]] if 0 <= page < len(tail) - 26 else b""
    return not segments or not tail[page + 5] & 4 or page + 27 + len(segments) + sum(segments) > len(tail)


def _matroska_is_cut(reader: Reader) -> bool:
    """The one Segment must end where its size says; a live recording leaves its size unknown (all ones)."""
    head = reader.at(0, 4096)
    start = head.find(b"\x18\x53\x80\x67") + 4
    if not 4 <= start < len(head):
        return True
    width = 9 - head[start].bit_length()  # a leading one after width - 1 zeros
    mask = (1 << 7 * width) - 1
    size = int.from_bytes(head[start : start + width], "big") & mask
    return size != mask and start + width + size > reader.size


def _transport_is_cut(reader: Reader) -> bool:
    """The last packet must be complete and start like one."""
    start, size = transport_packet(reader.at(0, 20 * 204)) or (0, 188)
    return reader.size % size != 0 or reader.at(reader.size - size + start, 1) != b"\x47"


def _program_is_cut(reader: Reader) -> bool:
    """The last packet of an MPEG program stream must be complete; packs of packets start with marks of their own."""
    tail = reader.at(max(reader.size - (1 << 17), 0), 1 << 17)
    position = tail.rfind(b"\0\0\1\xba")
    if position < 0 or len(tail) < position + 14:
        return True
    position += 14 + (tail[position + 13] & 7) if tail[position + 4] >> 6 == 1 else 12  # MPEG 2, MPEG 1
    while tail[position : position + 3] == b"\0\0\1" and tail[position + 3 : position + 4] > b"\xb9":
        position += 6 + int.from_bytes(tail[position + 4 : position + 6], "big")
    return position > len(tail)


def _flv_is_cut(reader: Reader) -> bool:
    """Behind each tag stands its length once more, and the last tag must be complete."""
    size = int.from_bytes(reader.at(max(reader.size - 4, 0), 4), "big")
    tag = reader.at(reader.size - 4 - size, 4) if 11 <= size <= reader.size - 4 else b""
    return len(tag) < 4 or int.from_bytes(tag[1:], "big") + 11 != size
