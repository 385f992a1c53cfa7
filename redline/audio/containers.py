"""Container formats that are read, and content sniffing: the format of a run of bytes, by its first bytes alone."""

from __future__ import annotations

import re
from dataclasses import dataclass

from redline.audio.mpeg_frames import ac3_bytes, first_frame, frame_bytes, id3_bytes, latm_bytes
from redline.audio.source import Bytes
from redline.errors import EmptyAudioError, NotAudioError, TruncatedAudioError


@dataclass(frozen=True)
class Container:
    """FFmpeg's name of a demuxer, the name people use, endings of file names, and the magic number as a pattern.

    Without a pattern it is a run of coded frames, recognized by their rhythm.
    """

    form: str
    name: str
    suffixes: str
    magic: bytes = b"(?!)"


CONTAINERS = (
    Container("wav", "WAV", ".wav .wave .bwf .rf64", rb"(RIFF|RF64|BW64)....WAVE"),
    Container("flac", "FLAC", ".flac", rb"fLaC"),
    Container("mp3", "MP3", ".mp3 .mp2 .mp1 .mpa"),
    Container("mov", "MP4, M4A, MOV or 3GP", ".m4a .mp4 .m4b .m4v .m4r .mov .qt .3gp .3gpp .3g2 .3ga .f4v .f4a",
              rb"....(ftyp|moov|mdat|wide)"),
    Container("ogg", "Ogg (Opus, Vorbis, Speex)", ".ogg .oga .opus .spx .ogv .ogx", rb"OggS"),
    Container("matroska", "WebM or Matroska", ".webm .mka .mkv .weba", rb"\x1aE\xdf\xa3"),
    Container("aac", "AAC", ".aac .adts"),
    Container("asf", "WMA, WMV or ASF", ".wma .wmv .asf", rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
    Container("aiff", "AIFF", ".aiff .aif .aifc", rb"FORM....AIF[FC]"),
    Container("amr", "AMR", ".amr .awb", rb"#!AMR"),
    Container("caf", "CAF", ".caf", rb"caff"),
    Container("au", "AU", ".au .snd", rb"\.snd"),
    Container("w64", "W64", ".w64", rb"riff\x2e\x91\xcf\x11"),
    Container("gsm", "GSM", ".gsm", rb"([\xd0-\xdf].{32}){16,}.{,32}\Z"),
    Container("ilbc", "iLBC", ".lbc", rb"#!iLBC"),
    Container("qcp", "QCP", ".qcp", rb"RIFF....QLCM"),
    Container("dss", "DSS", ".dss", rb"[\x02\x03]dss"),
    Container("voc", "VOC", ".voc", rb"Creative Voice File\x1a"),
    Container("nistsphere", "NIST Sphere", ".sph .nist", rb"NIST_1A\n"),
    Container("ircam", "IRCAM", ".sf", rb"\x64\xa3[\x01-\x04]\x00|\x00[\x01-\x04]\xa3\x64"),
    Container("sox", "SoX", ".sox", rb"\.SoX|XoS\."),
    Container("ac3", "AC-3", ".ac3"),
    Container("eac3", "E-AC-3", ".eac3 .ec3"),
    Container("dts", "DTS", ".dts", rb"\x7f\xfe\x80\x01|\xfe\x7f\x01\x80|\x1f\xff\xe8\x00|\xff\x1f\x00\xe8"),
    Container("loas", "LATM", ".latm .loas"),
    Container("wv", "WavPack", ".wv", rb"wvpk"),
    Container("tta", "TTA", ".tta", rb"TTA1"),
    Container("ape", "Monkey's Audio", ".ape", rb"MAC "),
    Container("mpc", "Musepack 7", ".mpc .mp+", rb"MP\+"),
    Container("mpc8", "Musepack 8", ".mpc", rb"MPCK"),
    Container("tak", "TAK", ".tak", rb"tBaK"),
    Container("shn", "Shorten", ".shn", rb"ajkg"),
    Container("rm", "RealMedia", ".rm .ra .rmvb", rb"\.RMF|\.ra\xfd"),
    Container("avi", "AVI", ".avi .divx", rb"RIFF....AVI "),
    Container("flv", "FLV", ".flv", rb"FLV\x01"),
    Container("mpegts", "MPEG transport stream", ".ts .mts .m2ts .m2t", rb"(G.{187}){3}|(....G.{187}){3}|(G.{203}){3}"),
    Container("mpeg", "MPEG program stream", ".mpg .mpeg .vob .m2p", rb"\x00\x00\x01\xba"),
    Container("mxf", "MXF", ".mxf", rb"\x06\x0e\x2b\x34\x02\x05\x01\x01"),
    Container("nut", "NUT", ".nut", rb"nut/multimedia container\x00"),
)  # fmt: skip
"""Every container that is read, the usual ones first. Each holds its sound itself and opens nothing else.

Left out are playlists and descriptions (HLS, DASH, concat, SDP, image sequences: they name other files and addresses),
raw samples (nothing in them tells what they are), protected formats, and music and games of forty years.
"""

CONTAINER_NAMES = {container.form: container.name for container in CONTAINERS}
"""FFmpeg's name of every container that is read, and the name people use."""

SUFFIXES = tuple(sorted({suffix for container in CONTAINERS for suffix in container.suffixes.split()}))
"""Endings of file names, in lower case, that a scan of a folder takes for recordings; what is in a file decides."""

_MAGIC = {container.form: re.compile(container.magic, re.DOTALL) for container in CONTAINERS}
_HEAD_BYTES = 1 << 15
_MOST_TAGS = 100
_MOST_NAMED = 10


def sniff(source: Bytes) -> tuple[str, Bytes]:
    """The container's FFmpeg name, and the bytes behind what stands in front of it: ID3 tags, parts of a frame."""
    head = source.at(0, _HEAD_BYTES)
    if not head:
        raise EmptyAudioError(f"{source.name}: 0 bytes; the file is empty, or the stream was read before")
    for _ in range(_MOST_TAGS):
        size = id3_bytes(head)
        if not size:
            break
        source = source.part(_sound_behind_tag(source, size))
        head = source.at(0, _HEAD_BYTES)
        if not head:
            raise TruncatedAudioError(f"{source.name}: ends inside its ID3 tag; get a complete copy")
    form = _form(head)
    if form is not None:
        return form, source
    start = first_frame(head, frame_bytes)
    if start is not None:  # FFmpeg would look for the first frame further on
        return "aac" if head[start + 1] & 0xF6 == 0xF0 else "mp3", source.part(start)
    is_text = all(0x20 <= byte < 0x7F or byte in b"\t\r\n" for byte in head[:64])
    seen = f"text that starts with {head[:24].decode()!r}" if is_text else f"bytes that start with {head[:8].hex(' ')}"
    usual = ", ".join(list(CONTAINER_NAMES.values())[:_MOST_NAMED])
    raise NotAudioError(
        f"{source.name}: not audio that is read here: {seen}; allowed are {usual} and "
        f"{len(CONTAINER_NAMES) - _MOST_NAMED} more, see docs/recordings.md; "
        "convert it, and give the recording itself, no playlist or address"
    )


def container_of(head: bytes) -> str | None:
    """What people call the container that a stream surely begins with, so that nobody takes it for bare samples."""
    if head.startswith(b"ID3"):
        return "MP3"
    for form in ("wav", "flac", "ogg", "matroska", "mov", "aiff", "caf"):
        if _MAGIC[form].match(head):
            return CONTAINER_NAMES[form]
    return None


def _form(head: bytes) -> str | None:
    """The container by its magic number or the rhythm of its frames; MPEG frames are not recognized here."""
    for form, magic in _MAGIC.items():
        if magic.match(head):
            return form
    if first_frame(head, ac3_bytes, search=1) == 0:
        return "eac3" if head[5] >> 3 > 10 else "ac3"
    return "loas" if first_frame(head, latm_bytes, frames=5, search=1) == 0 else None


def _sound_behind_tag(source: Bytes, size: int) -> int:
    """Where the sound starts behind an ID3 tag of a stated size, which may be a lie and swallow frames."""
    behind = source.at(size, _HEAD_BYTES)
    if id3_bytes(behind) or _form(behind) or first_frame(behind, frame_bytes, search=1) == 0:
        return size
    inside = first_frame(source.at(0, min(size, _HEAD_BYTES)), frame_bytes, frames=5, search=_HEAD_BYTES)
    return size if inside is None else inside
