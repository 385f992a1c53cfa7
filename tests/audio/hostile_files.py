"""Sound files that want too much: channels, silence, samples, tags, blocks; small, and made in moments."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from io import BytesIO
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from redline.types import SAMPLE_RATE
from tests.audio.audio_files import encode, sine, stereo_voice, wav, written


def many_channels(form: str, codec: str, rate: int, layout: str, samples: NDArray[np.float32] | None = None) -> bytes:
    """A voice on every channel; FFmpeg makes the frames planar, for PyAV cannot fill so many planes."""
    voice = stereo_voice()[0] if samples is None else samples
    out = BytesIO()
    with av.open(out, "w", format=form) as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.layout = layout
        resampler = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=rate)
        for start in range(0, len(voice), 1000):
            block = np.repeat(voice[start : start + 1000], stream.layout.nb_channels)[np.newaxis]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), "flt", layout)
            frame.sample_rate = SAMPLE_RATE
            for part in resampler.resample(frame):
                container.mux(stream.encode(part))
        for part in resampler.resample(None):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return out.getvalue()


def far_apart(form: str, codec: str, rate: int, gap_s: float = 599.0, packets: int = 68) -> bytes:
    """Packets of one tone whose time stamps are `gap_s` apart."""
    out = BytesIO()
    with av.open(out, "w", format=form) as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.layout = "mono"
        size = stream.codec_context.frame_size or 1024
        number = 0
        for start in range(0, packets * 960, size):
            tone = sine(size / SAMPLE_RATE)[np.newaxis]
            frame = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
            frame.sample_rate, frame.pts = rate, start
            (frame,) = av.AudioResampler(format=stream.codec_context.format).resample(frame)
            for packet in stream.encode(frame):
                packet.pts = packet.dts = round(number * gap_s / packet.time_base)
                number += 1
                container.mux(packet)
    return out.getvalue()


def silent_flac(hours: float, claimed_hours: float) -> bytes:
    """Silence at 8 kHz in frames of 65535 samples, 16 bytes each, behind a header that claims a length."""
    total, claimed = round(hours * 3600 * 8000), round(claimed_hours * 3600 * 8000)
    bits = 8000 << 44 | 15 << 36 | claimed
    info = struct.pack(">HH", 65535, 65535) + bytes(6) + bits.to_bytes(8, "big") + bytes(16)
    frames = []
    for number in range(total // 65535):
        head = b"\xff\xf8\x74\x08" + _utf8(number) + struct.pack(">H", 65534)
        head += bytes([_crc(head, 8, 0x07)]) + b"\0\0\0"
        frames.append(head + _crc(head, 16, 0x8005).to_bytes(2, "big"))
    return b"fLaC\x80\0\0\x22" + info + b"".join(frames)


def _utf8(number: int) -> bytes:
    return chr(number).encode() if number < 0xD800 else b""


@cache
def _table(bits: int, polynomial: int) -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte << bits - 8
        for _ in range(8):
            value = (value << 1) ^ (polynomial if value >> bits - 1 else 0)
            value &= (1 << bits) - 1
        table.append(value)
    return tuple(table)


def _crc(data: bytes, bits: int, polynomial: int) -> int:
    table, value = _table(bits, polynomial), 0
    for byte in data:
        value = (value << 8 & (1 << bits) - 1) ^ table[value >> bits - 8 ^ byte]
    return value


# --- tables of MP4 ---


def _box(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 8) + name + body


def with_box(data: bytes, parents: bytes, name: bytes, new: bytes) -> bytes:
    """The first box of that name replaced by new bytes, its parents resized."""
    at = data.find(name) - 4
    (old,) = struct.unpack(">I", data[at : at + 4])
    out = bytearray(data[:at] + new + data[at + old :])
    for parent in parents.split():
        place = out.find(parent) - 4
        (size,) = struct.unpack(">I", out[place : place + 4])
        out[place : place + 4] = struct.pack(">I", size + len(new) - old)
    return bytes(out)


_STBL = b"moov trak mdia minf stbl"


def claims_samples(count: int, sample_bytes: int) -> bytes:
    """An MP4 whose tables say that it holds `count` samples."""
    data = with_box(_m4a(), _STBL, b"stsz", _box(b"stsz", struct.pack(">III", 0, sample_bytes, count)))
    data = with_box(data, _STBL, b"stts", _box(b"stts", struct.pack(">IIII", 0, 1, count, 1024)))
    return with_box(data, _STBL, b"stsc", _box(b"stsc", struct.pack(">IIIII", 0, 1, 1, count, 1)))


def claims_pcm_samples() -> bytes:
    """An MP4 with little more than a list of chunks, each of which claims a billion samples of plain sound."""
    data = with_box(_m4a(), _STBL, b"stts", _box(b"stts", struct.pack(">IIII", 0, 1, 10**9, 1)))
    data = with_box(data, _STBL, b"stsc", _box(b"stsc", struct.pack(">IIIII", 0, 1, 1, 10**9, 1)))
    return with_box(data, _STBL, b"stco", _box(b"stco", struct.pack(">II", 0, 1000) + struct.pack(">I", 40) * 1000))


def claims_in_fragment(count: int) -> bytes:
    """A fragmented MP4 with a run of samples that have no sizes of their own."""
    data = encode(stereo_voice(), "mp4-fragments")
    at = data.find(b"trun") - 4
    (size,) = struct.unpack(">I", data[at : at + 4])
    new = data[at : at + size] + _box(b"trun", struct.pack(">II", 0, count))
    return with_box(data, b"moof traf", b"trun", new)


def plays_again_and_again(times: int) -> bytes:
    """An MP4 whose list of edits plays its two seconds many times."""
    edits = struct.pack(">IiHH", 2000, 0, 1, 0) * times
    return with_box(_m4a(), b"moov trak edts", b"elst", _box(b"elst", struct.pack(">II", 0, times) + edits))


@cache
def _m4a() -> bytes:
    return encode(stereo_voice(), "m4a")


# --- tags and blocks ---


def _comments(count: int) -> bytes:
    fields = (b"K%d=v" % number for number in range(count))
    return struct.pack("<II", 0, count) + b"".join(struct.pack("<I", len(field)) + field for field in fields)


def _flac_with(block: bytes) -> bytes:
    data = written(sine(1.0), SAMPLE_RATE, "FLAC")
    return data[:4] + bytes([data[4] & 0x7F]) + data[5:42] + block + data[42:]


def flac_comments(count: int) -> bytes:
    body = _comments(count)
    return _flac_with(b"\4" + len(body).to_bytes(3, "big") + body)


def flac_blocks(count: int) -> bytes:
    return _flac_with(b"\1\0\0\0" * count)


def flac_seek_points(count: int) -> bytes:
    """Places to seek to, the last first."""
    body = b"".join(struct.pack(">QQH", number, 5, 1) for number in range(count, 0, -1))
    return _flac_with(b"\3" + len(body).to_bytes(3, "big") + body)


def ogg_pages(data: bytes) -> list[bytes]:
    pages, at = [], 0
    while at < len(data):
        segments = data[at + 26]
        size = 27 + segments + sum(data[at + 27 : at + 27 + segments])
        pages.append(data[at : at + size])
        at += size
    return pages


def _page(head: bytes, lacing: bytes, body: bytes, number: int) -> bytes:
    page = head + struct.pack("<II", number, 0) + bytes([len(lacing)]) + lacing + body
    return page[:22] + struct.pack("<I", _crc(page, 32, 0x04C11DB7)) + page[26:]


def ogg_granule_jumps(jump_s: float) -> bytes:
    """Opus whose pages are each `jump_s` later than the one before."""
    pages = ogg_pages(encode(stereo_voice(), "opus"))
    stream = pages[:2]
    for number, page in enumerate(pages[2:], 2):
        (granule,) = struct.unpack("<q", page[6:14])
        head = page[:6] + struct.pack("<q", granule + round((number - 2) * jump_s * 48_000)) + page[14:18]
        stream.append(_page(head, page[27 : 27 + page[26]], page[27 + page[26] :], number))
    return b"".join(stream)


def matroska_tags(count: int) -> bytes:
    def element(name: bytes, body: bytes) -> bytes:
        return name + struct.pack(">Q", len(body) | 1 << 56) + body

    data = encode(stereo_voice(), "mkv-flac")
    fields = (element(b"\x45\xa3", b"K%d" % number) + element(b"\x44\x87", b"v") for number in range(count))
    tags = element(b"\x12\x54\xc3\x67", element(b"\x73\x73", b"".join(element(b"\x67\xc8", field) for field in fields)))
    start = data.find(b"\x18\x53\x80\x67") + 4
    width = 9 - data[start].bit_length()
    size = int.from_bytes(data[start : start + width], "big") & (1 << 7 * width) - 1
    return data[:start] + struct.pack(">Q", size + len(tags) | 1 << 56) + tags + data[start + width :]


def wav_chunks(count: int, place: int) -> bytes:
    data = wav()
    return data[:place] + b"junk\0\0\0\0" * count + data[place:]


def wav_tags(count: int) -> bytes:
    fields = b"".join(b"%04x" % number + b"\2\0\0\0a\0" for number in range(count))
    data = wav()
    return data[:12] + b"LIST" + struct.pack("<I", len(fields) + 4) + b"INFO" + fields + data[12:]


def id3_tags(count: int) -> bytes:
    return b"ID3\4\0\0\0\0\0\0" * count + encode(stereo_voice(), "mp3")


LARGE: dict[str, Callable[[], bytes]] = {
    "mp4-gaps": lambda: far_apart("ipod", "aac", 16_000),
    "matroska-gaps": lambda: far_apart("matroska", "aac", 16_000),
    "ogg-gaps": lambda: ogg_granule_jumps(599.0),
    "flac-silence": lambda: silent_flac(13.0, 13.0),
    "flac-silence-lies": lambda: silent_flac(13.0, 0.001),
    "flac-silence-unknown": lambda: silent_flac(13.0, 0.0),
    "mp4-samples": lambda: claims_samples(60_000_000, 100),
    "mp4-small-samples": lambda: claims_samples(60_000_000, 1),
    "mp4-samples-allowed": lambda: claims_samples(4_300_000, 1),
    "mp4-samples-with-sizes": lambda: claims_samples(60_000_000, 0),
    "mp4-pcm-samples": claims_pcm_samples,
    "mp4-fragment": lambda: claims_in_fragment(60_000_000),
}
"""Small files that want gigabytes."""

SLOW: dict[str, Callable[[], bytes]] = {
    "flac-comments": lambda: flac_comments(80_000),
    "matroska-tags": lambda: matroska_tags(80_000),
    "wav-tags": lambda: wav_tags(65_536),
    "flac-blocks": lambda: flac_blocks(1_000_000),
    "flac-seek-points": lambda: flac_seek_points(300_000),
    "wav-chunks": lambda: wav_chunks(2_500_000, 12),
    "wav-chunks-after-fmt": lambda: wav_chunks(2_500_000, 36),
    "wav-chunks-behind": lambda: wav_chunks(2_500_000, len(wav())),
    "id3-tags": lambda: id3_tags(1_500_000),
}
"""Files that want minutes."""
