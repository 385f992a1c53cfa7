"""TextGrid of Praat, long form: tiers of intervals for segments, words and speakers."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from redline.formats.format import RenderOptions, milliseconds, of_segments, parsed_seconds, plain_line
from redline.types import Segment, Transcript, Turn, Word, joined_turns

_TOKEN = re.compile(r'(?<!\S)(?:"((?:[^"]|"")*)"|(-?\d[\d.eE+-]*))(?!\S)')
"""What counts in a TextGrid: texts in quotes, and numbers that stand alone."""
_TEXT, _NUMBER = 1, 2


class Interval(NamedTuple):
    """A time in milliseconds and what stands there."""

    start: int
    end: int
    text: str


def render_textgrid(transcript: Transcript, options: RenderOptions) -> str:
    """The tiers `segments`, and `words` and `speakers` where they are known.

    The intervals of a tier follow each other from 0 to the end, empty ones between the others. Each has a millisecond
    at least, and of two that overlap the second starts later.
    """
    spoken = (Turn(each.speaker or "", each.start, each.end, "") for each in transcript.segments)
    rows: dict[str, Iterable[tuple[float, float, str]]] = {
        "segments": ((segment.start, segment.end, segment.text) for segment in transcript.segments),
        "words": ((word.start, word.end, word.text) for word in transcript.words),
        "speakers": ((turn.start, turn.end, turn.speaker) for turn in transcript.turns or joined_turns(spoken)),
    }
    tiers = {name: list(_apart(row)) for name, row in rows.items()}
    end = max([1, milliseconds(transcript.duration), *(tier[-1].end for tier in tiers.values() if tier)])
    shown = {name: _tiled(tier, end) for name, tier in tiers.items() if tier or name == "segments"}
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]
    lines += ["xmin = 0", f"xmax = {_seconds(end)}", "tiers? <exists>", f"size = {len(shown)}", "item []:"]
    for number, (name, tier) in enumerate(shown.items(), start=1):
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += ["        xmin = 0", f"        xmax = {_seconds(end)}", f"        intervals: size = {len(tier)}"]
        for place, each in enumerate(tier, start=1):
            quoted = each.text.replace('"', '""')
            lines += [f"        intervals [{place}]:", f"            xmin = {_seconds(each.start)}"]
            lines += [f"            xmax = {_seconds(each.end)}", f'            text = "{quoted}"']
    return "\n".join(lines) + "\n"


def parse_textgrid(text: str) -> Transcript:
    """The tiers that `render_textgrid` writes, in long or short form; `ValueError` without segments and words."""
    duration, tiers = _parse_tiers(text)
    if not tiers.keys() & {"segments", "words"}:
        raise ValueError(f"its tiers are {', '.join(tiers) or 'none'}; one has to be segments or words")
    words = [Word(*row) for row in tiers.get("words", ())]
    spoken = tiers.get("segments", [])
    if not spoken and words:
        spoken = [(words[0].start, words[-1].end, " ".join(word.text for word in words))]
    speakers = tiers.get("speakers", [])
    own_words: list[list[Word]] = [[] for _ in spoken]
    for word in words:
        own_words[max(0, _last_started(spoken, word.start))].append(word)
    segments, lines_of = [], [list[str]() for _ in speakers]
    for id, (start, end, line) in enumerate(spoken):
        at = _last_started(speakers, start)
        speaks = at >= 0 and start < speakers[at][1]
        if speaks:
            lines_of[at].append(line)
        speaker = speakers[at][2] if speaks else None
        segments.append(Segment(id, start, end, line, speaker=speaker, words=tuple(own_words[id])))
    turns = tuple(
        Turn(name, start, end, " ".join(lines)) for (start, end, name), lines in zip(speakers, lines_of, strict=True)
    )
    return replace(of_segments(segments), turns=turns, duration=duration)


def _apart(rows: Iterable[tuple[float, float, str]]) -> Iterator[Interval]:
    """Times in seconds and texts, but for empty ones, as intervals that do not overlap."""
    at = 0
    for start, end, text in rows:
        if line := plain_line(text):
            first = max(at, milliseconds(start))
            at = max(first + 1, milliseconds(end))
            yield Interval(first, at, line)


def _tiled(tier: Sequence[Interval], end: int) -> list[Interval]:
    """Intervals with empty ones between them, from 0 to `end` milliseconds."""
    borders = [0, *(border for each in tier for border in each[:2]), end]
    gaps = [Interval(start, stop, "") for start, stop in zip(borders[::2], borders[1::2], strict=True) if start < stop]
    return sorted([*tier, *gaps])


def _parse_tiers(text: str) -> tuple[float, dict[str, list[tuple[float, float, str]]]]:
    """Seconds of the whole, and of each tier the intervals with text."""
    tokens = _TOKEN.finditer(text)

    def read(kind: int) -> str:
        token = next(tokens, None)
        if token is None or token[kind] is None:
            wanted = "a text in quotes" if kind == _TEXT else "a number"
            raise ValueError(f"where {wanted} has to be, it {'ends' if token is None else f'has {token[0]:.40}'}")
        return token[kind].replace('""', '"')

    kinds = read(_TEXT), read(_TEXT)
    if kinds != ("ooTextFile", "TextGrid"):
        raise ValueError(f"it calls itself {kinds}")
    read(_NUMBER)
    duration = parsed_seconds(read(_NUMBER))
    tiers = {}
    for _ in range(int(read(_NUMBER))):
        kind, name = read(_TEXT), read(_TEXT)
        if kind != "IntervalTier":
            raise ValueError(f"tier {name!r:.40} is a {kind!r:.40}, not an IntervalTier")
        read(_NUMBER), read(_NUMBER)
        size = int(read(_NUMBER))
        rows = ((parsed_seconds(read(_NUMBER)), parsed_seconds(read(_NUMBER)), read(_TEXT)) for _ in range(size))
        tiers[name] = [row for row in rows if row[2]]
    return duration, tiers


def _last_started(rows: Sequence[tuple[float, float, str]], time: float) -> int:
    """Place of the last row that starts by then, -1 where none does."""
    return bisect_right(rows, time, key=lambda row: row[0]) - 1


def _seconds(ms: int) -> str:
    return f"{ms / 1000:.3f}"
