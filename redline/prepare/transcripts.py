"""What people have of a recording's words: transcripts and captions in any usual encoding, with who says them."""

from __future__ import annotations

import codecs
import html
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path

from redline.errors import DataError
from redline.formats.subtitles import TIMESTAMP, timestamp_seconds
from redline.prepare.speaker_labels import find_labels, without_labels

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
ROLLING = 0.3  # share of cues that begin with the end of the one before, from which captions are taken to roll
LONGEST_REPEAT = 40  # words of a cue that may come again in the next
_TIMES = re.compile(rf"{TIMESTAMP}\s*-->\s*{TIMESTAMP}")
_STAMP = re.compile(r"^\s*[\[(]?\d{1,2}:\d{2}(?::\d{2})?(?:[.,]\d+)?[\])]?\s*")
_MARKDOWN = re.compile(
    r"^\s*#{1,6}\s+|^\s*[*+]\s+|(?<![\w*])\*{1,3}(?=[^\s*])|(?<=[^\s*])\*{1,3}(?![\w*])"
    r"|(?<!\w)_{1,2}(?=[^\W_])|(?<=[^\W_])_{1,2}(?!\w)"
)
"""Marks of headings, lists and emphasis, which nobody says."""
_VOICE = re.compile(r"<v(?:\.[^\s>]*)*\s+([^>]+)>")
_SOUNDS = re.compile(
    r"[\[(](?:[\w ,'’-]*\b)?(?:music|applause|laughter|laughs?|laughing|chuckles?|inaudible|unintelligible|crosstalk"
    r"|silence|coughs?|coughing|sighs?|cheers|cheering|noise|pause|musik|applaus|beifall|gelächter|musique|applaudissements"
    r"|rires|música|aplausos|risas|risos)\b[\w ,'’-]*[\])]|[♪♫]+",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Line:
    """A piece of a text, who says it, and in which turn; speakers change where turns do."""

    text: str
    speaker: str = ""
    turn: int = 0
    shown: float | None = None  # seconds at which a caption shows it


@dataclass(frozen=True)
class CaptionCue:
    """One caption: seconds and what it says, line by line."""

    start: float
    end: float
    text: str
    speaker: str = ""  # as the file names it in a tag of its own, `<v Name>`


@dataclass(frozen=True)
class TranscriptText:
    """The words of a recording as somebody wrote them, and what was done to them on the way."""

    lines: tuple[Line, ...]
    speakers: tuple[tuple[str, int], ...] = ()  # what was taken for speakers, each with the number of its turns
    notes: tuple[str, ...] = ()  # what the user should know: encoding, unreadable cues, repeated ones


def read_transcript(path: Path) -> TranscriptText:
    """A transcript (.txt) or captions (.srt, .vtt); raises `DataError` where nothing in it can be read."""
    content, notes = decode_text(path)
    if path.suffix.lower() == ".txt":
        texts = [(_STAMP.sub("", _MARKDOWN.sub("", line)), "") for line in content.splitlines()]
        shown: dict[int, float] = {}
    else:
        cues, more = parse_captions(content)
        if not cues:
            raise DataError(
                f"{path}: no captions; an .srt or .vtt file has lines such as 00:00:01,000 --> 00:00:04,000"
                + "".join(f"; {note}" for note in more)
            )
        cues, repeated = without_repeats(cues)
        notes += more + ([f"{repeated} words that captions show twice are taken once"] if repeated else [])
        texts = [(line, cue.speaker) for cue in cues for line in cue.text.split("\n")]
        firsts = accumulate((cue.text.count("\n") + 1 for cue in cues), initial=0)
        shown = {first: cue.start for cue, first in zip(cues, firsts, strict=False)}
    if sounds := sum(len(_SOUNDS.findall(line)) for line, _ in texts):
        notes.append(f"{sounds} notes of sounds, such as [music], are taken out")
    texts = [(_SOUNDS.sub(" ", line), speaker) for line, speaker in texts]
    labelled = list(without_labels(texts, find_labels([line for line, _ in texts])))
    turns = dict.fromkeys((speaker, turn) for _, _, speaker, turn in labelled if speaker)
    lines = [Line(text, speaker, turn, shown.pop(number, None)) for number, text, speaker, turn in labelled if text]
    return TranscriptText(tuple(lines), tuple(Counter(speaker for speaker, _ in turns).items()), tuple(notes))


def decode_text(path: Path) -> tuple[str, list[str]]:
    """The text of a file by its byte order mark, as UTF-8, as UTF-16 without a mark, or as Windows-1252; and notes.

    Raises `DataError` for a file that is no text.
    """
    data = path.read_bytes()
    name, notes = next((name for mark, name in _BOMS if data.startswith(mark)), "utf-8"), list[str]()
    even, odd = data[0:4096:2].count(0), data[1:4096:2].count(0)
    if name == "utf-8" and max(even, odd) > len(data[:4096]) // 4 > 0:
        name = "utf-16-be" if even > odd else "utf-16-le"
        notes = [f"read as {name.upper()}"]
    if name == "utf-8" and b"\0" in data:
        raise DataError(f"{path}: this is no text (it holds zero bytes); save the transcript as UTF-8")
    try:
        return data.decode(name), notes
    except UnicodeDecodeError as error:
        if name != "utf-8":
            reason = f"this is no text, or it is damaged: {name.upper()} ends at byte {error.start}"
            raise DataError(f"{path}: {reason}; save the transcript as UTF-8") from error
        note = f"not UTF-8 (byte {error.start}); read as Windows-1252, save it as UTF-8 if letters come out wrong"
        return data.decode("cp1252", errors="replace"), [note]


def parse_captions(captions: str) -> tuple[list[CaptionCue], list[str]]:
    """The cues of an .srt or .vtt file in order of time, without tags, and what could not be read."""
    cues: list[CaptionCue] = []
    bad: list[str] = []
    for block in re.split(r"\n[ \t]*\n", re.sub(r"\r\n?", "\n", captions)):
        lines = block.split("\n")
        at = next((number for number, line in enumerate(lines) if "-->" in line), None)
        if at is None:
            continue
        times = _TIMES.search(lines[at])
        start, end = map(timestamp_seconds, (times.groups()[:4], times.groups()[4:])) if times else (0.0, 0.0)
        own = lines[at + 1 :]
        bare = (" ".join(html.unescape(re.sub(r"<[^>]*>|\{\\[^}]*\}", "", line)).split()) for line in own)
        if end <= start:
            bad.append(lines[at].strip())
        elif text := "\n".join(filter(None, bare)):
            voice = _VOICE.search("\n".join(own))
            cues.append(CaptionCue(start, end, text, html.unescape(" ".join(voice[1].split())) if voice else ""))
    notes = [f"{len(bad)} captions cannot be read, first {bad[0]!r}"] if bad else []
    return sorted(cues, key=lambda cue: cue.start), notes


def without_repeats(cues: Sequence[CaptionCue]) -> tuple[list[CaptionCue], int]:
    """Captions that say everything once, and how many words were shown again.

    The same text at the same time is one caption, as where two tracks were put into one file. Captions that roll show
    the last line again above the new one: where that is the habit of a file, every cue is cut behind what was shown.
    """
    single: list[CaptionCue] = []
    repeated = 0
    for cue in cues:
        if any(before.text == cue.text and cue.start < before.end for before in single[-4:]):
            repeated += len(cue.text.split())
        else:
            single.append(cue)
    overlaps = [0]
    shown: list[str] = []
    for before, cue in pairwise(single):
        shown = [*shown, *before.text.casefold().split()[overlaps[-1] :]][-LONGEST_REPEAT:]
        overlaps.append(_overlap(shown, cue.text.casefold().split()) if cue.start - before.end < 1.0 else 0)
    if sum(length >= 2 for length in overlaps) < max(2, ROLLING * len(single)):
        return single, repeated
    cut = [replace(cue, text=_after(cue.text, length)) for cue, length in zip(single, overlaps, strict=True)]
    return [cue for cue in cut if cue.text], repeated + sum(overlaps)


def _overlap(shown: Sequence[str], words: Sequence[str]) -> int:
    """The most words at the beginning that are the last ones shown."""
    lengths = range(min(len(shown), len(words)), 0, -1)
    return next((length for length in lengths if shown[-length:] == words[:length]), 0)


def _after(text: str, words: int) -> str:
    """A text of several lines without its first words."""
    lines = []
    for line in text.split("\n"):
        own = line.split()
        lines.append(" ".join(own[words:]))
        words = max(0, words - len(own))
    return "\n".join(filter(None, lines))
