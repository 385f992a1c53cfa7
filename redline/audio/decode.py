"""Bytes to mono 16 kHz blocks with FFmpeg's libraries (PyAV), which read wav and flac twice as fast as libsndfile."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from redline.audio import demux, duration_check, ogg_pages
from redline.audio.containers import CONTAINER_NAMES, sniff
from redline.audio.duration_check import WavHeader, wav_header
from redline.audio.levels import Samples
from redline.audio.mpeg_frames import FRAME_LENGTHS, joined_recordings
from redline.audio.ogg_pages import Part
from redline.audio.options import AudioOptions
from redline.audio.resample import MonoResampler, to_float
from redline.audio.source import Bytes
from redline.audio.timeline import LARGEST_GAP_S, Timeline
from redline.errors import AudioLimitError, EmptyAudioError, TruncatedAudioError
from redline.types import SAMPLE_RATE, Notice

if TYPE_CHECKING:
    from av import AudioFrame, AudioStream, Packet
    from av.container import InputContainer

Blocks = Generator[Samples, None, tuple[Notice, ...]]
"""Mono blocks [n] at 16 kHz; at the end the notices of what was lost and chosen."""

_LOUDEST_CODED = 16.0  # a damaged frame can decode to a blast; no encoder makes one
_UNMEASURED_S = 900.0  # decoded before the rest is measured, for a small file can hold days of silence
_STATED_TOLERANCE_S = 0.1  # a coded frame or two, which encoders pad with
_SAFE_PLANES = 7
"""PyAV looks for the last plane of a frame by walking to an empty pointer, and a frame has room for eight pointers:
with more planes than this it reads what lies behind them."""


def decode_blocks(source: Bytes, options: AudioOptions) -> Blocks:
    """Decode one audio track, block by block; raises `AudioError` and its kinds where they occur."""
    return (yield from _Decoder(source, options).blocks())


def too_large(name: str) -> AudioLimitError:
    """The error in place of a `MemoryError`."""
    what = "decoding it needs more memory than there is, or than is allowed"
    return AudioLimitError(f"{name}: {what}; its header is damaged, or split it, or free some")


class _Decoder:
    """Decoding of one file: joined recordings one after the other, each of parts between damages."""

    def __init__(self, source: Bytes, options: AudioOptions) -> None:
        self.whole, self.options = source, options
        self.form, self.source = sniff(source)
        self.output = MonoResampler(source.name, options)
        self.timeline = Timeline()
        self.notices: list[Notice] = []
        self.stated_s: float | None = None
        """When the recording ends by its own word, in seconds of the result."""
        self.tolerance_s = 0.0
        self.lost_behind = 0
        """Ogg pages lost at the end of the last part."""
        self.failed = 0
        """Packets without a frame in a row, up to now."""
        self.is_last_partial = False
        """The last packet is shorter than it says itself."""

    def blocks(self) -> Blocks:
        wav = wav_header(self.source) if self.form == "wav" else None
        if wav and wav.rate is not None and wav.channels is not None:
            self.output.check(wav.rate, wav.channels)
        for number, part in enumerate(self._parts(wav)):
            yield from self._decode_part(number, part)
        yield from self.output.finish()
        read_s = self.output.seconds
        if wav:
            self.stated_s = wav.stated_s(self.source, read_s)
            self.notices += wav.notices(self.source, read_s)
        if self.output.is_empty:
            raise self._no_frames(wav)
        is_short = self.stated_s is not None and self.stated_s - read_s > self.tolerance_s
        is_cut = self._is_cut(is_short)
        if self.lost_behind and not is_cut:
            self.timeline.lose(read_s, read_s)
        losses = self.timeline.notices(read_s, self.stated_s if is_short else None, is_cut)
        return (*self.output.notices(), *self.notices, *losses)

    def _parts(self, wav: WavHeader | None) -> list[Part]:
        """What is decoded for itself: the recordings of a file, which may be several joined ones."""
        if self.form == "ogg":
            return ogg_pages.parts(self.source)
        if self.form in ("mp3", "aac"):
            return [Part(recording) for recording in joined_recordings(self.source)]
        # What lies behind the samples is hidden from FFmpeg, which would take it for chunks.
        return [Part(self.source.part(0, wav.start + wav.stated_bytes if wav and wav.stated_bytes else None))]

    def _decode_part(self, number: int, part: Part) -> Iterator[Samples]:
        form, output, timeline = self.form, self.output, self.timeline
        if part.begins and number:
            self._fill_missing_end()
            self.stated_s = None
        timeline.bad_packets += part.lost + part.lost_behind
        self.lost_behind = part.lost_behind
        if part.lost:
            timeline.lose(output.seconds, output.seconds)
        try:
            container = demux.open_container(form, part.source, output.name)
        except TruncatedAudioError:
            if number == 0:
                raise
            timeline.lose(output.seconds, output.seconds, packets=1)
            self.stated_s = max((output.seconds + end_s for end_s in part.ends_s if end_s), default=None)
            return
        with container:
            stream = demux.choose_track(container, output.name, self.options.track)
            output.check(stream.rate, stream.channels)
            if number == 0 and container.duration:
                self.whole.stated_s = container.duration / 1e6
            if number == 0 and self.options.track is None and len(container.streams.audio) > 1:
                self.notices.append(demux.several_tracks(container, stream))
            started_s = output.seconds
            if part.begins:  # the clock of Ogg starts at 0
                timeline.origin_s = -started_s if form == "ogg" else None
            yield from self._decode_track(part, container, stream)
            if form == "ogg":
                end_s = part.ends_s[stream.index] if stream.index < len(part.ends_s) else None
                self.stated_s = None if end_s is None else end_s - (timeline.origin_s or 0.0)
            else:
                own_s = duration_check.stated_s(form, part.source, container, stream)
                self.stated_s = None if own_s is None else started_s + own_s - timeline.jumped_s
            self.tolerance_s = 0.5 / stream.rate if form in duration_check.EXACT else _STATED_TOLERANCE_S

    def _decode_track(self, part: Part, container: InputContainer, stream: AudioStream) -> Iterator[Samples]:
        """Decode every packet; a gap in the time stamps becomes silence."""
        import av

        form, output, timeline, most_s = self.form, self.output, self.timeline, self.options.max_duration_s
        is_stated_longer = (container.duration or 0) / av.time_base > most_s  # by its header or its size
        measured_at_s = 0.0 if is_stated_longer else math.inf if form == "wav" else _UNMEASURED_S
        sample_format = stream.codec_context.format
        is_pcm = stream.codec_context.name.startswith("pcm_")
        can_blast = not is_pcm and (sample_format is None or sample_format.name.startswith(("flt", "dbl")))
        first_rate, started_s = stream.rate, output.seconds
        if timeline.origin_s is None and container.start_time is not None:
            timeline.origin_s = container.start_time / av.time_base - started_s
        self.failed = 0
        last: Packet[AudioStream] | None = None
        for packet in demux.packets(container, stream):
            if output.seconds >= measured_at_s:
                demux.check_duration(form, part.source, output.name, stream.index, most_s)
                measured_at_s = math.inf
            frames: list[AudioFrame] = []
            if packet is None:
                self.failed += 1
            else:
                last = packet if packet.size else last
                try:
                    frames = packet.decode()
                except av.FFmpegError as error:
                    demux.unless_memory(error)
                    self.failed += 1
            for frame in frames:
                rate = frame.sample_rate
                output.check(rate, frame.layout.nb_channels)
                block = _planar(frame)
                if can_blast and not max(block.max(initial=0.0), -block.min(initial=0.0)) <= _LOUDEST_CODED:
                    self.failed += 1
                    continue
                if form in FRAME_LENGTHS and rate != first_rate:
                    timeline.origin_s = None  # without a container, FFmpeg counts on with the first rate
                self._keep_time(frame, started_s)
                if self.failed:
                    timeline.lose(output.seconds, output.seconds, self.failed)
                    self.failed = 0
                output.add(block, rate)
            yield from output.blocks()
        if last is not None:
            stated_bytes = FRAME_LENGTHS[form](bytes(last)[:6].ljust(6, b"\0")) if form in FRAME_LENGTHS else 0
            self.is_last_partial = last.is_corrupt or stated_bytes > last.size
        timeline.bad_packets += self.failed

    def _keep_time(self, frame: AudioFrame, started_s: float) -> None:
        """Silence where the time stamps leave a gap in front of a frame, as far as they are believed."""
        if frame.time is None:
            return
        now_s = self.output.seconds
        if self.form == "ogg" and now_s == started_s:
            self.timeline.skip_first_packet(frame.time, now_s)
        gap_s = self.timeline.gap_s(frame.time, now_s)
        if gap_s:
            self.output.add_silence(gap_s, frame.sample_rate)
            if now_s > 0 or self.form == "ogg":  # sound that starts later than the picture is no loss
                self.timeline.lose(now_s, self.output.seconds)

    def _fill_missing_end(self) -> None:
        """Silence in place of the end that a recording lacks before the next one starts, so that times stay true."""
        now_s = self.output.seconds
        is_short = self.stated_s is not None and _STATED_TOLERANCE_S < self.stated_s - now_s <= LARGEST_GAP_S
        if is_short and self.stated_s is not None:
            self.output.add_silence(self.stated_s - now_s, SAMPLE_RATE)
        if is_short or self.lost_behind:
            self.timeline.lose(now_s, self.output.seconds)

    def _is_cut(self, is_short: bool) -> bool:
        """Whether the recording is truncated, by its bytes, its last packet or its stated duration."""
        # Tags behind the last frame fail to decode: no sign of a cut where the stated duration was read in full.
        is_complete = self.stated_s is not None and not is_short and self.form != "mov"
        return (
            duration_check.is_cut(self.form, self.source)
            or (self.is_last_partial and self.form != "wav")
            or (self.failed > 0 and not is_complete)
            or self.source.has_shrunk
            or (is_short and (self.timeline.first_loss_s is None or self.form == "ogg"))
        )

    def _no_frames(self, wav: WavHeader | None) -> TruncatedAudioError | EmptyAudioError:
        name, form = self.source.name, self.form
        is_promised = self.timeline.bad_packets or self.stated_s or self.output.seconds or (wav and wav.stated_bytes)
        if is_promised or duration_check.is_cut(form, self.source):
            what = f"{CONTAINER_NAMES[form]} of {self.source.size} bytes with 0 audio frames that can be decoded"
            return TruncatedAudioError(f"{name}: {what}; it is cut off, damaged or encrypted: get a complete copy")
        return EmptyAudioError(f"{name}: 0 audio frames; the recording is empty, record it again")


def _planar(frame: AudioFrame) -> Samples:
    """The samples of a frame, [channels, n]."""
    import av

    channels = frame.layout.nb_channels
    if frame.format.is_planar and channels > _SAFE_PLANES:
        (frame,) = av.AudioResampler(format=frame.format.packed).resample(frame)
    values: NDArray[Any] = frame.to_ndarray()
    return to_float(values if frame.format.is_planar else values.reshape(-1, channels).T)
