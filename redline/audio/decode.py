"""Bytes to samples with FFmpeg's libraries (PyAV), which read wav and flac twice as fast as libsndfile does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from redline.audio import bounds
from redline.audio.claims import EXACT, WavClaim, claimed_s, is_cut, wav_claim
from redline.audio.collector import AudioOptions, Collector
from redline.audio.container import PATIENCE, choose, measure, open_container, packets, several, unless_memory
from redline.audio.content import FORMATS, sniff
from redline.audio.frames import Packer
from redline.audio.mpeg import frame_length, recordings
from redline.audio.ogg import parts as ogg_parts
from redline.audio.reader import Reader
from redline.audio.splice import Part, Spliced
from redline.audio.story import Story
from redline.errors import AudioLimitError, EmptyAudioError, TruncatedAudioError
from redline.types import SAMPLE_RATE, Notice

if TYPE_CHECKING:
    from av import AudioFrame, AudioStream, Packet
    from av.container import InputContainer

_LOUDEST_CODED = 16.0  # a damaged frame can decode to a blast; no encoder makes one
_SMALLEST_GAP_S = 0.03  # above the jitter of recorders that stamp with a clock
_LARGEST_GAP_S = 600.0
_MOST_SILENCE_S = 1800.0  # of all gaps together, and
_SILENCE_PER_SOUND = 20.0  # so many seconds more for each of sound; beyond that the time stamps are not believed
_UNMEASURED_S = 900.0  # decoded before the rest is measured, for a small file can hold days of silence
_CLAIM_TOLERANCE_S = 0.1  # a coded frame or two, which encoders pad with


def decode(reader: Reader, options: AudioOptions, take: Callable[[NDArray[np.float32]], None]) -> tuple[Notice, ...]:
    """Decode one audio track; `take` gets its samples [n] as they come, mono at 16 kHz.

    Gives what was lost. Raises `AudioError` and its kinds.
    """
    form, head = sniff(reader)
    collector = Collector(reader.name, options, take)
    seen = reader.again(bounds.check(form, reader, options))
    wav = wav_claim(reader) if form == "wav" else None
    if wav and wav.rate is not None and wav.channels is not None:
        collector.check(wav.rate, wav.channels)
    story = Story()
    claimed: float | None = None
    tolerance_s, lost_behind = 0.0, 0
    notices: list[Notice] = []
    for number, part in enumerate(_parts(form, seen)):
        if part.begins and number:
            _close(claimed, lost_behind, story, collector)
            claimed = None
        story.bad_packets += part.lost + part.lost_behind
        lost_behind = part.lost_behind
        if part.lost:
            story.lose(collector.seconds, collector.seconds)
        try:
            container = open_container(form, part.source, reader.name)
        except TruncatedAudioError:
            if number == 0:
                raise
            story.bad_packets += 1
            story.lose(collector.seconds, collector.seconds)
            claimed = max((collector.seconds + end_s for end_s in part.ends_s if end_s), default=None)
            continue
        with container:
            stream = choose(container, reader.name, options.track)
            collector.check(stream.rate, stream.channels)
            if number == 0 and options.track is None and len(container.streams.audio) > 1:
                notices.append(several(container, stream))
            started_s = collector.seconds
            if part.begins:  # the clock of Ogg starts at 0
                story.origin_s = -started_s if form == "ogg" else None
            _run(form, head, part.source, options, container, stream, collector, story)
            if form == "ogg":
                end_s = part.ends_s[stream.index] if stream.index < len(part.ends_s) else None
                claimed = None if end_s is None else end_s - (story.origin_s or 0.0)
            else:
                own_s = claimed_s(form, part.source.at(0, len(head)), container, stream)
                claimed = None if own_s is None else started_s + own_s - story.jumped_s
            tolerance_s = 0.5 / stream.rate if form in EXACT else _CLAIM_TOLERANCE_S
    collector.finish()
    if wav:
        claimed = wav.claimed_s
        if claimed is None and wav.claimed_bytes and wav.present_bytes:  # of coded sound the share of the bytes
            claimed = collector.seconds * max(wav.claimed_bytes / wav.present_bytes, 1.0)
        notices += _told(wav, collector.seconds)
    if not collector.taken:
        if story.bad_packets or claimed or collector.seconds or (wav and wav.claimed_bytes) or is_cut(form, reader):
            raise TruncatedAudioError(
                f"{reader.name}: {FORMATS[form]} of {reader.size} bytes with 0 audio frames that can be decoded; "
                "it is cut off, damaged or encrypted: get a complete copy"
            )
        raise EmptyAudioError(f"{reader.name}: 0 audio frames; the recording is empty, record it again")
    is_short = claimed is not None and claimed - collector.seconds > tolerance_s
    # Tags behind the last frame fail to decode: no sign of a cut where a claimed length was read in full.
    is_complete = claimed is not None and not is_short and form != "mov"
    cut = is_cut(form, reader) or (form != "wav" and story.last_partial) or (story.last_failed and not is_complete)
    cut = cut or reader.shrank or seen.shrank or (is_short and (story.first_loss_s is None or form == "ogg"))
    if lost_behind and not cut:
        story.lose(collector.seconds, collector.seconds)
    losses = story.losses(collector.seconds, claimed if is_short else None, cut)
    return (*collector.notices(), *notices, *losses)


def too_large(name: str) -> AudioLimitError:
    """The error in place of a `MemoryError`."""
    return AudioLimitError(
        f"{name}: decoding it needs more memory than there is, or than is allowed; its header is damaged, or split it, "
        "or free some"
    )


def _parts(form: str, reader: Reader) -> list[Part]:
    """The recordings of a file, which may be several joined ones, each decoded for itself."""
    if form == "ogg":
        return ogg_parts(reader)
    spans = recordings(reader) if form in ("mp3", "aac") else []
    return [Part(Spliced(reader, [span])) for span in spans] if len(spans) > 1 else [Part(reader)]


def _close(claimed: float | None, lost: int, story: Story, collector: Collector) -> None:
    """Silence in place of the end that a recording lacks before the next one starts, so that times stay true."""
    now_s = collector.seconds
    if claimed is not None and _CLAIM_TOLERANCE_S < claimed - now_s <= _LARGEST_GAP_S:
        collector.add_silence(claimed - now_s, SAMPLE_RATE)
        lost = 1
    if lost:
        story.lose(now_s, collector.seconds)


def _told(wav: WavClaim, read_s: float) -> list[Notice]:
    """What a WAV header does not say, or says wrongly."""
    if wav.claimed_bytes is None:
        return [Notice("unknown_length", "the WAV header states no length, so a missing end cannot be noticed")]
    if not wav.unread_s:
        return []
    message = (
        f"{wav.unread_s:.3f} s of what looks like sound lie behind the end that the WAV header states, and were not "
        "read; repair the header to hear them"
    )
    return [Notice("unread", message, round(read_s, 3), round(read_s + wav.unread_s, 3))]


def _run(
    form: str,
    head: bytes,
    source: Reader | Spliced,
    options: AudioOptions,
    container: InputContainer,
    stream: AudioStream,
    collector: Collector,
    story: Story,
) -> None:
    """Decode every packet into the collector; a gap in the time stamps becomes silence."""
    import av

    if (container.duration or 0) / av.time_base > options.max_duration_s:  # as its header claims, or by its size
        measure(form, source, collector.name, stream.index, options.max_duration_s)
    packer = Packer()
    first_rate, length_of = stream.rate, frame_length(form, head)
    is_measured = form == "wav"
    is_coded = not stream.codec_context.name.startswith("pcm_")
    started_s = collector.seconds
    failed = 0  # packets in a row
    last: Packet[AudioStream] | None = None
    if story.origin_s is None and container.start_time is not None:
        story.origin_s = container.start_time / av.time_base - started_s
    for packet in packets(container, stream):
        frames: list[AudioFrame] = []
        if packet is not None:
            if form == "flac" and _skipped_bytes(last, packet):
                failed += 1
            last = packet if packet.size else last
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                unless_memory(error)
                failed += 1
        else:
            failed += 1
        for frame in frames:
            collector.check(frame.sample_rate, frame.layout.nb_channels)
            block = packer.block(frame)
            if is_coded and not float(np.abs(block).max(initial=0.0)) <= _LOUDEST_CODED:
                failed += 1
                continue
            if length_of and frame.sample_rate != first_rate:
                story.origin_s = None  # without a container, FFmpeg counts on with the first rate
            _keep_time(form, frame, started_s, collector, story)
            if failed:
                story.bad_packets += failed
                story.lose(collector.seconds, collector.seconds)
                failed = 0
            collector.add(block, frame.sample_rate)
        if collector.seconds > _UNMEASURED_S and not is_measured:
            measure(form, source, collector.name, stream.index, options.max_duration_s)
            is_measured = True
        if failed > PATIENCE:
            break
    story.last_failed = failed > 0
    if last is not None:
        story.last_partial = last.is_corrupt or (
            length_of is not None and length_of(bytes(last)[:6].ljust(6, b"\0")) > last.size
        )
    story.bad_packets += failed


def _keep_time(form: str, frame: AudioFrame, started_s: float, collector: Collector, story: Story) -> None:
    """Silence where the time stamps leave a gap in front of a frame, as far as they are believed."""
    if frame.time is None:
        return
    now_s = collector.seconds
    if story.origin_s is None:
        story.origin_s = frame.time - now_s
    gap_s = frame.time - story.origin_s - now_s
    if form == "ogg" and now_s == started_s and 0 < gap_s < _CLAIM_TOLERANCE_S:
        story.origin_s += gap_s  # the first packet of Vorbis has no sound of its own
        return
    most_s = _MOST_SILENCE_S + _SILENCE_PER_SOUND * (now_s - story.filled_s)
    if abs(gap_s) > _LARGEST_GAP_S or story.filled_s + gap_s > most_s:  # a clock that was set, not a gap
        story.origin_s += gap_s
        if gap_s > 0 and now_s > 0:
            story.jumped_s += gap_s
            story.jump_at_s = now_s if story.jump_at_s is None else story.jump_at_s
    elif gap_s > _SMALLEST_GAP_S:
        collector.add_silence(gap_s, frame.sample_rate)
        story.filled_s += gap_s
        if now_s > 0 or form == "ogg":  # sound that starts later than the picture is no loss
            story.lose(now_s, collector.seconds)


def _skipped_bytes(last: Packet[AudioStream] | None, packet: Packet[AudioStream]) -> bool:
    """Whether the demuxer passed over bytes between two packets to find a frame again."""
    if last is None or last.pos is None or packet.pos is None:
        return False
    return packet.pos > last.pos + last.size
