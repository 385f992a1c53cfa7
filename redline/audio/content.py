"""What a run of bytes is, by its content alone: the containers that are read, and their marks."""

from __future__ import annotations

from dataclasses import dataclass

from redline.audio.mpeg import ac3_bytes, first_frame, frame_bytes, id3_bytes, loas_bytes, sound_in_tag
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
_MOST_TAGS = 100
_MARKS = (
    (0, b"fLaC", "flac"),
    (0, b"OggS", "ogg"),
    (0, b"\x1aE\xdf\xa3", "matroska"),
    (4, b"ftyp", "mov"),
    (4, b"moov", "mov"),
    (4, b"mdat", "mov"),
    (4, b"wide", "mov"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (0, b"riff\x2e\x91\xcf\x11", "w64"),
    (0, b"caff", "caf"),
    (0, b".snd", "au"),
    (0, b"#!AMR", "amr"),
    (0, b"#!iLBC", "ilbc"),
    (0, b"\2dss", "dss"),
    (0, b"\3dss", "dss"),
    (0, b"Creative Voice File\x1a", "voc"),
    (0, b"NIST_1A\n", "nistsphere"),
    *((0, bytes((0x64, 0xA3, machine, 0)), "ircam") for machine in range(1, 5)),
    *((0, bytes((0, machine, 0xA3, 0x64)), "ircam") for machine in range(1, 5)),
    (0, b".SoX", "sox"),
    (0, b"XoS.", "sox"),
    (0, b"\x7f\xfe\x80\x01", "dts"),
    (0, b"\xfe\x7f\x01\x80", "dts"),
    (0, b"\x1f\xff\xe8\x00", "dts"),
    (0, b"\xff\x1f\x00\xe8", "dts"),
    (0, b"wvpk", "wv"),
    (0, b"TTA1", "tta"),
    (0, b"MAC ", "ape"),
    (0, b"MP+", "mpc"),
    (0, b"MPCK", "mpc8"),
    (0, b"tBaK", "tak"),
    (0, b"ajkg", "shn"),
    (0, b".RMF", "rm"),
    (0, b".ra\xfd", "rm"),
    (0, b"FLV\1", "flv"),
    (0, b"\0\0\1\xba", "mpeg"),
    (0, b"\x06\x0e\x2b\x34\x02\x05\x01\x01", "mxf"),
    (0, b"nut/multimedia container\0", "nut"),
)
"""Where a container's mark stands, and the mark."""
_CHUNKED = {b"WAVE": "wav", b"AVI ": "avi", b"QLCM": "qcp", b"AIFF": "aiff", b"AIFC": "aiff"}
"""The kinds of RIFF and FORM."""
_GSM_FRAMES = 16  # each has a mark of four bits only


def sniff(reader: Reader) -> tuple[str, bytes]:
    """The container's FFmpeg name and its first bytes, judged by content; an ID3 tag in front is left behind."""
    head = reader.at(0, _HEAD_BYTES)
    if not head:
        raise EmptyAudioError(f"{reader.name}: 0 bytes; the file is empty, or the stream was read before")
    for _ in range(_MOST_TAGS):
        size = id3_bytes(head)
        if not size:
            break
        hidden = sound_in_tag(reader, 0, min(size, reader.size))
        reader.base += size if hidden is None else hidden
        head = reader.at(0, _HEAD_BYTES)
        if not head:
            raise TruncatedAudioError(f"{reader.name}: ends inside its ID3 tag; get a complete copy")
    form = _marked(head)
    if form is not None:
        return form, head
    start = first_frame(head, frame_bytes)
    if start is not None:
        reader.base += start  # FFmpeg would look for the first frame further on
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


def _marked(head: bytes) -> str | None:
    """The container that a mark or a rhythm of marks tells."""
    if head[:4] in (b"RIFF", b"RF64", b"BW64", b"FORM") and head[8:12] in _CHUNKED:
        return _CHUNKED[head[8:12]]
    for offset, mark, form in _MARKS:
        if head[offset : offset + len(mark)] == mark:
            return form
    if first_frame(head, ac3_bytes, search=1) == 0:
        return "eac3" if head[5] >> 3 > 10 else "ac3"
    if first_frame(head, loas_bytes, frames=5, search=1) == 0:
        return "loas"
    if transport_packet(head):
        return "mpegts"
    marks = head[: len(head) // 33 * 33 : 33]
    return "gsm" if len(marks) >= _GSM_FRAMES and all(byte >> 4 == 0xD for byte in marks) else None


def transport_packet(head: bytes) -> tuple[int, int] | None:
    """Where the packets of an MPEG transport stream start and how long they are: plain, with times or with checks."""
    for start, size in ((0, 188), (4, 192), (0, 204)):
        if len(head) >= 3 * size and set(head[start : 20 * size : size]) == {0x47}:
            return start, size
    return None
