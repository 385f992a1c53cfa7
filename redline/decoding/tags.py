"""Tagged text, read and written: `[Speaker 1]:` before a turn, `[T:45]` after a word, `_ [T:45]` for a silence.

The number of a time tag is when the word or silence before it ends: centiseconds from the start of the clip, modulo
1000, so that it starts over every 10 s. Inside this file times are whole centiseconds that do not start over.
Sources: the model card of Granite Speech 4.1 Plus; arXiv 2604.11269 (speakers) and 2604.22817 (times).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from redline.types import Notice, Turn, Word

NOBODY = ""
"""The speaker of a turn that no tag gives to anybody; the `speaker` of its words is None."""
NO_SPEAKER = Notice(
    "no-speaker", "the model wrote no speaker tag, so nobody is named; keywords or a prompt can keep it from doing so"
)
ROLLOVER = 1000
"""Centiseconds after which the tags start over."""
WORD_SLACK = ROLLOVER // 2
"""A word's tag may fall back by so much before it is taken for the next lap: hardly a word lasts 5 s."""
SLACK = 100
"""The same for a silence, which may well last 5 s, and for a tag that falls back over the start of a lap."""
SILENCE = "_"

# It is searched for in text with single spaces only, and no body crosses a bracket: hostile text costs linear time.
_TAG = re.compile(
    r"""
      \[\ ?T\ ?:\ ?(?P<time>[0-9]{1,6})\ ?\]
    | \[\ ?speaker\ ?(?P<speaker>[0-9]{1,6})(?:\ cluster\ [0-9]+)?\ ?\](?:\ ?:)?
    | (?P<no_time>
          \[\ ?T\ ?:\ ?[^][\ ]*\ ?\]                    # [T:] [T:abc]
        | \[\ ?T\ ?:(?:[0-9]|[^][\w])*\]                # [T:4 5]
        | \[\ ?T\ ?[0-9]+\ ?\]                          # [T45]
        | \[\ ?T\ ?:(?:\ ?[0-9]+)?                      # [T:45 without its end
        | \[\ ?(?:T|S|Sp|Spe|Spea|Speak|Speake)?\ ?$    # the first characters of a tag, where the text was cut
      )
    | (?P<no_speaker>
          \[\ ?speaker\ ?\](?:\ ?:)?                    # [Speaker ]:
        | \[\ ?speaker\b[^][]*\]\ ?:                    # [Speaker one]:
        | \[\ ?speaker\ ?(?:[0-9]+(?:\ ?:)?|:|$)        # [Speaker 1 without its end
      )
    """,
    re.IGNORECASE | re.VERBOSE,
)


@dataclass(frozen=True)
class Tagged:
    """What a tagged text says."""

    text: str
    """The words, joined by single spaces: no tags, no silences."""
    words: tuple[Word, ...]
    """All words of the text with their times; none where no tag tells a time."""
    turns: tuple[Turn, ...]
    """All words of the text by speaker; none where no tag names a speaker."""
    tags: int
    """Tags in the text, malformed ones included."""
    malformed: int
    """Tags that could not be read."""

    @property
    def malformed_share(self) -> float:
        """Malformed tags among all tags; 0 where there are none."""
        return self.malformed / self.tags if self.tags else 0.0

    @property
    def warnings(self) -> tuple[Notice, ...]:
        """What the user should know."""
        if not self.malformed:
            return ()
        message = (
            f"{self.malformed} of {self.tags} tags could not be read; times or speakers near them are less certain"
        )
        return (Notice("malformed-tags", message),)


def strip(text: str) -> str:
    """The words of a tagged text, joined by single spaces."""
    return " ".join(part for kind, part in _scan(text) if kind == "word")


def strip_round(text: str) -> str:
    """The words of a tagged text that is said again and again, cut at any place: a tag may begin at its end."""
    start = max(0, text.find("["))
    return strip(text[start:] + text[:start])


