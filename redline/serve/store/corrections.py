"""Corrections of words, kept beside the text of the machine: which words of a segment are replaced, and by what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from redline.errors import DataError
from redline.types import JsonRecord, Segment, Transcript, Turn, Word, joined_turns, share


@dataclass(frozen=True)
class Correction(JsonRecord):
    """`count` words of a segment's text, from the word `word` on (both from 0), are replaced by a text.

    Words are what spaces part in the machine's text. An empty text takes the words out.
    """

    segment: int
    word: int
    text: str
    count: int = 1


def check_corrections(transcript: Transcript, corrections: Iterable[Correction]) -> None:
    """Raises `DataError` for a correction of words that are not there, or that another one replaces, too."""
    taken: set[tuple[int, int]] = set()
    for each in corrections:
        if not 0 <= each.segment < len(transcript.segments):
            raise DataError(f"segment {each.segment} is corrected; there are {len(transcript.segments)}, from 0")
        known = len(transcript.segments[each.segment].text.split())
        if each.count < 1 or each.word < 0 or each.word + each.count > known:
            raise DataError(
                f"words {each.word} to {each.word + each.count - 1} of segment {each.segment} are corrected; it has "
                f"{known} words, from 0"
            )
        mine = {(each.segment, each.word + at) for at in range(each.count)}
        if mine & taken:
            raise DataError(f"word {each.word} of segment {each.segment} is corrected twice; take one correction back")
        taken |= mine


def merge_corrections(
    before: Iterable[Correction], changes: Iterable[Correction], transcript: Transcript
) -> list[Correction]:
    """Corrections with changes: one that begins at the same word replaces, one with the machine's words takes back."""
    kept = {(each.segment, each.word): each for each in before}
    for change in changes:
        kept[change.segment, change.word] = replace(change, text=" ".join(change.text.split()))
    result = [kept[place] for place in sorted(kept)]
    check_corrections(transcript, result)

    def says_the_same(each: Correction) -> bool:
        words = transcript.segments[each.segment].text.split()
        return each.text.split() == words[each.word : each.word + each.count]

    return [each for each in result if not says_the_same(each)]


def corrected(transcript: Transcript, corrections: Sequence[Correction]) -> Transcript:
    """The transcript with the corrections in its text, segments, words and turns; drafts and edits stay the model's."""
    if not corrections:
        return transcript
    segments = tuple(
        _corrected_segment(segment, [each for each in corrections if each.segment == at])
        for at, segment in enumerate(transcript.segments)
    )
    text = " ".join(segment.text for segment in segments if segment.text)
    return replace(transcript, segments=segments, text=text, turns=_turns(transcript, segments, corrections))


def _spliced(words: Sequence[str], corrections: Sequence[Correction]) -> list[tuple[int, int, list[str]]]:
    """The text in pieces: words [first, end) of the machine, and what stands there now."""
    pieces, at = [], 0
    for each in sorted(corrections, key=lambda each: each.word):
        pieces += [(place, place + 1, [words[place]]) for place in range(at, each.word)]
        at = each.word + each.count
        pieces.append((each.word, at, each.text.split()))
    return pieces + [(place, place + 1, [words[place]]) for place in range(at, len(words))]


def _corrected_segment(segment: Segment, corrections: Sequence[Correction]) -> Segment:
    if not corrections:
        return segment
    spoken = segment.text.split()
    pieces = _spliced(spoken, corrections)
    text = " ".join(word for _, _, now in pieces for word in now)
    timed: list[Word] = []
    if len(segment.words) == len(spoken):
        for first, end, now in pieces:
            before = segment.words[first:end]
            if [word.text for word in before] == now:
                timed += before
                continue
            timed += [replace(word, speaker=before[0].speaker) for word in share(now, before[0].start, before[-1].end)]
    elif segment.words:  # the model's words are others than those of its text
        timed = share(text.split(), segment.start, segment.end)
    return replace(segment, text=text, words=tuple(timed))


def _turns(transcript: Transcript, segments: Sequence[Segment], corrections: Sequence[Correction]) -> tuple[Turn, ...]:
    """Turns with the corrected words, each word in the turn where its first one was."""
    spoken = [(at, word) for at, segment in enumerate(transcript.segments) for word in segment.text.split()]
    if [word for _, word in spoken] != [word for turn in transcript.turns for word in turn.text.split()]:
        attributed = [each for each in segments if each.speaker is not None and each.text]
        return joined_turns(Turn(each.speaker or "", each.start, each.end, each.text) for each in attributed)
    now: list[list[str]] = []  # in place of each word of the machine
    for at, segment in enumerate(transcript.segments):
        own = [each for each in corrections if each.segment == at]
        for first, end, words in _spliced(segment.text.split(), own):
            now += [words, *([[]] * (end - first - 1))]
    turns, begin = [], 0
    for turn in transcript.turns:
        count = len(turn.text.split())
        turns.append(replace(turn, text=" ".join(word for words in now[begin : begin + count] for word in words)))
        begin += count
    return tuple(turn for turn in turns if turn.text)
