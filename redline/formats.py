"""Transcript -> txt, srt, vtt, tsv, json, ctm or rttm; and a draft with its edits as tracked changes.

Times are printed from integer milliseconds.
"""

from __future__ import annotations

import html
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from redline import files
from redline.types import Edit, EditOp, Notice, Segment, Transcript, Word, listed

LINE_CHARS = 42
"""Characters in one line of a subtitle."""
CUE_LINES = 2
"""Lines in one cue of a subtitle."""


class SubtitleCue(NamedTuple):
    """One subtitle: start and end in milliseconds, lines to show, and who speaks."""

    start: int
    end: int
    lines: tuple[str, ...]
    speaker: str | None = None


class Change(NamedTuple):
    """What became of a few neighbouring words: `draft` is empty for an insertion, `text` for a deletion."""

    op: EditOp
    draft: str
    text: str


def render(transcript: Transcript, format: str, name: str = "recording", *, all_edits: bool = False) -> str:
    """The transcript in one of `FORMATS`; raises `ValueError` for another.

    ctm and rttm call the recording by its `name`; with `all_edits` json has the tokens that the editor kept, too.
    """
    if format not in FORMATS:
        raise ValueError(f"no format {format!r}; allowed are {', '.join(FORMATS)}")
    if format == "ctm":
        return ctm(transcript, name)
    if format == "rttm":
        return rttm(transcript, name)
    if format == "json":
        return to_json(transcript, all_edits)
    return FORMATS[format](transcript)


def save(transcript: Transcript, path: str | Path, *, all_edits: bool = False) -> Path:
    """Write the transcript in the format that the suffix names; the file is complete or not there at all."""
    path = Path(path)
    format = path.suffix.removeprefix(".").lower()
    if format not in FORMATS:
        allowed = ", ".join(f".{name}" for name in FORMATS)
        raise ValueError(f"{path}: the suffix {path.suffix!r} names no format; allowed are {allowed}")
    return files.write_text(path, render(transcript, format, path.stem, all_edits=all_edits))


def txt(transcript: Transcript) -> str:
    """One segment a line, behind its speaker where speakers were told."""
    lines = [spoken_by(segment.speaker, segment.text) for segment in transcript.segments] or [transcript.text]
    return "".join(f"{line}\n" for line in lines if line)


def srt(transcript: Transcript) -> str:
    """SubRip: numbered cues."""
    blocks = []
    for number, cue in enumerate(_cues(transcript), start=1):
        text = spoken_by(cue.speaker, "\n".join(cue.lines)).replace(
            "-->", "→"
        )  # SubRip has no escapes, and the arrow marks a line of times
        blocks.append(f"{number}\n{clock(cue.start, ',')} --> {clock(cue.end, ',')}\n{text}\n")
    return "\n".join(blocks)


def vtt(transcript: Transcript) -> str:
    """WebVTT."""
    blocks = ["WEBVTT\n"]
    for cue in _cues(transcript):
        text = html.escape("\n".join(cue.lines), quote=False)
        if cue.speaker is not None:
            text = f"<v Speaker {html.escape(cue.speaker)}>{text}"
        blocks.append(f"{clock(cue.start, '.')} --> {clock(cue.end, '.')}\n{text}\n")
    return "\n".join(blocks)


def tsv(transcript: Transcript) -> str:
    """One segment a line: start and end in milliseconds, text.

    A text that a spreadsheet would take for a formula, because it starts with `=`, `+`, `-` or `@`, gets a `'` first.
    """
    lines = ["start\tend\ttext\n"]
    for segment in transcript.segments:
        text = _FORMULA.sub(r"'\g<0>", " ".join(segment.text.split()))
        lines.append(f"{_ms(segment.start)}\t{_ms(segment.end)}\t{text}\n")
    return "".join(lines)


_FORMULA = re.compile(r"^'*[=+@-]")  # quotes that are there already too, so that taking one off always gives the text


