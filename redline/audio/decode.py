"""Bytes to samples with FFmpeg's libraries (PyAV), which read wav and flac twice as fast as libsndfile does.

FFmpeg is told the container by our own reading of the first bytes, may use only the decoders listed here, and sees
nothing but the bytes of the input: no playlist, address or second file can be reached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from redline.audio import bounds
from redline.audio.collector import AudioOptions, Collector
from redline.audio.content import FORMATS, frame_bytes, is_cut, sniff, wav_claim
from redline.audio.frames import Packer
from redline.audio.reader import Reader
from redline.errors import AudioLimitError, EmptyAudioError, NotAudioError, TruncatedAudioError
from redline.types import Notice

if TYPE_CHECKING:
    from av import AudioFrame, AudioStream, Packet
    from av.container import InputContainer

DECODERS = frozenset(
    ("aac", "aac_latm", "ac3", "adpcm_ima_wav", "adpcm_ms", "alac", "eac3", "flac", "mp3", "mp3float", "opus", "vorbis")
    + ("pcm_alaw", "pcm_mulaw", "pcm_s8", "pcm_u8")
    + tuple(f"pcm_{kind}{order}" for kind in ("s16", "s24", "s32", "f32", "f64") for order in ("le", "be"))
)
"""FFmpeg's names of the decoders that may run; nothing that is not sound is decoded."""

_PATIENCE = 10_000  # packets in a row without one frame of sound: minutes, far beyond a scratch
_LOUDEST_CODED = 16.0  # a damaged frame can decode to a blast; no encoder makes one
_SMALLEST_GAP_S = 0.03  # above the jitter of recorders that stamp with a clock
_LARGEST_GAP_S = 600.0
_MOST_SILENCE_S = 1800.0  # of all gaps together, and
_SILENCE_PER_SOUND = 20.0  # so many seconds more for each of sound; beyond that the time stamps are not believed
_MOST_FRAME_SAMPLES = 1 << 20  # a codec may ask for 16 million
_UNMEASURED_S = 900.0  # decoded before the rest is measured, for a small file can hold days of silence
_LONGEST_PACKET_S = 20.0
_CLAIM_TOLERANCE_S = 0.1  # a coded frame or two, which encoders pad with


@dataclass
class _Story:
    """What happened on the way through the packets; times in seconds of the result."""

    bad_packets: int = 0
    silence_s: float = 0.0
    """Seconds that are silence in the result because nothing could be decoded."""
    first_loss_s: float | None = None
    last_loss_s: float = 0.0
    last_failed: bool = False
    """Nothing could be decoded after some packet."""
    last_partial: bool = False
    """The last packet is shorter than it says itself."""
    jump_at_s: float | None = None
    jumped_s: float = 0.0
    """Seconds that the time stamps jump ahead beyond what is believed; they are not in the result."""

    def lose(self, start: float, end: float) -> None:
        """Note that nothing could be decoded between two times."""
        self.first_loss_s = start if self.first_loss_s is None else self.first_loss_s
        self.last_loss_s = end
        self.silence_s += end - start


