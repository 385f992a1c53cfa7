"""What a run of bytes is, and how long it claims to be, by its content alone."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from redline.audio.reader import Reader
from redline.errors import EmptyAudioError, NotAudioError, TruncatedAudioError


@dataclass(frozen=True)
class Container:
    """A kind of file: FFmpeg's name of its demuxer, what people call it, how such files are named."""

    form: str
    name: str
    suffixes: tuple[str, ...]


CONTAINERS = (
    Container("wav", "WAV", (".wav", ".wave", ".bwf", ".rf64")),
    Container("flac", "FLAC", (".flac",)),
    Container("mp3", "MP3", (".mp3", ".mp2", ".mp1", ".mpa")),
    Container("aac", "AAC", (".aac", ".adts")),
    Container("ogg", "Ogg (Opus, Vorbis, Speex)", (".ogg", ".oga", ".opus", ".spx", ".ogv", ".ogx")),
    Container(
        "mov",
        "MP4, M4A, MOV or 3GP",
        (".m4a", ".mp4", ".m4b", ".m4v", ".m4r", ".mov", ".qt", ".3gp", ".3gpp", ".3g2", ".3ga", ".f4v", ".f4a"),
    ),
    Container("matroska", "WebM or Matroska", (".webm", ".mka", ".mkv", ".weba")),
    Container("asf", "WMA, WMV or ASF", (".wma", ".wmv", ".asf")),
    Container("aiff", "AIFF", (".aiff", ".aif", ".aifc")),
    Container("caf", "CAF", (".caf",)),
    Container("au", "AU", (".au", ".snd")),
    Container("w64", "W64", (".w64",)),
    Container("amr", "AMR", (".amr", ".awb")),
    Container("gsm", "GSM", (".gsm",)),
    Container("ilbc", "iLBC", (".lbc",)),
    Container("qcp", "QCP", (".qcp",)),
    Container("dss", "DSS", (".dss",)),
    Container("voc", "VOC", (".voc",)),
    Container("nistsphere", "NIST Sphere", (".sph", ".nist")),
    Container("ircam", "IRCAM", (".sf",)),
    Container("sox", "SoX", (".sox",)),
    Container("ac3", "AC-3", (".ac3",)),
    Container("eac3", "E-AC-3", (".eac3", ".ec3")),
    Container("dts", "DTS", (".dts",)),
    Container("loas", "LATM", (".latm", ".loas")),
    Container("wv", "WavPack", (".wv",)),
    Container("tta", "TTA", (".tta",)),
    Container("ape", "Monkey's Audio", (".ape",)),
    Container("mpc", "Musepack 7", (".mpc", ".mp+")),
    Container("mpc8", "Musepack 8", (".mpc",)),
    Container("tak", "TAK", (".tak",)),
    Container("shn", "Shorten", (".shn",)),
    Container("rm", "RealMedia", (".rm", ".ra", ".rmvb")),
    Container("avi", "AVI", (".avi", ".divx")),
    Container("flv", "FLV", (".flv",)),
    Container("mpegts", "MPEG transport stream", (".ts", ".mts", ".m2ts", ".m2t")),
    Container("mpeg", "MPEG program stream", (".mpg", ".mpeg", ".vob", ".m2p")),
    Container("mxf", "MXF", (".mxf",)),
    Container("nut", "NUT", (".nut",)),
)
"""Every container that is read. Each is told by its bytes, holds its sound itself and opens nothing else.

Left out are playlists and descriptions (HLS, DASH, concat, SDP, image sequences: they name other files and addresses),
raw samples (nothing in them tells what they are), protected formats, and music and games of forty years.
"""

FORMATS = {container.form: container.name for container in CONTAINERS}
"""FFmpeg's name of every container that is read, and the name people use."""

SUFFIXES = tuple(sorted({suffix for container in CONTAINERS for suffix in container.suffixes}))
"""Endings of file names, in lower case, that a scan of a folder takes for recordings; what is in a file decides."""

_HEAD_BYTES = 1 << 15
_LONGEST_OGG_PAGE = 27 + 255 + 255 * 255
_UNKNOWN_WAV_SIZES = (0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)  # what recorders write into a pipe


