"""What a container's lists may hold, checked against their own sizes before FFmpeg believes them.

FFmpeg compares each tag with all before it, walks any number of empty blocks, and sets memory aside for as many samples
as a table claims: a small file can cost it minutes and gigabytes. The sound needs none of that.
"""

from __future__ import annotations

import struct

import numpy as np

from redline.audio import tables
from redline.audio.collector import AudioOptions
from redline.audio.reader import Reader
from redline.errors import AudioLimitError

MOST_TAGS = 10_000
"""Title, artist and the like; FFmpeg's time grows with the square of their number, to half a second here."""
MOST_BLOCKS = 20_000
"""Chunks of WAV, blocks of FLAC metadata: each costs a read."""
_SEARCHED_BYTES = 1 << 20
"""Of a tag list: what is longer is searched piece by piece."""


def check(form: str, reader: Reader, options: AudioOptions) -> int:
    """How many bytes FFmpeg may see, mostly all.

    Raises `AudioLimitError` or `TruncatedAudioError` where a list is longer than any recording needs, or than the file.
    """
    if form == "wav":
        return _check_wav(reader)
    if form == "flac":
        _check_flac(reader)
    elif form == "ogg":
        _check_ogg(reader)
    elif form in ("mp3", "wv", "tta", "ape", "tak", "mpc", "mpc8"):
        _check_ape(reader)
    elif form == "caf":
        _check_caf(reader)
    elif form == "asf":
        _check_asf(reader)
    elif form == "matroska":
        _check_matroska(reader)
    elif form == "mov":
        _refuse_tags(reader, tables.check(reader, options))
    return reader.size


def _check_wav(reader: Reader) -> int:
    """Chunks on both sides of the sound; those of `LIST INFO` and the frames of an ID3 tag are tags.

    What follows the sound and is no chunk (more sound, where the header says too little) is hidden from FFmpeg, which
    would walk through it as through chunks.
    """
    position, chunks, tags, heard = 12, 0, 0, False
    while len(head := reader.at(position, 12)) >= 8:
        name, size = head[:4], struct.unpack("<I", head[4:8])[0]
        if heard and not (name.isascii() and name.decode("ascii").isprintable()):
            return position
        chunks += 1
        if name == b"data":
            heard = True
            if size == 0:  # unknown: the sound goes on to the end
                return reader.size
        position += 8
        if name == b"LIST" and head[8:] == b"INFO":
            tags += _count(reader, position + 4, size - 4, header=8, order="<")
        elif name in (b"id3 ", b"ID3 "):
            tags += _count(reader, position + 10, size - 10, header=10, order=">")
        if chunks > MOST_BLOCKS:
            raise AudioLimitError(
                f"{reader.name}: more than {MOST_BLOCKS} chunks; a recording has a few: convert it, or get it again"
            )
        _refuse_tags(reader, tags)
        position += size + size % 2
    return reader.size


def _count(reader: Reader, position: int, size: int, header: int, order: str) -> int:
    """Fields [4 letters, 4 bytes of size, ...] in a list, as far as it matters how many."""
    end, count = min(position + size, reader.size), 0
    while position < end and count <= MOST_TAGS and len(head := reader.at(position, 8)) == 8 and head[0]:
        length = struct.unpack(order + "I", head[4:])[0]
        position += header + length + (length % 2 if order == "<" else 0)
        count += 1
    return count


def _check_flac(reader: Reader) -> None:
    position, blocks, tags, last = 4, 0, 0, False
    while not last and len(head := reader.at(position, 4)) == 4:
        kind, size, last = head[0] & 127, int.from_bytes(head[1:], "big"), bool(head[0] & 128)
        blocks += 1
        if blocks > MOST_BLOCKS:
            raise AudioLimitError(
                f"{reader.name}: more than {MOST_BLOCKS} blocks of metadata; a recording has a few: convert it"
            )
        if kind == 3 and size > 18 * MOST_BLOCKS:  # 18 bytes a place to seek to
            places = np.frombuffer(reader.at(position + 4, size - size % 18), ">u8, >u8, >u2")["f0"]
            if np.any(places[1:] < places[:-1]):
                raise AudioLimitError(f"{reader.name}: its {len(places)} seek points are out of order: convert it")
        elif kind == 4:
            tags += _comments(reader, position + 4, size)
            _refuse_tags(reader, tags)
        position += 4 + size


