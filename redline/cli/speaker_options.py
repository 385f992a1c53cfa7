"""The options of `redline transcribe` that say who may be heard."""

from __future__ import annotations

from typing import Annotated

import typer

from redline.diarize.options import SpeakerOptions, speaker_options
from redline.errors import ConfigError

_SPEAKERS_HELP = """Diarization: who speaks, turn by turn; as many speakers as are heard, so many, or a number in a
range."""
Speakers = Annotated[str | None, typer.Option("--speakers", metavar="[N|MIN-MAX]", help=_SPEAKERS_HELP)]


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
