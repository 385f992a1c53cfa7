"""Transcripts of the channels of one recording, one voice each -> one transcript in the order of time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, pairwise

from redline.errors import RedlineError
from redline.longform.stitch import drafts_of
from redline.types import Notice, Overlap, Segment, Transcript, Turn, joined_turns

PAUSE_S = 0.5
"""After a longer pause between two words somebody else may be first."""

LONGEST_PART_S = 60.0
"""No window, and so no part of one, is longer."""


def interleaved(channels: Sequence[Transcript | RedlineError | None]) -> Transcript | RedlineError | None:
    """One transcript of all channels; "1" speaks on the first, "2" on the second, and so on.

    Segments are what a channel says between two pauses, by their starts; where two talk at once they overlap. A channel
    that failed is a warning, if not all did; None is one of which nothing is done.
    """
    done = [(number, each) for number, each in enumerate(channels, start=1) if isinstance(each, Transcript)]
    if not done:
        return next((each for each in channels if each is not None), None)
    warnings = [
        replace(notice, message=f"channel {number}: {notice.message}")
        for number, each in done
        for notice in each.warnings
    ]
    duration = max(each.duration for _, each in done)
    for number, each in enumerate(channels, start=1):
        if isinstance(each, RedlineError):
            warnings.append(Notice("failed", f"channel {number}: {each}", 0.0, duration))
        elif each is None:
            message = f"channel {number}: the work was interrupted; nothing of it is in the text"
            warnings.append(Notice("interrupted", message, 0.0, duration))
    if len(channels) == 1:
        warnings.append(Notice("one-channel", "the recording has one channel, so there is nothing to split"))
    parts = [part for number, each in done for segment in each.segments for part in _parts(segment, str(number))]
    parts.sort(key=lambda part: (part.start, part.speaker))
    segments = tuple(replace(part, id=id, overlaps=tuple(_overlaps(part, parts, id))) for id, part in enumerate(parts))
    turns = joined_turns(Turn(part.speaker or "", part.start, part.end, part.text) for part in segments)
    return replace(
        done[0][1],
        text=" ".join(part.text for part in segments),
        segments=segments,
        language=next((each.language for _, each in done if each.language is not None), None),
        duration=duration,
        turns=tuple(replace(turn, end=_end(turn, segments)) for turn in turns),
        warnings=tuple(warnings),
    )


def _end(turn: Turn, segments: Sequence[Segment]) -> float:
    """When the last of a turn's segments ends; a turn is joined of segments by their starts."""
    own = [part for part in segments if part.speaker == turn.speaker and turn.start <= part.start <= turn.end]
    return max([turn.end, *(part.end for part in own)])


def _overlaps(part: Segment, parts: Sequence[Segment], at: int) -> Iterator[Overlap]:
    """Where others talk during a part, which is number `at` of all in the order of their starts."""
    first = at
    while first and parts[first - 1].start > part.start - LONGEST_PART_S:
        first -= 1
    for other in islice(parts, first, None):
        if other.start >= part.end:
            return
        start, end = max(part.start, other.start), min(part.end, other.end)
        if other.speaker != part.speaker and other.speaker and start < end:
            yield Overlap(start, end, other.speaker)


def _parts(segment: Segment, speaker: str) -> list[Segment]:
    """What is said between two pauses of a segment; all of it where its words have no times."""
    words = tuple(replace(word, speaker=speaker) for word in segment.words)
    if len(words) != len(segment.text.split()):
        return [replace(segment, speaker=speaker, words=words)]
    starts = [at for at in range(len(words)) if not at or words[at].start - words[at - 1].end >= PAUSE_S]
    cuts = list(pairwise([*starts, len(words)]))
    drafts = drafts_of(segment, [last - first for first, last in cuts])
    return [
        replace(
            segment,
            start=words[first].start,
            end=words[last - 1].end,
            text=" ".join(word.text for word in words[first:last]),
            words=words[first:last],
            speaker=speaker,
            draft=draft,
            edits=edits,
            timing=None,
            tagged=None,
        )
        for (first, last), (draft, edits) in zip(cuts, drafts, strict=True)
    ]