def decode(reader: Reader, options: AudioOptions, take: Callable[[NDArray[np.float32]], None]) -> tuple[Notice, ...]:
    """Decode the best audio stream; `take` gets its samples [n] as they come, mono at 16 kHz.

    Gives what was lost. Raises `AudioError` and its kinds.
    """
    import av

    form, head = sniff(reader)
    collector = Collector(reader.name, options, take)
    seen = reader.again(bounds.check(form, reader, options))
    wav = wav_claim(reader) if form == "wav" else None
    if wav and wav.rate is not None and wav.channels is not None:
        collector.check(wav.rate, wav.channels)
    with _open(seen, form) as container:
        stream = _choose(container, reader.name)
        collector.check(stream.rate, stream.channels)
        if (container.duration or 0) / av.time_base > options.max_duration_s:  # as its header claims, or by its size
            _measure(form, seen, stream.index, options)
        story = _run(form, seen, options, container, stream, collector)
        claimed_s = _claimed_s(form, head, container, stream)
        audio_streams = len(container.streams.audio)
    if wav and wav.claimed_bytes is not None and wav.present_bytes:
        claimed_s = collector.seconds * max(wav.claimed_bytes / wav.present_bytes, 1.0)
    collector.finish()
    if not collector.taken:
        if story.bad_packets or claimed_s or collector.seconds or (wav and wav.claimed_bytes) or is_cut(form, reader):
            raise TruncatedAudioError(
                f"{reader.name}: {FORMATS[form]} of {reader.size} bytes with 0 audio frames that can be decoded; "
                "it is cut off, damaged or encrypted: get a complete copy"
            )
        raise EmptyAudioError(f"{reader.name}: 0 audio frames; the recording is empty, record it again")
    notices = collector.notices()
    if audio_streams > 1:
        notices.append(Notice("several_streams", f"{audio_streams} audio streams; stream {stream.index} was read"))
    if wav and wav.claimed_bytes is None:
        notices.append(Notice("unknown_length", "the WAV header states no length, so a missing end cannot be noticed"))
    if claimed_s is not None:
        claimed_s -= story.jumped_s
    tolerance_s = 0.5 / stream.rate if form in ("wav", "flac") else _CLAIM_TOLERANCE_S
    is_short = claimed_s is not None and claimed_s - collector.seconds > tolerance_s
    # Tags behind the last frame fail to decode: no sign of a cut where a claimed length was read in full.
    is_complete = claimed_s is not None and not is_short and form != "mov"
    cut = is_cut(form, reader) or (form != "wav" and story.last_partial) or (story.last_failed and not is_complete)
    cut = cut or (is_short and story.first_loss_s is None)
    notices += _losses(story, collector.seconds, claimed_s if is_short else None, cut)
    if story.jump_at_s is not None:
        message = f"the time stamps jump {story.jumped_s:.2f} s ahead; later times count the sound alone"
        notices.append(Notice("time_jump", message, round(story.jump_at_s, 3)))
    return tuple(notices)


def _open(reader: Reader, form: str) -> InputContainer:
    import av

    reader.seek(0)
    try:
        container = av.open(
            reader,
            "r",
            format=form,
            options={"codec_whitelist": ",".join(DECODERS)},
            metadata_errors="replace",
            io_open=_refuse,
        )
    except av.FFmpegError as error:
        _unless_memory(error)
        raise TruncatedAudioError(
            f"{reader.name}: starts like {FORMATS[form]}, but its header is cut off or damaged "
            f"({reader.size} bytes; {error.strerror}); get a complete copy"
        ) from error
    for stream in container.streams.audio:
        if stream.codec_context is not None:
            stream.codec_context.options = {"max_samples": str(_MOST_FRAME_SAMPLES)}
    return container


def too_large(name: str) -> AudioLimitError:
    """The error in place of a `MemoryError`."""
    return AudioLimitError(
        f"{name}: decoding it needs more memory than there is, or than is allowed; split it, or free some"
    )


def _unless_memory(error: Exception) -> None:
    """Damage is passed over; a lack of memory is not damage."""
    if isinstance(error, MemoryError):
        raise error


def _measure(form: str, reader: Reader, index: int, options: AudioOptions) -> None:
    """Add up what the packets say of their length, without decoding them; raises `AudioLimitError`."""
    seconds = 0.0
    with _open(reader.again(reader.size), form) as container:
        stream = container.streams[index]
        for packet in _packets(container, cast("AudioStream", stream)):
            if packet is not None and packet.duration and packet.time_base:
                seconds += min(float(packet.duration * packet.time_base), _LONGEST_PACKET_S)
            if seconds > options.max_duration_s:
                raise AudioLimitError(
                    f"{reader.name}: longer than the {options.max_duration_s:g} s that are allowed; "
                    "split it, or raise max_duration_s"
                )


def _refuse(url: str, *_: Any) -> NoReturn:
    raise PermissionError(f"a recording may not open another file: {url}")


def _choose(container: InputContainer, name: str) -> AudioStream:
    """The audio stream that FFmpeg thinks best, if its decoder is allowed."""
    stream = cast("AudioStream | None", container.streams.best("audio"))
    if stream is None:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise NotAudioError(f"{name}: no audio stream, only {kinds}; give a recording with sound")
    codec = stream.codec_context.name if stream.codec_context else "an unknown codec"
    if codec not in DECODERS:
        raise NotAudioError(f"{name}: its sound is coded as {codec}, which is not read here; convert it to WAV or FLAC")
    return stream


