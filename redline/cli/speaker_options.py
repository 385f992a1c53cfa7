"""The options of `redline transcribe` that say who may be heard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from redline.diarize.options import SpeakerOptions, speaker_options
from redline.errors import ConfigError

_SPEAKERS_HELP = """Diarization: who speaks, turn by turn; as many speakers as are heard, so many, or a number in a
range."""
Speakers = Annotated[str | None, typer.Option("--speakers", metavar="[N|MIN-MAX]", help=_SPEAKERS_HELP)]

SpeakerSamples = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=RECORDING", help="A known voice, so that its speaker has that name; may be repeated."),
]
_DB_HELP = "A file of voices, from which speakers keep their names, and to which those of these recordings are added."
SpeakerDb = Annotated[Path | None, typer.Option("--speaker-db", metavar="FILE", help=_DB_HELP)]
_CHANNELS_HELP = "mix, or split: each channel is one speaker and transcribed apart; or a number: only that one, from 0."
Channels = Annotated[str, typer.Option("--channels", metavar="mix|split|N", help=_CHANNELS_HELP)]


def channels_of(text: str, channel: int | None) -> tuple[str, int | None]:
    """mix or split, and the only channel that is heard; raises `BadParameter` for what is none."""
    if text not in ("mix", "split") and not text.isdecimal():
        raise typer.BadParameter(f"{text!r}; allowed are mix, split and a number from 0", param_hint="--channels")
    if text != "mix" and channel is not None:
        raise typer.BadParameter(f"it is {text}; leave --channel out, or --channels", param_hint="--channels")
    return ("mix", int(text)) if text.isdecimal() else (text, channel)


def speaker_samples_of(texts: Sequence[str] | None) -> dict[str, str]:
    """Names and recordings; raises `BadParameter` for what is none."""
    samples: dict[str, str] = {}
    for text in texts or ():
        name, _, path = text.partition("=")
        name = " ".join(name.split())
        if not name or not path.strip() or name in samples:
            fault = "comes twice" if name in samples else "is no name and recording"
            message = f"{text!r} {fault}; allowed is each name once with its recording, such as Ana=ana.wav"
            raise typer.BadParameter(message, param_hint="--speaker-samples")
        samples[name] = path.strip()
    return samples


def speaker_count_of(text: str | None) -> bool | tuple[int, int]:
    """Whether anybody asks who speaks, and how many there may be; raises `BadParameter` for what is no number."""
    try:
        options = speaker_options(text)
    except ConfigError as error:
        raise typer.BadParameter(str(error), param_hint="--speakers") from error
    if options is None or options == SpeakerOptions():
        return options is not None
    assert options.most is not None
    return options.least, options.most