def sniff(reader: Reader) -> tuple[str, bytes]:
    """The container's FFmpeg name and its first bytes, judged by content; an ID3 tag in front is left behind."""
    head = reader.at(0, _HEAD_BYTES)
    if not head:
        raise EmptyAudioError(f"{reader.name}: 0 bytes; the file is empty, or the stream was read before")
    while head[:3] == b"ID3" and len(head) >= 10:
        size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        reader.base += 10 + size + (10 if head[5] & 0x10 else 0)
        head = reader.at(0, _HEAD_BYTES)
        if not head:
            raise TruncatedAudioError(f"{reader.name}: ends inside its ID3 tag; get a complete copy")
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return "wav", head
    for offset, mark, form in (
        (0, b"fLaC", "flac"),
        (0, b"OggS", "ogg"),
        (0, b"\x1aE\xdf\xa3", "matroska"),
        (4, b"ftyp", "mov"),
        (4, b"moov", "mov"),
        (4, b"mdat", "mov"),
        (4, b"wide", "mov"),
    ):
        if head[offset : offset + 4] == mark:
            return form, head
    start = _first_frame(head)
    if start is not None:
        head = head[start:]
        return "aac" if head[1] & 0xF6 == 0xF0 else "mp3", head
    if all(0x20 <= byte < 0x7F or byte in b"\t\r\n" for byte in head[:64]):
        seen = f"text that starts with {head[:24].decode()!r}"
    else:
        seen = f"bytes that start with {head[:8].hex(' ')}"
    raise NotAudioError(
        f"{reader.name}: not audio that is read here: {seen}; allowed are {', '.join(FORMATS.values())}; "
        "convert it, and give the recording itself rather than a playlist or an address"
    )


def _first_frame(head: bytes) -> int | None:
    """Where a run of MP3 or AAC frames starts: three in a row, or all of a very short file."""
    for start in range(min(len(head), 4096)):
        position = start
        for _ in range(3):
            length = frame_bytes(head[position : position + 6])
            position += length
            if length == 0 or position >= len(head):
                break
        if length and (position < len(head) or start == 0):
            return start
    return None


def frame_bytes(header: bytes) -> int:
    """Length of the MP3 or ADTS AAC frame that starts with these 6 bytes; 0 when none does."""
    if len(header) < 6 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return 0
    if header[1] & 0xF6 == 0xF0:  # ADTS: 12 bits of sync, layer 0
        length = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
        return length if (header[2] >> 2 & 15) < 13 and length > 7 else 0
    version, layer, bitrate, rate = header[1] >> 3 & 3, header[1] >> 1 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer != 1 or bitrate in (0, 15) or rate == 3:
        return 0
    high = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
    low = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
    kbps = (high if version == 3 else low)[bitrate - 1]
    rate_hz = (44_100, 48_000, 32_000)[rate] >> {3: 0, 2: 1, 0: 2}[version]  # MPEG 1, 2 and 2.5
    return (144 if version == 3 else 72) * 1000 * kbps // rate_hz + (header[2] >> 1 & 1)


def is_cut(form: str, reader: Reader) -> bool:
    """Whether the bytes end before the container says they do, where the container tells."""
    if form == "ogg":
        return _ogg_is_cut(reader)
    return form == "matroska" and _matroska_is_cut(reader)


@dataclass(frozen=True)
class WavClaim:
    """What a WAV header says, None where it does not, and the bytes of samples that are really there."""

    rate: int | None
    channels: int | None
    claimed_bytes: int | None
    present_bytes: int


def wav_claim(reader: Reader) -> WavClaim:
    """Walk the chunks of a WAV file up to its samples."""
    rate = channels = wide_size = None
    position = 12
    while len(chunk := reader.at(position, 8)) == 8:
        name, size = chunk[:4], struct.unpack("<I", chunk[4:])[0]
        position += 8
        if name == b"data":
            present = reader.size - position
            unknown = wide_size is None and size in _UNKNOWN_WAV_SIZES and present > 0
            claimed = None if unknown else wide_size if wide_size is not None else size
            return WavClaim(rate, channels, claimed, present)
        fields = reader.at(position, 16)
        if name == b"fmt " and len(fields) == 16:
            channels, rate = struct.unpack("<HI", fields[2:8])
        if name == b"ds64" and len(fields) == 16:
            wide_size = struct.unpack("<Q", fields[8:])[0]
        position += size + size % 2
    return WavClaim(rate, channels, 0, 0)


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