def to_json(transcript: Transcript, all_edits: bool = False) -> str:
    """Everything but the edits that kept a token, and those as well with `all_edits`; the keys are always all there."""
    return json.dumps(transcript.to_dict(all_edits), ensure_ascii=False, indent=2) + "\n"


def ctm(transcript: Transcript, name: str = "recording") -> str:
    """NIST CTM, one word a line: recording, channel, start, length, word, confidence (NA where there is none)."""
    lines = []
    for segment in transcript.segments:
        for word in segment.words:
            start, end = _ms(word.start), _ms(word.end)
            sure = "NA" if word.confidence is None else f"{word.confidence:.3f}"
            lines.append(f"{_one(name)} 1 {start / 1000:.3f} {(end - start) / 1000:.3f} {_one(word.text)} {sure}\n")
    return "".join(lines)


def rttm(transcript: Transcript, name: str = "recording") -> str:
    """NIST RTTM, one turn a line: recording, channel, start, length, speaker."""
    lines = []
    for turn in transcript.turns:
        start, end = _ms(turn.start), _ms(turn.end)
        times = f"{start / 1000:.3f} {(end - start) / 1000:.3f}"
        lines.append(f"SPEAKER {_one(name)} 1 {times} <NA> <NA> {_one(turn.speaker)} <NA> <NA>\n")
    return "".join(lines)


def _one(text: str) -> str:
    """A text as one column of a file whose columns are divided by spaces."""
    return "_".join(text.split()) or "_"


def spoken_by(speaker: str | None, text: str) -> str:
    """A text behind the name of its speaker, where there is one."""
    return text if speaker is None else f"Speaker {speaker}: {text}"


FORMATS: dict[str, Callable[[Transcript], str]] = {
    "txt": txt,
    "srt": srt,
    "vtt": vtt,
    "tsv": tsv,
    "json": to_json,
    "ctm": ctm,
    "rttm": rttm,
}
"""What `render` and `save` can write."""
SUBTITLES = frozenset(("srt", "vtt"))
"""Formats whose times are those of words, whether or not words were asked for."""


def clock(ms: int, point: str = ".") -> str:
    """Milliseconds -> hh:mm:ss.mmm."""
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{ms:03}"


