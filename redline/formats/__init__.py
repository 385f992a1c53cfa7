"""Transcript formats, by the suffix of their files.

A new format is one file in this folder, with a function from a transcript to text or bytes, and a line in
`TRANSCRIPT_FORMATS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from redline import files
from redline.errors import DataError
from redline.formats.audacity import parse_audacity, render_audacity
from redline.formats.docx import render_docx
from redline.formats.format import Format, RenderOptions
from redline.formats.json import parse_transcript_json, render_json
from redline.formats.markdown import render_md
from redline.formats.nist import parse_ctm, parse_rttm, render_ctm, render_rttm
from redline.formats.speakers import rename_speakers as rename_speakers
from redline.formats.subtitle_options import SUBTITLE_PRESETS as SUBTITLE_PRESETS
from redline.formats.subtitle_options import SubtitleOptions as SubtitleOptions
from redline.formats.subtitle_options import subtitle_options as subtitle_options
from redline.formats.subtitles import alignment_notices, parse_srt, parse_vtt, render_srt, render_vtt
from redline.formats.text import parse_tsv, render_tsv, render_txt
from redline.formats.textgrid import parse_textgrid, render_textgrid
from redline.types import Notice, Transcript, listed

TRANSCRIPT_FORMATS = {
    "txt": Format(render_txt),
    "srt": Format(render_srt, parse_srt, subtitles=True),
    "vtt": Format(render_vtt, parse_vtt, subtitles=True),
    "tsv": Format(render_tsv, parse_tsv),
    "json": Format(render_json, parse_transcript_json, has_edits=True),
    "ctm": Format(render_ctm, parse_ctm, needs_words=True),
    "rttm": Format(render_rttm, parse_rttm, needs_speakers=True),
    "docx": Format(render_docx, binary=True, has_edits=True),
    "md": Format(render_md, has_edits=True),
    "audacity": Format(render_audacity, parse_audacity),
    "textgrid": Format(render_textgrid, parse_textgrid),
}
"""What transcripts can be written as, and read from where there is a parser."""


def render_transcript(
    transcript: Transcript,
    format: str,
    name: str = "recording",
    *,
    all_edits: bool = False,
    show_edits: bool = False,
    subtitles: SubtitleOptions | str | None = None,
    speaker_names: Mapping[str, str] | None = None,
) -> str | bytes:
    """The transcript in one of `TRANSCRIPT_FORMATS`, in bytes where it is binary; raises `ValueError` for another.

    ctm, rttm, docx and md call the recording by its `name`; with `all_edits` json lists the tokens that were kept, too,
    and with `show_edits` docx and md show the edits of the draft as tracked changes. `subtitles` is the style of srt
    and vtt, or the name of one of `SUBTITLE_PRESETS`; `ValueError` with other formats. `speaker_names` are what
    speakers are called in place of their labels.
    """
    if format not in TRANSCRIPT_FORMATS:
        raise ValueError(f"no format {format!r}; allowed are {', '.join(TRANSCRIPT_FORMATS)}")
    if subtitles is not None and not TRANSCRIPT_FORMATS[format].subtitles:
        allowed = ", ".join(each for each, its in TRANSCRIPT_FORMATS.items() if its.subtitles)
        raise ValueError(f"{format} has no style of subtitles; leave it out, or write one of {allowed}")
    named = rename_speakers(transcript, speaker_names or {})
    options = RenderOptions(name, all_edits, show_edits, subtitle_options(subtitles))
    return TRANSCRIPT_FORMATS[format].render(named, options)


def parse_transcript(text: str, format: str) -> Transcript:
    """What a rendered transcript holds; raises `DataError` where it is not in that format, `ValueError` for no format.

    Times are to the millisecond. What a format does not write is missing: subtitles, tsv and audacity give segments,
    ctm words, rttm turns without text, textgrid all three.
    """
    parser = TRANSCRIPT_FORMATS[format].parse if format in TRANSCRIPT_FORMATS else None
    if parser is None:
        readable = ", ".join(name for name, each in TRANSCRIPT_FORMATS.items() if each.parse)
        raise ValueError(f"{format!r} cannot be read back; allowed are {readable}")
    try:
        return parser(text.replace("\r\n", "\n"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"not a whole {format} file: {error}") from error


def save_transcript(
    transcript: Transcript,
    path: str | Path,
    *,
    all_edits: bool = False,
    show_edits: bool = False,
    subtitles: SubtitleOptions | str | None = None,
) -> Path:
    """Write the transcript in the format that the suffix names; the file is complete or not there at all."""
    path = Path(path)
    format = path.suffix.removeprefix(".").lower()
    if format not in TRANSCRIPT_FORMATS:
        allowed = ", ".join(f".{name}" for name in TRANSCRIPT_FORMATS)
        raise ValueError(f"{path}: the suffix {path.suffix!r} names no format; allowed are {allowed}")
    rendered = render_transcript(
        transcript, format, path.stem, all_edits=all_edits, show_edits=show_edits, subtitles=subtitles
    )
    return files.write_bytes(path, rendered if isinstance(rendered, bytes) else files.encoded(rendered))


def load_transcript(path: str | Path) -> Transcript:
    """Read what `save_transcript` wrote; raises `OSError`, and `DataError` for what is no transcript."""
    try:
        return parse_transcript(files.read_utf8(path), Path(path).suffix.removeprefix(".").lower())
    except (ValueError, DataError) as error:
        raise DataError(f"{path}: {error}") from error


def subtitle_notices(transcript: Transcript, names: str | Iterable[str]) -> list[Notice]:
    """What to tell about a transcript in these formats: subtitles whose cues could not be aligned with the audio."""
    if any(name in TRANSCRIPT_FORMATS and TRANSCRIPT_FORMATS[name].subtitles for name in listed(names)):
        return alignment_notices(transcript)
    return []