def _run(
    form: str,
    reader: Reader,
    options: AudioOptions,
    container: InputContainer,
    stream: AudioStream,
    collector: Collector,
) -> _Story:
    """Decode every packet into the collector; a gap in the time stamps becomes silence."""
    import av

    story = _Story()
    packer = Packer()
    filled_s = 0.0  # silence in place of gaps
    is_measured = form == "wav"
    is_coded = not stream.codec_context.name.startswith("pcm_")
    failed = 0  # packets in a row
    last: Packet[AudioStream] | None = None
    origin_s: float | None = None
    if container.start_time is not None:
        origin_s = 0.0 if form == "ogg" else container.start_time / av.time_base  # Ogg's own clock starts at 0
    for packet in _packets(container, stream):
        frames: list[AudioFrame] = []
        if packet is not None:
            if form == "flac" and _skipped_bytes(last, packet):
                failed += 1
            last = packet if packet.size else last
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                _unless_memory(error)
                failed += 1
        else:
            failed += 1
        for frame in frames:
            collector.check(frame.sample_rate, frame.layout.nb_channels)
            block = packer.block(frame)
            if is_coded and not float(np.abs(block).max(initial=0.0)) <= _LOUDEST_CODED:
                failed += 1
                continue
            now_s = collector.seconds
            if frame.time is not None:
                origin_s = frame.time - now_s if origin_s is None else origin_s
                gap_s = frame.time - origin_s - now_s
                most_s = _MOST_SILENCE_S + _SILENCE_PER_SOUND * (now_s - filled_s)
                if abs(gap_s) > _LARGEST_GAP_S or filled_s + gap_s > most_s:  # a clock that was set, not a gap
                    origin_s += gap_s
                    if gap_s > 0 and now_s > 0:
                        story.jumped_s += gap_s
                        story.jump_at_s = now_s if story.jump_at_s is None else story.jump_at_s
                elif gap_s > _SMALLEST_GAP_S:
                    collector.add_silence(gap_s, frame.sample_rate)
                    filled_s += gap_s
                    if now_s > 0 or form == "ogg":  # sound that starts later than the picture is no loss
                        story.lose(now_s, collector.seconds)
            if failed:
                story.bad_packets += failed
                story.lose(collector.seconds, collector.seconds)
                failed = 0
            collector.add(block, frame.sample_rate)
        if collector.seconds > _UNMEASURED_S and not is_measured:
            _measure(form, reader, stream.index, options)
            is_measured = True
        if failed > _PATIENCE:
            break
    story.last_failed = failed > 0
    if last is not None:
        story.last_partial = last.is_corrupt or (form in ("mp3", "aac") and frame_bytes(bytes(last)[:6]) > last.size)
    story.bad_packets += failed
    return story


def _skipped_bytes(last: Packet[AudioStream] | None, packet: Packet[AudioStream]) -> bool:
    """Whether the demuxer passed over bytes between two packets to find a frame again."""
    if last is None or last.pos is None or packet.pos is None:
        return False
    return packet.pos > last.pos + last.size


def _packets(container: InputContainer, stream: AudioStream) -> Iterator[Packet[AudioStream] | None]:
    """Every packet of one stream; None where the demuxer lost its way and takes it up again."""
    import av

    for _ in range(_PATIENCE):
        try:
            yield from container.demux(stream)
            return
        except av.FFmpegError as error:
            _unless_memory(error)
            yield None


def _claimed_s(form: str, head: bytes, container: InputContainer, stream: AudioStream) -> float | None:
    """The seconds that the header promises, where FFmpeg has them from the header and not from the file's size."""
    if form in ("flac", "mov") or (form == "mp3" and any(mark in head[:200] for mark in (b"Xing", b"Info", b"VBRI"))):
        return float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
    if form == "matroska" and len(container.streams) == 1 and container.duration:
        return container.duration / 1e6
    return None


def _losses(story: _Story, read_s: float, claimed_s: float | None, cut: bool) -> Iterator[Notice]:
    """What was lost inside and at the end; `claimed_s` is given where less than that was read."""
    if story.first_loss_s is not None or (story.bad_packets and not cut):
        start = read_s if story.first_loss_s is None else story.first_loss_s
        parts = [
            f"{story.bad_packets} packets could not be decoded" if story.bad_packets else "",
            f"{story.silence_s:.2f} s without sound data became silence" if story.silence_s else "",
            f"{claimed_s - read_s:.2f} s are missing" if claimed_s is not None and not cut else "",
        ]
        message = "; ".join(part for part in parts if part)
        yield Notice("damaged", message, round(start, 3), round(max(story.last_loss_s, start), 3))
    if cut:
        promised = f"of {claimed_s:.3f} s that were announced " if claimed_s is not None else ""
        end = None if claimed_s is None else round(claimed_s, 3)
        yield Notice("truncated", f"cut off: {promised}{read_s:.3f} s could be read", round(read_s, 3), end)