def _comments(reader: Reader, position: int, size: int) -> int:
    """How many Vorbis comments a block holds: what it says, but each takes four bytes at least."""
    vendor = reader.at(position, 4)
    if len(vendor) < 4:
        return 0
    vendor_bytes = struct.unpack("<I", vendor)[0]
    count = reader.at(position + 4 + vendor_bytes, 4)
    return min(struct.unpack("<I", count)[0], size // 4) if len(count) == 4 else 0


def _check_ogg(reader: Reader) -> None:
    """The comments of each stream that starts with the file: its second packet, here seen as the pages hold it."""
    data = reader.at(0, _SEARCHED_BYTES)
    for mark in (b"OpusTags", b"\x03vorbis", b"Speex   ", b"\x81theora"):
        place = data.find(mark)
        if place >= 0:
            _refuse_tags(reader, _comments(reader, place + len(mark), reader.size - place))
    flac = data.find(b"\x7fFLAC")
    page = data.find(b"OggS", flac) if flac >= 0 else -1
    if page >= 0 and page + 26 < len(data):
        _refuse_tags(reader, _comments(reader, page + 27 + data[page + 26] + 4, reader.size - page))


def _check_ape(reader: Reader) -> None:
    """An APE tag's footer, before the 128 bytes of an ID3v1 tag where there is one."""
    for end in (reader.size, reader.size - 128):
        footer = reader.at(end - 32, 32) if end >= 32 else b""
        if footer[:8] == b"APETAGEX":
            _refuse_tags(reader, min(struct.unpack("<I", footer[16:20])[0], reader.size // 11))


def _check_caf(reader: Reader) -> None:
    """Chunks up to the sound; of `info` what it says, but each entry takes two bytes at least."""
    position = 8
    for _ in range(MOST_BLOCKS):
        head = reader.at(position, 16)
        if len(head) < 12 or head[:4] == b"data":
            return
        size = int.from_bytes(head[4:12], "big")
        if head[:4] == b"info":
            _refuse_tags(reader, min(int.from_bytes(head[12:], "big"), size // 2))
        position += 12 + size


def _check_asf(reader: Reader) -> None:
    """Descriptions in the objects of the header, one level deep: each object says how many it holds."""
    position, tags = 30, 0
    end = min(int.from_bytes(reader.at(16, 8), "little"), reader.size)
    while position < end and len(head := reader.at(position, 26)) == 26:
        size = int.from_bytes(head[16:24], "little")
        if head[:16] == _ASF_EXTENSION:
            position += 46
            continue
        if head[:16] in _ASF_DESCRIPTIONS:
            tags += min(int.from_bytes(head[24:], "little"), size // 6)
        _refuse_tags(reader, tags)
        position += max(size, 24)


_ASF_EXTENSION = bytes.fromhex("b503bf5f2ea9cf118ee300c00c205365")
_ASF_DESCRIPTIONS = tuple(
    bytes.fromhex(one)
    for one in (
        "40a4d0d207e3d21197f000a0c95ea850",  # extended content description
        "eacbf8c5af5b77488467aa8c44fa4cca",  # metadata
        "941c23449894d149a1411d134e457054",  # metadata library
    )
)


def _check_matroska(reader: Reader) -> None:
    """SimpleTag elements, found by their id in the Tags of the Segment."""
    position, tags = 0, 0
    for _ in range(MOST_BLOCKS):
        element, size, start = _element(reader, position)
        if element == 0x18538067:  # the Segment: its children follow
            position = start
            continue
        if element is None or size is None:  # a live recording: Clusters without end
            return
        if element == 0x1254C367:
            end = min(start + size, reader.size)
            while start < end:
                tags += reader.at(start, min(_SEARCHED_BYTES, end - start)).count(b"\x67\xc8")
                _refuse_tags(reader, tags)
                start += _SEARCHED_BYTES
            start = end - size
        position = start + size


def _element(reader: Reader, position: int) -> tuple[int | None, int | None, int]:
    """Id and size of an EBML element (None where it ends or says none), and where its contents start."""
    head = reader.at(position, 12)
    id_bytes = 9 - head[0].bit_length() if head else 9
    if id_bytes > 4 or len(head) <= id_bytes or not head[id_bytes]:
        return None, None, position
    width = 9 - head[id_bytes].bit_length()
    mask = (1 << 7 * width) - 1
    size = int.from_bytes(head[id_bytes : id_bytes + width], "big") & mask
    return int.from_bytes(head[:id_bytes], "big"), None if size == mask else size, position + id_bytes + width


def _refuse_tags(reader: Reader, count: int) -> None:
    if count > MOST_TAGS:
        raise AudioLimitError(
            f"{reader.name}: more than {MOST_TAGS} tags; at most so many are allowed, and the sound needs none: "
            "remove them, or convert the recording"
        )