def cues(segment: Segment) -> list[SubtitleCue]:
    """A segment -> cues of at most two lines of 42 characters that hold all of its text.

    Each cue has the time of its words; where nobody can tell when they were said, the segment's time is shared out in
    proportion to characters.
    """
    lines = textwrap.wrap(segment.text, LINE_CHARS)
    if not lines:
        return []
    if len(lines) > 1:
        lines = _balanced(segment.text, most=CUE_LINES * -(-len(lines) // CUE_LINES))
    groups = [tuple(lines[first : first + CUE_LINES]) for first in range(0, len(lines), CUE_LINES)]
    marks = _clock(segment)
    made, done = [], 0
    for group in groups:
        first, done = done, done + sum(len("".join(line.split())) for line in group)
        made.append(SubtitleCue(marks[first][0], marks[done - 1][1], group, segment.speaker))
    return made


def _clock(segment: Segment) -> list[tuple[int, int]]:
    """When each printed character of a segment is said, in milliseconds from start to end."""
    names, words = segment.text.split(), segment.aligned_words()
    spans = _spans(names, words) if words else [(_ms(segment.start), _ms(segment.end), "".join(names))]
    marks: list[tuple[int, int]] = []
    for start, end, chars in spans:
        steps = [start + (end - start) * at // len(chars) for at in range(len(chars) + 1)]
        marks += pairwise(steps)
    return marks


def _spans(names: Sequence[str], words: Sequence[Word]) -> list[tuple[int, int, str]]:
    """The characters of a text, as long as they last together; words that were written otherwise share their time."""
    text, said = "".join(names), "".join(word.text for word in words)
    if text == said:
        return [(_ms(word.start), _ms(word.end), word.text) for word in words]
    found: list[tuple[int, int, str]] = []
    match = SequenceMatcher(None, [word.text for word in words], names, autojunk=False)
    for kind, a, b, c, d in match.get_opcodes():
        if kind == "equal":
            found += [(_ms(word.start), _ms(word.end), word.text) for word in words[a:b]]
        elif c < d:
            start = words[a].start if a < b else words[a - 1].end if a else words[0].start
            end = words[b - 1].end if a < b else words[a].start if a < len(words) else words[-1].end
            found.append((_ms(start), _ms(max(start, end)), "".join(names[c:d])))
    return found


def subtitle_notices(transcript: Transcript, wanted: str | Iterable[str]) -> list[Notice]:
    """What to say about a transcript in these formats: subtitles whose cues could not be aligned with the sound."""
    guessed = [segment for segment in transcript.segments if segment.text.strip() and not segment.aligned_words()]
    if not guessed or SUBTITLES.isdisjoint(listed(wanted)):
        return []
    if transcript.task == "translate":
        why = "nobody says the words of a translation"
    elif guessed[0].timing is None:
        why = "the recognizer tells no times"
    else:
        why = "the text does not fit what the encoder hears"
    message = (
        f"the times of subtitles are shared out by characters in {len(guessed)} of {len(transcript.segments)} "
        f"segments, because words could not be aligned with the sound: {why}"
    )
    return [Notice("unaligned", message, guessed[0].start, guessed[-1].end)]


def _balanced(text: str, most: int) -> list[str]:
    """Lines of about equal length: the narrowest wrapping that needs at most `most` lines."""
    for width in range(max(1, len(text) // most), LINE_CHARS):
        lines = textwrap.wrap(text, width, break_long_words=False)
        if len(lines) <= most and max(map(len, lines)) <= LINE_CHARS:
            return lines
    return textwrap.wrap(text, LINE_CHARS)


def _cues(transcript: Transcript) -> Iterator[SubtitleCue]:
    for segment in transcript.segments:
        yield from cues(segment)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def tracked_changes(edits: Sequence[Edit]) -> list[Change]:
    """Edits of tokens -> changes of whole words, in order; a token with a leading space starts a word.

    The drafts of the changes, joined by spaces, are the words of the draft, and the texts those of the final text.
    """
    changes: list[Change] = []
    for group in _words(edits):
        draft = " ".join("".join(edit.draft for edit in group).split())
        text = " ".join("".join(edit.text for edit in group).split())
        if draft or text:
            op: EditOp = "keep" if draft == text else "insert" if not draft else "delete" if not text else "replace"
            changes.append(Change(op, draft, text))
    merged: list[Change] = []
    for change in changes:
        if merged and {merged[-1].op, change.op} == {"insert", "delete"}:
            before = merged.pop()
            draft, text = before.draft + change.draft, before.text + change.text
            change = Change("keep" if draft == text else "replace", draft, text)
        if merged and merged[-1].op == change.op != "replace":
            before = merged.pop()
            change = Change(change.op, _join(before.draft, change.draft), _join(before.text, change.text))
        merged.append(change)
    return merged


def _words(edits: Sequence[Edit]) -> Iterator[list[Edit]]:
    """The edits between places where both the draft and the text are between two words."""
    draft_free = text_free = True  # whether the next character of each side starts a word
    starts = []
    for edit in reversed(edits):
        draft_free = edit.draft[0].isspace() if edit.draft else draft_free
        text_free = edit.text[0].isspace() if edit.text else text_free
        starts.append(draft_free and text_free)
    group: list[Edit] = []
    for edit, start in zip(edits, reversed(starts), strict=True):
        if start and group:
            yield group
            group = []
        group.append(edit)
    if group:
        yield group


def _join(left: str, right: str) -> str:
    return f"{left} {right}".strip()
