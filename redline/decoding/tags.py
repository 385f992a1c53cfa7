"""Tagged text, read and written: `[Speaker 1]:` before a turn, `[T:45]` after a word, `_ [T:45]` for a silence.

The number of a time tag is when the word or silence before it ends: centiseconds from the start of the clip, modulo
1000, so that it starts over every 10 s (a lap). Inside this file times are whole centiseconds that do not start over.
Sources: the model card of Granite Speech 4.1 Plus; arXiv 2604.11269 (speakers) and 2604.22817 (times).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise, zip_longest

from redline.types import Notice, Turn, Word, joined_turns

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
TAG = re.compile(
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
    malformed: int
    """Of all tags, those that could not be read."""

    @property
    def warnings(self) -> tuple[Notice, ...]:
        """What the user should know."""
        unread = f"{self.malformed} of {self.tags} tags could not be read"
        notice = Notice("malformed-tags", f"{unread}; times or speakers near them are less certain")
        return (notice,) if self.malformed else ()


def strip_tags(text: str) -> str:
    """The words of a tagged text, joined by single spaces."""
    return " ".join(part for kind, part in _scan(text) if kind == "word")


def strip_cyclic(text: str) -> str:
    """The words of a tagged text that repeats, cut at any place: a tag may begin at its end."""
    start = max(0, text.find("["))
    return strip_tags(text[start:] + text[:start])


def parse_tagged(text: str, duration_s: float | None = None) -> Tagged:
    """Read a tagged text; any text can be read, and none of its words is lost.

    Times are in seconds, to the centisecond, never decrease and never leave a clip of `duration_s`. A word starts where
    the word or silence before it ends. Words that share a tag share its time by their characters; those after the last
    tag last until the end of the clip, or no time where its duration is unknown. Without any time tag there are no
    words, and every turn has the span of the clip. Words before the first speaker tag, or after a malformed one, are a
    turn of `NOBODY`.
    """
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
            end = _unwrap(now, int(value), waiting[-1:] == [SILENCE])
            if limit is not None and end > limit:  # one that is far beyond the end of the clip is not believed
                end = now if end > limit + SLACK else limit
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

    def seconds(time: int) -> float:
        return (time * 10 if limit_ms is None else min(time * 10, limit_ms)) / 1000

    words = tuple(
        Word(seconds(start), seconds(end), part, speaker=owner)
        for (part, owner), (start, end) in zip(parts, spans, strict=True)
        if part != SILENCE
    )
    joined = " ".join(word.text for word in words)
    return Tagged(joined, words if timed else (), speaker_turns(words), tags, malformed)


def speaker_turns(words: Sequence[Word]) -> tuple[Turn, ...]:
    """Words in order -> the turns of their speakers; none where no word has a speaker."""
    turns = joined_turns(Turn(word.speaker or NOBODY, word.start, word.end, word.text) for word in words)
    return turns if any(turn.speaker for turn in turns) else ()


def render_words(words: Sequence[Word], min_silence_s: float = 0.01) -> str:
    """Words in time order -> text with time tags, and with speaker tags where the words have speakers.

    `parse_tagged` inverts it, with times to the centisecond. A silence shorter than `min_silence_s` is given to the
    word after it; a long one is written in several parts, as one tag cannot tell it from a shorter one. Raises
    `ValueError` where the words could not be read again: some overlap, one of 5 s or more reaches into the next lap, a
    text is no single word or has a tag in it, or speakers are as `render_turns` does not take them.
    """
    parts: list[str] = []
    expected: list[Word] = []
    now, speaker = 0, NOBODY
    for word in words:
        if not 0 <= word.start <= word.end < float("inf"):
            raise ValueError(f"word {word.text!r} at {word.start}-{word.end} s: tags hold times from 0 s on")
        start, end = round(word.start * 100), round(word.end * 100)
        if start > now and (start - now) / 100 >= min_silence_s:
            step = ROLLOVER - SLACK - 1
            parts += (f"{SILENCE} [T:{time % ROLLOVER}]" for time in (*range(now + step, start, step), start))
            now = start
        if (word.speaker or NOBODY) != speaker:
            speaker = word.speaker or NOBODY
            parts.append(f"[Speaker {speaker}]:")
        parts.append(f"{word.text} [T:{end % ROLLOVER}]")
        expected.append(Word((now if start > now else start) / 100, end / 100, word.text, speaker=speaker or None))
        now = end
    text = " ".join(parts)
    tagged = parse_tagged(text)
    if list(tagged.words) != expected or tagged.malformed:
        wrong = next(
            (word for word, read in zip_longest(expected, tagged.words) if word and word != read), expected[-1]
        )
        raise ValueError(
            f"word {wrong.text!r} at {wrong.start}-{wrong.end} s would be read otherwise; tags hold single words "
            "without tags that do not overlap, less than 5 s of each where tags start over, and numbers for speakers"
        )
    return text


def render_turns(turns: Sequence[Turn]) -> str:
    """Turns in order -> text with speaker tags; their times are not written.

    `parse_tagged` inverts it, but for neighbouring turns of one speaker, which are one. Raises `ValueError` where the
    turns could not be read again: one is without words or has a tag in its text, a speaker is not a number, or one is
    of nobody after one of a speaker.
    """
    merged = [
        (speaker, " ".join(" ".join(turn.text.split()) for turn in group))
        for speaker, group in groupby(turns, key=lambda turn: turn.speaker)
    ]
    tags = [f"[Speaker {speaker}]: " if speaker or at else "" for at, (speaker, _) in enumerate(merged)]
    rendered = " ".join(tag + text for tag, (_, text) in zip(tags, merged, strict=True))
    tagged = parse_tagged(rendered)
    parsed = [(turn.speaker, turn.text) for turn in tagged.turns] or [(NOBODY, tagged.text)][: len(merged)]
    if parsed != merged or tagged.malformed or not all(turn.text.strip() for turn in turns):
        raise ValueError(
            f"turns {rendered[:80]!r} would be read otherwise; tags hold texts without tags, and speakers that are "
            "numbers, nobody only before the first of them"
        )
    return rendered


def _scan(text: str) -> Iterator[tuple[str, str]]:
    """The parts of a text in order, each with its kind: word, silence, time, speaker, no_time or no_speaker."""
    text = " ".join(text.split())
    position = 0
    for match in (*TAG.finditer(text), None):
        for part in text[position : match.start() if match else None].split():
            yield ("silence" if part == SILENCE else "word"), part
        if match is not None:
            kind = match.lastgroup or ""
            yield kind, match[kind]
            position = match.end()


def _unwrap(now: int, value: int, silent: bool) -> int:
    """The time of a tag, given the time before it and whether it ends a silence; never less than `now`.

    A tag that falls back a little is jitter and stands for `now`; one that falls back by more is in the next lap.
    """
    if value >= max(ROLLOVER, now):
        return value  # some texts in circulation have times that do not start over
    rise = (value - now) % ROLLOVER
    in_lap = value % ROLLOVER < now % ROLLOVER
    slack = WORD_SLACK if in_lap and not silent else SLACK
    # Before the start of the clip there was no lap to fall back to.
    return now if ROLLOVER - rise <= min(slack, now) else now + rise


def _shares(parts: Sequence[str], start: int, end: int) -> Iterator[tuple[int, int]]:
    """When each of several parts starts and ends that together last from `start` to `end`."""
    marks = [0, *accumulate(map(len, parts))]
    times = [start + (end - start) * mark // max(1, marks[-1]) for mark in marks]
    return pairwise(times)