def parse(text: str, duration_s: float | None = None, start_s: float = 0.0) -> Tagged:
    """Read a tagged text; any text can be read, and none of its words is lost.

    `start_s` is where the clip starts in the recording and `duration_s` how long it is; the times are those of the
    recording, to the centisecond, never decrease and never leave the clip. A word starts where the word or silence
    before it ends. Words that share a tag share its time in proportion to their characters; those after the last tag
    last until the end of the clip, or no time where its duration is unknown. Without any time tag there are no words,
    and every turn has the span of the clip. Neighbouring turns of one speaker are one turn; words before the first
    speaker tag, or after a malformed one, are a turn of `NOBODY`. Raises `ValueError` for a duration that is none.
    """
    if duration_s is not None and not 0 <= duration_s < math.inf:
        raise ValueError(f"duration_s is {duration_s}; allowed are 0 seconds or more")
    limit_ms = limit = None
    if duration_s is not None:
        limit_ms = round(duration_s * 1000)
        limit_ms -= limit_ms / 1000 > duration_s  # not floor: 1.001 * 1000 is less than 1001
        limit = -(-limit_ms // 10)
    parts: list[tuple[str, str | None]] = []  # each word or silence, with its speaker
    spans: list[tuple[int, int]] = []  # of the parts that a tag has given a time
    speaker: str | None = None
    now = tags = malformed = 0
    timed = False
    for kind, value in _scan(text):
        if kind in ("word", "silence"):
            parts.append((value, speaker))
            continue
        tags += 1
        if kind == "time":
            waiting = [part for part, _ in parts[len(spans) :]]
            silent = bool(waiting) and waiting[-1] == SILENCE
            end = _bounded(_unwrap(now, int(value), silent), now, limit)
            spans += _shares(waiting, now, end)
            now, timed = end, True
        elif kind == "speaker":
            speaker = value
        else:
            malformed += 1
            # Somebody else may be speaking now: not to know is better than to guess.
            speaker = None if kind == "no_speaker" else speaker
    spans += _shares([part for part, _ in parts[len(spans) :]], now, now if limit is None else limit)
    if not timed:
        spans = [(0, limit or 0)] * len(parts)
    offset_ms = round(start_s * 1000)

    def seconds(time: int) -> float:
        return (offset_ms + (time * 10 if limit_ms is None else min(time * 10, limit_ms))) / 1000

    words = tuple(
        Word(seconds(start), seconds(end), part, speaker=said_by)
        for (part, said_by), (start, end) in zip(parts, spans, strict=True)
        if part != SILENCE
    )
    joined = " ".join(word.text for word in words)
    return Tagged(joined, words if timed else (), _turns(words), tags, malformed)


def render_words(words: Sequence[Word], start_s: float = 0.0, min_silence_s: float = 0.01) -> str:
    """Words in time order -> text with time tags, and with speaker tags where the words have speakers.

    `parse(render_words(words, start_s), start_s=start_s).words` are the same words with times to the centisecond. A
    silence shorter than `min_silence_s` is given to the word after it. A long one is written in several parts, as one
    tag cannot tell it from a shorter one. Raises `ValueError` for what tags cannot hold: words that overlap or come
    before `start_s`, a word of 5 s or more that reaches into the next lap, several words or a tag in the text of one
    word, a speaker who is not a number, and a word of nobody after one of a speaker.
    """
    parts: list[str] = []
    now, speaker = 0, NOBODY
    for word in words:
        seen = f"word {word.text!r} at {word.start}-{word.end} s"
        if word.text.split() != [word.text]:
            raise ValueError(f"{seen}: it is no single word, and would be read as several or none")
        _check_text(word.text, seen)
        if not start_s <= word.start <= word.end < math.inf or _centiseconds(word.start - start_s) < now:
            raise ValueError(f"{seen}: tags hold times from {start_s} s on that never decrease and do not overlap")
        start, end = _centiseconds(word.start - start_s), _centiseconds(word.end - start_s)
        if start > now and (start - now) / 100 >= min_silence_s:
            step = ROLLOVER - SLACK - 1
            parts += (f"{SILENCE} [T:{time % ROLLOVER}]" for time in (*range(now + step, start, step), start))
            now = start
        if _unwrap(now, end % ROLLOVER, silent=False) != end:
            raise ValueError(
                f"{seen}: tags that start over every 10 s hold words of less than 5 s; split or shorten it"
            )
        if (word.speaker or NOBODY) != speaker:
            speaker = word.speaker or NOBODY
            parts.append(_speaker_tag(speaker, seen))
        parts.append(f"{word.text} [T:{end % ROLLOVER}]")
        now = end
    return " ".join(parts)


def render_turns(turns: Sequence[Turn]) -> str:
    """Turns in order -> text with speaker tags; their times are not written.

    `parse(render_turns(turns)).turns` are the same speakers and texts, neighbouring turns of one speaker merged; there
    are none where all are turns of nobody. Raises `ValueError` for what tags cannot hold: a turn without words, or with
    a tag in its text, a speaker who is not a number, and a turn of nobody after one of a speaker.
    """
    parts: list[str] = []
    for speaker, group in groupby(turns, key=lambda turn: turn.speaker):
        said = [_normal(turn.text) for turn in group]
        text = " ".join(said)
        seen = f"turn {text[:40]!r} of speaker {speaker!r}"
        for one in (*said, text):  # texts that are harmless alone may make a tag together
            _check_text(one, seen)
        if parts or speaker != NOBODY:
            parts.append(_speaker_tag(speaker, seen))
        parts.append(text)
    return " ".join(parts)


def _scan(text: str) -> Iterator[tuple[str, str]]:
    """The parts of a text in order, each with its kind: word, silence, time, speaker, no_time or no_speaker."""
    text = _normal(text)
    position = 0
    for match in _TAG.finditer(text):
        for part in text[position : match.start()].split():
            yield ("silence" if part == SILENCE else "word"), part
        kind = match.lastgroup
        assert kind is not None, "every branch of the pattern has a named group"
        yield kind, match[kind]
        position = match.end()
    for part in text[position:].split():
        yield ("silence" if part == SILENCE else "word"), part


def _unwrap(now: int, value: int, silent: bool) -> int:
    """The time of a tag, given the time before it and whether it ends a silence; never less than `now`.

    A tag that falls back a little is jitter and stands for `now`; one that falls back by more is in the next lap.
    """
    if value >= max(ROLLOVER, now):
        return value  # some texts in circulation have times that do not start over
    rise = (value - now) % ROLLOVER
    fall = ROLLOVER - rise
    in_lap = value % ROLLOVER < now % ROLLOVER
    slack = WORD_SLACK if in_lap and not silent else SLACK
    # Before the start of the clip there was no lap to fall back to.
    return now if fall <= min(slack, now) else now + rise


def _bounded(time: int, now: int, limit: int | None) -> int:
    """A time that lies within the clip; one that is far beyond its end is not believed."""
    if limit is None or time <= limit:
        return time
    return now if time > limit + SLACK else limit


def _shares(parts: Sequence[str], start: int, end: int) -> Iterator[tuple[int, int]]:
    """When each of several parts starts and ends that together last from `start` to `end`."""
    total = sum(map(len, parts))
    before, done = start, 0
    for part in parts:
        done += len(part)
        after = start + (end - start) * done // total
        yield before, after
        before = after


def _turns(words: Sequence[Word]) -> tuple[Turn, ...]:
    """Words -> turns; none where nobody is named."""
    if not any(word.speaker for word in words):
        return ()
    turns = []
    for speaker, group in groupby(words, key=lambda word: word.speaker or NOBODY):
        said = list(group)
        turns.append(Turn(speaker, said[0].start, said[-1].end, " ".join(word.text for word in said)))
    return tuple(turns)


def _speaker_tag(speaker: str, seen: str) -> str:
    if not re.fullmatch("[0-9]{1,6}", speaker):
        raise ValueError(
            f"{seen}: speaker {speaker!r}; tags name numbers only, and nobody only before the first of them"
        )
    return f"[Speaker {speaker}]:"


def _check_text(text: str, seen: str) -> None:
    if not text or strip(text) != text:
        raise ValueError(f"{seen}: the text is empty or has a tag or a silence in it, which would not be read as text")


def _normal(text: str) -> str:
    return " ".join(text.split())


def _centiseconds(seconds: float) -> int:
    return round(seconds * 100)
