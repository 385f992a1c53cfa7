"""What may be asked of a `Transcriber`: the options of recordings and of live streams."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypedDict

from redline.audio import AudioOptions, AudioSource
from redline.diarize.options import SpeakerCount
from redline.engine.live import LiveOptions
from redline.errors import ConfigError
from redline.longform.resumed import AnswerStore
from redline.longform.session import SessionOptions
from redline.types import Segment, Waveform

RecordingSource = AudioSource | Waveform
Sources = list[Any] | tuple[Any, ...]
OnError = Literal["raise", "warn"]
Progress = Callable[[float, float], None]
"""Gets the seconds of audio done and the seconds known so far."""
OnSegment = Callable[[Segment], None]
"""Gets each segment as soon as it is ready."""


class TranscribeOptions(TypedDict, total=False):
    """How recordings are transcribed."""

    sample_rate: int | None
    """Of an array."""
    language: str | Sequence[str] | None
    """What is spoken: en, English, en-US; of several (a list, or a text with commas) one is; None lets the model
    decide."""
    task: Literal["transcribe", "translate"]
    """With "translate" the text is in the `target_language`."""
    target_language: str | None
    words: bool
    """Ask when each word is said."""
    speakers: SpeakerCount
    """Ask who speaks (diarization): True, a number of speakers such as 3, or a range such as "2-4" or (2, 4)."""
    speaker_samples: Mapping[str, RecordingSource]
    """Recordings of known voices, by name: speakers who sound like them have their names."""
    speaker_db: str | Path | None
    """A file of voices with names, which speakers keep from recording to recording; it is made, and added to."""
    channels: Literal["mix", "split"]
    """With "split" each channel of a recording is one speaker, and transcribed apart."""
    keywords: str | Sequence[str]
    """Names and terms to expect (contextual biasing): a list, or a text with commas; "Nguyen => win :2" is one that is
    said otherwise than it is written, and counts twice."""
    prompt: str | None
    """An instruction in place of the model's own."""
    prefix: str | None
    """What the answer begins with: the beginning of the recording, already written down."""
    vad: bool
    """Voice activity detection, by default on; without it silence and music go to the model too."""
    session_options: SessionOptions
    """How speech is detected and cut, in place of the transcriber's own `options`."""
    digits: bool
    """Inverse text normalisation: spelled numbers become digits."""
    audio_options: AudioOptions
    progress: Progress | None
    on_segment: OnSegment | None
    """Gets the segments of the recordings one after the other, in time order, before each one's transcript."""
    answers: Callable[[Any], AnswerStore | None] | None
    """Gives for a source the store in which answers to its windows are kept: what is there is not recognized again."""


class StreamOptions(TypedDict, total=False):
    """How live streams are transcribed; what `TranscribeOptions` has, too, means the same."""

    sample_rate: int
    """Of the sound, in Hz; by default 16,000."""
    channels: int
    """Of the sound, mixed down to their mean; by default 1."""
    language: str | Sequence[str] | None
    task: Literal["transcribe", "translate"]
    target_language: str | None
    words: bool
    speakers: bool
    keywords: str | Sequence[str]
    prompt: str | None
    vad: bool
    digits: bool
    live_options: LiveOptions
    """How soon text comes, and when it is final."""


def splits_channels(options: TranscribeOptions) -> bool:
    """Whether each channel is one speaker; raises `ConfigError` for what cannot be together."""
    channels = options.get("channels", "mix")
    if channels not in ("mix", "split"):
        raise ConfigError(f"channels is {channels!r}; allowed are 'mix' and 'split'")
    if channels == "mix":
        return False
    known = options.get("speaker_samples") or options.get("speaker_db")
    if options.get("speakers", False) not in (True, False, None, "auto") or known:
        raise ConfigError("channels is 'split', so each is one speaker; leave number and names of speakers out")
    if options.get("audio_options", AudioOptions()).channel is not None:
        raise ConfigError("channels is 'split', and one channel is asked for; leave one of them out")
    if options.get("on_segment") is not None:
        raise ConfigError("channels is 'split': they are interleaved once all are done; leave on_segment out")
    return True
