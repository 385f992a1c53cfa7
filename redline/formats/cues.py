"""Cues: a transcript as subtitles that follow its words. Times are integer milliseconds.

The words of each segment are divided into cues, and those into lines, by dynamic programming over the costs of breaks
(`phrases`); then all cues are spaced in time.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import pairwise
from math import inf
from typing import NamedTuple

from redline.formats.format import milliseconds, with_speaker
from redline.formats.phrases import break_cost, ends_clause
from redline.formats.subtitle_options import DEFAULT_SUBTITLES, SubtitleOptions
from redline.types import Segment, Transcript, Word

# Costs, in the measure of `phrases`: of each cue, of one that holds little, of a second that is missing to read it, of
# lines of unequal length (squared share of the width). A clear pause takes _PAUSE off a break; in a cue it counts half.
_CUE, _SHORT_CUE, _UNREADABLE_S, _UNEVEN, _PAUSE, _LINE_BREAK = 3.0, 4.0, 12.0, 20.0, 4.0, 0.5
_CLEAR_PAUSE_S = 0.5
_PART_CHARS = 4
"""Characters of a part of a word that is longer than a line."""


class CueWord(NamedTuple):
    """A word of a cue with its times; `glued` to the one before where a word is longer than a line."""

    start: int
    end: int
    text: str
    glued: bool = False


class SubtitleCue(NamedTuple):
    """One subtitle: start and end, the words of each line, who speaks, and what says so before the first line."""

    start: int
    end: int
    rows: tuple[tuple[CueWord, ...], ...]
    speaker: str | None = None
    label: str = ""

    @property
    def lines(self) -> tuple[str, ...]:
        first, *others = (
            "".join(word.text if word.glued or not at else f" {word.text}" for at, word in enumerate(row))
            for row in self.rows
        )
        return (self.label + first, *others)


def transcript_cues(
    transcript: Transcript, options: SubtitleOptions = DEFAULT_SUBTITLES, labelled: bool = False
) -> list[SubtitleCue]:
    """All cues in order of time; none overlaps another, and all text is in them.

    Where they are `labelled`, the first line of each begins with its speaker, within the width of a line.
    """
    segments = transcript.segments
    following = [milliseconds(segment.start) for segment in segments[1:]] + [None]
    cues = [
        cue
        for segment, until in zip(segments, following, strict=False)
        for cue in segment_cues(
            segment,
            options,
            until,
            segment.language or transcript.language,
            with_speaker(segment.speaker, "") if labelled else "",
        )
    ]
    return spaced(cues, options, milliseconds(transcript.duration))


def segment_cues(
    segment: Segment,
    options: SubtitleOptions = DEFAULT_SUBTITLES,
    until: int | None = None,
    language: str | None = None,
    label: str = "",
) -> list[SubtitleCue]:
    """A segment -> cues with the times of their words; `until` is when the next segment begins.

    Where words cannot be aligned, the segment's time is shared out in proportion to characters.
    """
    words = _cue_words(segment, options.max_line_width)
    spoken_in = (language or "en").split("-")[0]
    breaks = [_break_cost(before, after, spoken_in) for before, after in pairwise(words)]
    cues = []
    for borders in _least_cost_cues(words, breaks, options, until, len(label)):
        rows = tuple(tuple(words[first:last]) for first, last in pairwise(borders))
        cues.append(SubtitleCue(rows[0][0].start, rows[-1][-1].end, rows, segment.speaker, label))
    return cues


def spaced(cues: Sequence[SubtitleCue], options: SubtitleOptions, duration: int = 0) -> list[SubtitleCue]:
    """Cues in order of their starts, with time to read where it is quiet after them, and the gap before the next.

    Starts rise. Where two begin within twice the gap of each other, the first has half of that time. The last may stay
    until the end of the recording, `duration`.
    """
    gap, longest = milliseconds(options.gap_s), max(1, milliseconds(options.max_duration_s))
    ordered = sorted(cues, key=lambda cue: cue.start)
    starts: list[int] = []
    for cue in ordered:
        starts.append(max(cue.start, starts[-1] + 1 if starts else 0))
    borders: list[int | None] = [*starts[1:], None]
    result = []
    for cue, start, after in zip(ordered, starts, borders, strict=False):
        end = max(cue.end, start + min(_reading_ms(sum(map(len, cue.lines)) + len(cue.lines) - 1, options), longest))
        if after is not None:
            end = min(end, max(after - gap, (start + after) // 2))
        elif duration >= cue.end:
            end = min(end, duration)
        result.append(cue._replace(start=start, end=max(start + 1, min(end, start + longest))))
    return result


def _reading_ms(chars: int, options: SubtitleOptions) -> int:
    """How long a cue of so many characters is to be seen, rounded up; at most the longest duration."""
    seconds = min(max(options.min_duration_s, chars / options.max_cps), options.max_duration_s)
    return -int(-seconds * 1000 // 1)


def _break_cost(before: CueWord, after: CueWord, language: str) -> float:
    pause_s = max(0, after.start - before.end) / 1000
    cost = break_cost(before.text, after.text, language, inside=after.glued)
    return cost - _PAUSE * min(1.0, pause_s / _CLEAR_PAUSE_S)


def _least_cost_cues(
    words: Sequence[CueWord], breaks: Sequence[float], options: SubtitleOptions, until: int | None, label_chars: int
) -> list[tuple[int, ...]]:
    """The division into cues that costs least: the numbers of the words that begin the lines of each, and its end."""
    total, gap, longest = len(words), milliseconds(options.gap_s), milliseconds(options.max_duration_s)
    pause, room = milliseconds(options.max_pause_s), options.max_line_width * options.max_line_count
    nothing: tuple[int, ...] = ()
    best = [(0.0, nothing)] + [(inf, nothing)] * total
    for first in range(total):
        for borders, chars, line_cost in _line_layouts(words, breaks, first, options, label_chars):
            last = borders[-1]
            if last > first + 1:
                silence = words[last - 1].start - words[last - 2].end
                if silence > pause or words[last - 1].end - words[first].start > longest:
                    break
            after = words[last].start if last < total else until
            time_ms = inf if after is None else max(0, after - gap - words[first].start)
            unreadable_s = max(0.0, _reading_ms(chars, options) - time_ms) / 1000
            cost = best[first][0] + line_cost + (breaks[last - 1] if last < total else 0.0)
            cost += _CUE + _SHORT_CUE * max(0.0, 1 - chars / room) ** 2 + _UNREADABLE_S * unreadable_s
            if cost < best[last][0]:
                best[last] = (cost, borders)
    cues: list[tuple[int, ...]] = []
    while total:
        cues.append(best[total][1])
        total = cues[-1][0]
    return cues[::-1]


def _line_layouts(
    words: Sequence[CueWord], breaks: Sequence[float], first: int, options: SubtitleOptions, label_chars: int
) -> Iterator[tuple[tuple[int, ...], int, float]]:
    """Cues that begin with one word, each longer by a word, as long as they fit: borders of lines, characters, cost.

    A cue has the fewest lines that hold it, of about equal length and broken where it costs least.
    """
    width = options.max_line_width
    # best[n][last]: sum of squared lengths and breaks of the words before `last` in n lines, and their borders
    best: list[dict[int, tuple[float, tuple[int, ...]]]] = [{first: (0.0, (first,))}]
    best += [{} for _ in range(min(options.max_line_count, len(words) - first))]
    chars = label_chars - 1
    for last in range(first + 1, len(words) + 1):
        chars += len(words[last - 1].text) + (last == first + 1 or not words[last - 1].glued)
        for before, row in pairwise(best):
            length = 0
            for begin in range(last - 1, first - 1, -1):
                length += len(words[begin].text) + (begin < last - 1 and not words[begin + 1].glued)
                shown = length + (label_chars if begin == first else 0)
                if shown > width and begin < last - 1:
                    break
                if begin in before:
                    cost, borders = before[begin]
                    cost += _UNEVEN * (shown / width) ** 2
                    if begin > first:
                        cost += _LINE_BREAK * max(0.0, breaks[begin - 1])
                    if last not in row or cost < row[last][0]:
                        row[last] = (cost, (*borders, last))
            if last in row:  # no layout with more lines has these words in one line less
                break
        else:
            return
        cost, borders = row[last]
        yield borders, chars, cost - _UNEVEN * (chars / width) ** 2 / (len(borders) - 1)


# ------------------------------------------------------------------------------------------------------- times of words


def _cue_words(segment: Segment, width: int) -> list[CueWord]:
    """The words of a segment; one that is longer than a line in parts, glued. Times never fall."""
    times = _character_times(segment)
    words: list[CueWord] = []
    done = latest = 0
    for token in segment.text.split():
        for number, part in enumerate([token] if len(token) <= width else _parts(token, width)):
            start = max(latest, times[done][0])
            done += len(part)
            latest, end = start, max(start, times[done - 1][1])
            words.append(CueWord(start, end, part, glued=number > 0))
    return words


def _parts(word: str, width: int) -> list[str]:
    """A long word in parts of a few characters, which end after punctuation; marks stay on their letters."""
    parts = [""]
    for char, after in zip(word, [*word[1:], ""], strict=True):
        parts[-1] += char
        mark = after != "" and unicodedata.category(after).startswith("M")
        if after and not mark and (len(parts[-1]) >= min(_PART_CHARS, width) or ends_clause(parts[-1])):
            parts.append("")
    return parts


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
