"""FFmpeg's demuxers and decoders (PyAV), opened so that they can do no harm, and the tracks in a container.

FFmpeg is told the container by our own sniffing of the first bytes, may use only the decoders listed here, and sees
nothing but the bytes of the input: no playlist, address or second file can be reached.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from typing import TYPE_CHECKING, NoReturn, cast

from redline.audio.containers import CONTAINER_NAMES
from redline.audio.source import Bytes
from redline.errors import AudioError, AudioLimitError, NotAudioError, TruncatedAudioError
from redline.types import Notice

if TYPE_CHECKING:
    from av import AudioStream, Packet
    from av.container import InputContainer

DECODERS = frozenset(
    ("aac", "aac_latm", "ac3", "alac", "als", "eac3", "flac", "mp3", "mp3float", "opus", "vorbis")
    + ("amrnb", "amrwb", "speex", "gsm", "gsm_ms", "ilbc", "qcelp", "evrc", "g723_1", "g726", "g726le", "truespeech")
    + ("mp1", "mp1float", "mp2", "mp2float", "dca", "mlp", "truehd", "nellymoser", "qdm2", "mace3", "mace6", "dss_sp")
    + ("wmav1", "wmav2", "wmapro", "wmavoice", "wmalossless", "cook", "sipr", "real_144", "real_288", "ralf")
    + ("wavpack", "tta", "ape", "mpc7", "mpc8", "tak", "shorten", "adpcm_ms", "adpcm_swf", "adpcm_yamaha")
    + ("adpcm_ima_wav", "adpcm_ima_qt", "pcm_alaw", "pcm_mulaw", "pcm_s8", "pcm_u8", "pcm_bluray", "pcm_dvd")
    + tuple(f"pcm_{kind}{order}" for kind in ("s16", "s24", "s32", "f32", "f64", "u16") for order in ("le", "be"))
)
"""FFmpeg's names of the decoders that may run; nothing that is not sound is decoded."""

_PATIENCE = 10_000  # times that the demuxer may lose its way
_MOST_FRAME_SAMPLES = 1 << 21  # a codec may ask for 16 million
_LONGEST_PACKET_S = 20.0
_MOST_LISTED = 20
_SKIP_MANUAL = 1 << 29  # AV_CODEC_FLAG2_SKIP_MANUAL: ALAC in CAF codes no padding, but FFmpeg cuts its length off


def open_container(form: str, source: Bytes, name: str) -> InputContainer:
    """Open bytes as one kind of container; raises `TruncatedAudioError` where its header cannot be read."""
    import av

    source.seek(0)
    try:
        container = av.open(
            source,
            "r",
            format=form,
            options={"codec_whitelist": ",".join(DECODERS), "format_whitelist": form},
            metadata_errors="replace",
            io_open=_refuse,
        )
    except av.FFmpegError as error:
        unless_memory(error)
        what = f"starts like {CONTAINER_NAMES[form]}, but its header is cut off or damaged"
        seen = f"({source.size} bytes; {error.strerror})"
        raise TruncatedAudioError(f"{name}: {what} {seen}; get a complete copy") from error
    for stream in container.streams.audio:
        if stream.codec_context is not None:
            stream.codec_context.options = {"max_samples": str(_MOST_FRAME_SAMPLES)}
            if form == "caf" and stream.codec_context.name == "alac":
                stream.codec_context.flags2 |= _SKIP_MANUAL
    return container


def _refuse(url: str, *_: object) -> NoReturn:
    raise PermissionError(f"a recording may not open another file: {url}")


def unless_memory(error: Exception) -> None:
    """Damage is passed over; a lack of memory is not damage."""
    if isinstance(error, MemoryError):
        raise error


def choose_track(container: InputContainer, name: str, track: int | None) -> AudioStream:
    """The audio track that is asked for, or the one that FFmpeg thinks best, if its decoder is allowed."""
    tracks = container.streams.audio
    if track is not None and track >= len(tracks) > 0:
        raise AudioError(f"{name}: track {track} asked for; there are {_listed(tracks)}; choose one of them")
    stream = tracks[track] if track is not None and tracks else container.streams.best("audio")
    if stream is None:
        if any(track.type == "audio" for track in container.streams):
            what = "neither its codec nor its sample rate can be found out"
            raise TruncatedAudioError(f"{name}: {what}; its header is damaged, or it is no recording")
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise NotAudioError(f"{name}: no audio stream, only {kinds}; give a recording with sound")
    stream = cast("AudioStream", stream)
    codec = stream.codec_context.name if stream.codec_context else "an unknown codec"
    if codec not in DECODERS:
        raise NotAudioError(f"{name}: its sound is coded as {codec}, which is not read here; convert it to WAV or FLAC")
    return stream


def several_tracks(container: InputContainer, stream: AudioStream) -> Notice:
    """That there are more tracks than the one that is read, and which."""
    tracks = container.streams.audio
    number = next(number for number, track in enumerate(tracks) if track.index == stream.index)
    choice = f"track {number} was read, choose another with track= (--track)"
    return Notice("several_streams", f"there are {_listed(tracks)}; {choice}")


def _listed(tracks: Sequence[AudioStream]) -> str:
    """The audio tracks of a file with what is known of them."""
    listed = []
    for number, track in enumerate(tracks[:_MOST_LISTED]):
        codec = track.codec_context
        known = [track.metadata.get("language", ""), track.metadata.get("title", "")[:60]]
        if codec:
            sides = {1: "mono", 2: "stereo"}.get(codec.channels, f"{codec.channels} channels")
            known += [codec.name, f"{codec.rate} Hz", sides]
        listed.append(f"{number} ({', '.join(text for text in known if text)})")
    more = f" and {len(tracks) - _MOST_LISTED} more" if len(tracks) > _MOST_LISTED else ""
    return f"audio tracks {'; '.join(listed)}{more}"


def packets(container: InputContainer, stream: AudioStream) -> Iterator[Packet[AudioStream] | None]:
    """Every packet of one stream; None where the demuxer lost its way and takes it up again."""
    import av

    for _ in range(_PATIENCE):
        try:
            yield from container.demux(stream)
            return
        except av.FFmpegError as error:
            unless_memory(error)
            yield None
        except IndexError:  # PyAV, at the end of all packets, looks for a stream that appeared on the way
            return


def check_duration(form: str, source: Bytes, name: str, index: int, most_s: float) -> None:
    """Add up what the packets say of their length, without decoding them; raises `AudioLimitError` beyond `most_s`."""
    seconds = 0.0
    with open_container(form, copy(source), name) as container:  # a place of its own
        stream = container.streams[index]
        for packet in packets(container, cast("AudioStream", stream)):
            if packet is not None and packet.duration and packet.time_base:
                seconds += min(float(packet.duration * packet.time_base), _LONGEST_PACKET_S)
            if seconds > most_s:
                raise too_long(name, most_s)


def too_long(name: str, most_s: float) -> AudioLimitError:
    """The error of a recording beyond `max_duration_s`."""
    return AudioLimitError(f"{name}: longer than the {most_s:g} s that are allowed; split it, or raise max_duration_s")
