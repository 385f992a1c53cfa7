"""Subtitles: a transcript as cues that follow its words, in srt and vtt. Times are integer milliseconds."""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from difflib import SequenceMatcher
from itertools import pairwise
from typing import NamedTuple

from redline.formats.format import RenderOptions, milliseconds, of_segments, with_speaker
from redline.types import Notice, Segment, Transcript, Word

LINE_CHARS = 42
"""Characters in one line of a cue."""
CUE_LINES = 2
"""Lines in one cue."""
TIMESTAMP = r"(?:(\d{1,6}):)?(\d{1,6}):(\d{1,6})(?:[.,](\d{1,9}))?"
"""Hours, minutes, seconds and their fraction, as captions have them; a number of more digits is none."""
_CUE = re.compile(rf"(?:[^\n]*\n)?{TIMESTAMP} --> {TIMESTAMP}[^\n]*(?:\n(.*))?", re.DOTALL)
_SRT_SPEAKER = re.compile(r"Speaker ([^:\n]+): ")
_VTT_SPEAKER = re.compile(r"<v Speaker ([^>]+)>")


class SubtitleCue(NamedTuple):
    """One subtitle: start and end in milliseconds, lines to show, and who speaks."""

    start: int
    end: int
    lines: tuple[str, ...]
    speaker: str | None = None


def render_srt(transcript: Transcript, options: RenderOptions) -> str:
    """SubRip: numbered cues. It has no escapes, and `-->` marks a line of times: in a text it becomes an arrow."""
    blocks = []
    for number, cue in enumerate(transcript_cues(transcript), start=1):
        text = with_speaker(cue.speaker, "\n".join(cue.lines)).replace("-->", "→")
        blocks.append(f"{number}\n{timestamp(cue.start, ',')} --> {timestamp(cue.end, ',')}\n{text}\n")
    return "\n".join(blocks)


def parse_srt(text: str) -> Transcript:
    return _parse_cues(text.split("\n\n"), _SRT_SPEAKER, str)


def render_vtt(transcript: Transcript, options: RenderOptions) -> str:
    blocks = ["WEBVTT\n"]
    for cue in transcript_cues(transcript):
        text = html.escape("\n".join(cue.lines), quote=False)
        voice = "" if cue.speaker is None else f"<v Speaker {html.escape(cue.speaker)}>"
        blocks.append(f"{timestamp(cue.start)} --> {timestamp(cue.end)}\n{voice}{text}\n")
    return "\n".join(blocks)


def parse_vtt(text: str) -> Transcript:
    header, *blocks = text.split("\n\n")
    if not header.startswith("WEBVTT"):
        raise ValueError("its first line is not WEBVTT")
    return _parse_cues((block for block in blocks if "-->" in block), _VTT_SPEAKER, html.unescape)


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


def transcript_cues(transcript: Transcript) -> list[SubtitleCue]:
    return [cue for segment in transcript.segments for cue in segment_cues(segment)]


def segment_cues(segment: Segment) -> list[SubtitleCue]:
    """A segment -> cues of at most two lines of 42 characters that hold all of its text.

    Each cue has the time of its words; where they cannot be aligned, the segment's time is shared out in proportion to
    characters.
    """
    text = " ".join(segment.text.split())
    lines = textwrap.wrap(text, LINE_CHARS)
    if len(lines) > 1:
        lines = _balanced(text, max_lines=CUE_LINES * -(-len(lines) // CUE_LINES))
    times = _character_times(segment)
    cues, done = [], 0
    for first_line in range(0, len(lines), CUE_LINES):
        shown = tuple(lines[first_line : first_line + CUE_LINES])
        first, done = done, done + sum(len(line.replace(" ", "")) for line in shown)
        cues.append(SubtitleCue(times[first][0], times[done - 1][1], shown, segment.speaker))
    return cues


def _balanced(text: str, max_lines: int) -> list[str]:
    """Lines of about equal length: the narrowest wrapping into at most `max_lines`."""
    for width in range(max(1, len(text) // max_lines), LINE_CHARS):
        lines = textwrap.wrap(text, width, break_long_words=False)
        if len(lines) <= max_lines and max(map(len, lines)) <= LINE_CHARS:
            return lines
    return textwrap.wrap(text, LINE_CHARS)


def _character_times(segment: Segment) -> list[tuple[int, int]]:
    """Start and end of each printed character of a segment."""
    tokens, words = segment.text.split(), segment.aligned_words()
    spans = [(milliseconds(segment.start), milliseconds(segment.end), "".join(tokens))]
    if words:
        spans = _timed_spans(tokens, words)
    times: list[tuple[int, int]] = []
    for start, end, chars in spans:
        borders = [start + (end - start) * at // len(chars) for at in range(len(chars) + 1)] if chars else []
        times += pairwise(borders)
    return times


def _timed_spans(tokens: Sequence[str], words: Sequence[Word]) -> list[tuple[int, int, str]]:
    """Start, end and characters of each word; tokens that are written otherwise than words share their time."""
    whole = [(milliseconds(word.start), milliseconds(word.end), word.text) for word in words]
    if "".join(tokens) == "".join(word.text for word in words):
        return whole
    spans = []
    match = SequenceMatcher(None, [word.text for word in words], tokens, autojunk=False)
    for kind, a, b, c, d in match.get_opcodes():
        if kind == "equal":
            spans += whole[a:b]
        elif c < d:
            start = whole[a][0] if a < b else whole[a - 1][1] if a else whole[0][0]
            end = whole[b - 1][1] if a < b else whole[a][0] if a < len(words) else whole[-1][1]
            spans.append((start, max(start, end), "".join(tokens[c:d])))
    return spans


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
