"""Subtitles: the cues of a transcript in srt and vtt, and back."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Sequence

from redline.formats.cues import SubtitleCue, transcript_cues
from redline.formats.format import SPEAKER_PREFIX, RenderOptions, of_segments, speaker_label
from redline.types import Notice, Segment, Transcript

TIMESTAMP = r"(?:(\d{1,6}):)?(\d{1,6}):(\d{1,6})(?:[.,](\d{1,9}))?"
"""Hours, minutes, seconds and their fraction, as captions have them; a number of more digits is none."""
_CUE = re.compile(rf"(?:[^\n]*\n)?{TIMESTAMP} --> {TIMESTAMP}[^\n]*(?:\n(.*))?", re.DOTALL)
_VTT_SPEAKER = re.compile(r"<v(?:\.[^\s>]*)* (?:Speaker (?=\d+>))?([^>]+)>")
_VTT_TAG = re.compile(r"<[^>]*>")


def render_srt(transcript: Transcript, options: RenderOptions) -> str:
    """SubRip: numbered cues. It has no escapes, and `-->` marks a line of times: in a text it becomes an arrow."""
    blocks = []
    for number, cue in enumerate(transcript_cues(transcript, options.subtitles, labelled=True), start=1):
        text = "\n".join(cue.lines).replace("-->", "→")
        blocks.append(f"{number}\n{timestamp(cue.start, ',')} --> {timestamp(cue.end, ',')}\n{text}\n")
    return "\n".join(blocks)


def parse_srt(text: str) -> Transcript:
    """Cues as segments. Speakers are known by their numbers; a name before a text is part of it."""
    return _parse_cues(text.split("\n\n"), SPEAKER_PREFIX, str)


def render_vtt(transcript: Transcript, options: RenderOptions) -> str:
    """WebVTT: cues with voice spans, and with inline timestamps where words are to be highlighted."""
    blocks = ["WEBVTT\n"]
    for cue in transcript_cues(transcript, options.subtitles):
        plain = html.escape("\n".join(cue.lines), quote=False)
        text = _highlighted(cue) if options.subtitles.highlight_words else plain
        voice = "" if cue.speaker is None else f"<v {html.escape(speaker_label(cue.speaker))}>"
        blocks.append(f"{timestamp(cue.start)} --> {timestamp(cue.end)}\n{voice}{text}\n")
    return "\n".join(blocks)


def _highlighted(cue: SubtitleCue) -> str:
    """The words of a cue, each behind its start; as WebVTT wants it, times rise and lie within the cue."""
    parts, latest = [], cue.start
    for row_number, row in enumerate(cue.rows):
        for at, word in enumerate(row):
            parts.append(" " if at and not word.glued else "\n" if row_number and not at else "")
            if latest < word.start < cue.end:
                parts.append(f"<{timestamp(word.start)}>")
                latest = word.start
            parts.append(html.escape(word.text, quote=False))
    return "".join(parts)


def parse_vtt(text: str) -> Transcript:
    """Cues as segments; tags (inline timestamps, italics) are taken out, escapes undone."""
    header, *blocks = text.split("\n\n")
    if not header.startswith("WEBVTT"):
        raise ValueError("its first line is not WEBVTT")
    cues = (block for block in blocks if "-->" in block)
    return _parse_cues(cues, _VTT_SPEAKER, lambda shown: html.unescape(_VTT_TAG.sub("", shown)))


def _parse_cues(blocks: Iterable[str], speaker: re.Pattern[str], unescape: Callable[[str], str]) -> Transcript:
    segments: list[Segment] = []
    for block in filter(str.strip, blocks):
        if (cue := _CUE.fullmatch(block.strip("\n"))) is None:
            raise ValueError(f"{block[:60]!r} is no cue")
        *times, text = cue.groups(default="")
        start, end = timestamp_seconds(times[:4]), timestamp_seconds(times[4:])
        if (named := speaker.match(text)) is not None:
            text = text[named.end() :]
        name = unescape(named[1]) if named else None
        segments.append(Segment(len(segments), start, end, unescape(" ".join(text.split("\n"))), speaker=name))
    return of_segments(segments)


def timestamp(ms: int, point: str = ".") -> str:
    """Milliseconds -> hh:mm:ss.mmm."""
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{ms:03}"


def timestamp_seconds(numbers: Sequence[str | None]) -> float:
    """The four groups of a `TIMESTAMP` -> seconds."""
    hours, minutes, seconds, fraction = numbers
    return round(3600 * int(hours or 0) + 60 * int(minutes or 0) + int(seconds or 0) + float(f"0.{fraction or 0}"), 3)


def alignment_notices(transcript: Transcript) -> list[Notice]:
    """What to tell about subtitles whose cues could not be aligned with the audio."""
    unaligned = [segment for segment in transcript.segments if segment.text.strip() and not segment.aligned_words()]
    if not unaligned:
        return []
    if transcript.task == "translate":
        why = "nobody says the words of a translation"
    elif unaligned[0].timing is None:
        why = "the recognizer tells no times"
    else:
        why = "the text does not fit what the encoder hears"
    message = (
        f"the times of subtitles are shared out by characters in {len(unaligned)} of {len(transcript.segments)} "
        f"segments, because words could not be aligned with the sound: {why}"
    )
    return [Notice("unaligned", message, unaligned[0].start, unaligned[-1].end)]
