"""The options of `redline transcribe` that style subtitles and name speakers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import typer

from redline.formats import SUBTITLE_PRESETS, TRANSCRIPT_FORMATS, SubtitleOptions, subtitle_options
from redline.formats.speakers import parse_speaker_names

_SUBTITLES_HELP = f"Style of srt and vtt: {', '.join(SUBTITLE_PRESETS)}; default: netflix. What follows overrides it."
Subtitles = Annotated[str | None, typer.Option(metavar="PRESET", help=_SUBTITLES_HELP)]
LineWidth = Annotated[int | None, typer.Option(help="Characters in a line of a subtitle (netflix: 42).")]
LineCount = Annotated[int | None, typer.Option(help="Lines in a subtitle (2).")]
MinDuration = Annotated[
    float | None,
    typer.Option("--min-duration", help="Seconds that a subtitle stays, where it is quiet after it (5/6)."),
]
MaxDuration = Annotated[float | None, typer.Option("--max-duration", help="Longest subtitle in seconds (7).")]
MaxCps = Annotated[float | None, typer.Option(help="Reading speed: characters a second, where speech allows it (20).")]
Gap = Annotated[float | None, typer.Option("--gap", help="Seconds between two subtitles (0.083: two frames).")]
HighlightWords = Annotated[bool, typer.Option("--highlight-words", help="In vtt a time before each word, for karaoke.")]
SpeakerNames = Annotated[
    str | None, typer.Option(metavar="1=Ana,2=Ben", help="What speakers are called, in every format that tells them.")
]
_OPTIONS = {
    "max_line_width": "--max-line-width",
    "max_line_count": "--max-line-count",
    "min_duration_s": "--min-duration",
    "max_duration_s": "--max-duration",
    "max_cps": "--max-cps",
    "gap_s": "--gap",
    "highlight_words": "--highlight-words",
}


def style_of(params: Mapping[str, Any], formats: Sequence[str]) -> SubtitleOptions | None:
    """The preset of the command with what overrides it, None where nothing is asked for; raises `BadParameter`."""
    preset = params["subtitles"]
    own = {name: params[name] for name in _OPTIONS if params[name] is not None and params[name] is not False}
    given = [*(["--subtitles"] if preset is not None else []), *(_OPTIONS[name] for name in own)]
    if not given:
        return None
    wanted = ["vtt"] if own.get("highlight_words") else [n for n, each in TRANSCRIPT_FORMATS.items() if each.subtitles]
    if not set(wanted) & set(formats):
        seen, allowed = ", ".join(formats), " and ".join(wanted)
        message = f"it is for {allowed}, not {seen}; add --format {wanted[0]}, or leave it out"
        raise typer.BadParameter(message, param_hint=given[-1])
    try:
        return replace(subtitle_options(preset), **own)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=" ".join(given)) from error


def speaker_names_of(text: str | None, *, speakers: bool) -> dict[str, str]:
    """Labels and names; raises `BadParameter`, also where nobody asks who speaks."""
    if text is None:
        return {}
    try:
        names = parse_speaker_names(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--speaker-names") from error
    if not speakers:
        raise typer.BadParameter("there are no speakers; add --speakers", param_hint="--speaker-names")
    return names
