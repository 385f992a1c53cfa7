"""Segmentation of recordings by their transcripts or captions: utterances whose text and sound agree.

Every word is placed in time by forced alignment; times of captions are not believed. The text is cut where the sound
pauses, at pauses whose words on both sides fit well, so that no word loses its row; what does not fit the sound is
dropped with its reason, and with all that stands between two certain pauses. Nothing is trusted because somebody wrote
it down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from redline.longform.session import Session, SessionOptions
from redline.longform.vad import VAD_BLOCK, VAD_FRAME, frame_levels
from redline.longform.windows import WindowOptions
from redline.models.nar import NarModel
from redline.normalize import Letters, spoken
from redline.prepare.align_transcript import AlignedWord, TranscriptAlignment, align_transcript, character_posteriors
from redline.prepare.transcripts import Line
from redline.types import SAMPLE_RATE, ClipLimits, JsonRow, Task, Turn, Waveform

ALIGNMENT_WINDOW_S = 20.0  # longest stretch that the encoder sees at once; the longer, the more it knows around a word
MARGIN = round(0.2 * SAMPLE_RATE)  # kept before the first and after the last sound of a row, where the pause has room
SILENCE_S = 0.16  # shortest silence that a row may end in: longer than the closure of a plosive
AROUND_S = 10.0  # how far around a place its quiet and its loud are measured
SILENCE_SHARE = 0.35  # how far from the quiet to the loud, in decibels, silence may reach
LONGEST_PAUSE_S = 1.5  # a row holds no longer pause


@dataclass(frozen=True)
class SegmentationOptions:
    """What is worth keeping."""

    longest_s: float = 20.0
    shortest_s: float = 1.0
    most_regret: float = 1.5
    """Nats a character that a text may be less likely than what the encoder would have written itself."""
    most_word_regret: float = 7.0
    """The same of a single word of three letters and more."""
    most_border_regret: float = 3.0
    """The same of the words at the border of a row."""
    foreign_letters: int = 3
    """So many letters decoded between two words are speech that the text does not have."""
    letters: Letters = "a-z"


@dataclass(frozen=True)
class TranscriptWord:
    """A word of a transcript as written and in its spoken form (empty if not known), and who says it in which turn."""

    written: str
    spoken: str
    speaker: str = ""
    turn: int = 0
    shown: float | None = None  # seconds at which a caption that begins with it is shown


@dataclass(frozen=True)
class PreparedRow(JsonRow):
    """A text that fits a part of a recording, in seconds; or one that does not, with the reason."""

    start: float
    end: float
    text: str
    duration: float
    regret: float | None = None  # nats a character; None where no word has a place
    dropped: str = ""
    speaker: str = ""
    turns: tuple[Turn, ...] = ()  # where several speak; times count from `start`


@dataclass(frozen=True)
class SegmentedTranscript:
    """What became of a text."""

    rows: tuple[PreparedRow, ...]
    num_words: int  # words of the text
    anchored: int  # words of the text that were recognised in their order, three in a row
    late_s: float = 0.0  # how much later than said captions are shown, in the median; below 0: earlier

    @property
    def kept(self) -> int:
        """Words in rows."""
        return sum(len(row.text.split()) for row in self.rows if not row.dropped)


def transcript_words(lines: Iterable[Line], letters: Letters = "a-z") -> Iterator[TranscriptWord]:
    """The words of a transcript; one with a hyphen is said as several, and signs nobody says are no words.

    A number in digits is a word, but how it is said is not known where `letters` has no digits.
    """
    for line in lines:
        shown = line.shown
        for written in line.text.split():
            # "2nd" would be said "nd": a word with a digit is only known where digits are letters.
            is_number = letters == "a-z" and any(char.isdigit() for char in written)
            text = "" if is_number else spoken(written, letters)
            if text or is_number:
                yield TranscriptWord(written, text, line.speaker, line.turn, shown)
                shown = None


def segment_transcript(
    model: NarModel,
    wave: Waveform,
    words: Sequence[TranscriptWord],
    options: SegmentationOptions,
    progress: Callable[[float], None] = lambda seconds: None,
) -> SegmentedTranscript:
    """Find what of a text is said where; what does not fit is among the rows, marked as dropped."""
    session = Session(ClipLimits(ALIGNMENT_WINDOW_S), Task(), SessionOptions(window=WindowOptions(join_s=2.0)))
    for at in range(0, len(wave.samples), VAD_BLOCK):
        session.feed(wave.samples[at : at + VAD_BLOCK])
        session.ready()  # only the windows are wanted, not their clips
    session.close()
    posteriors = character_posteriors(model, wave, session.windows, progress)
    alignment = align_transcript([word.spoken for word in words], posteriors)
    if not any(alignment.words):
        text = " ".join(word.written for word in words)
        reason = "no three words of it are recognised in a row anywhere in the recording"
        row = PreparedRow(0.0, wave.duration, text, wave.duration, dropped=reason)
        return SegmentedTranscript((row,), len(words), 0)
    late = [
        word.shown - place.start / SAMPLE_RATE
        for word, place in zip(words, alignment.words, strict=True)
        if word.shown is not None and place is not None
    ]
    rows = _Segmenter(words, alignment, _silent_frames(frame_levels(wave.samples)), len(wave.samples), options).rows()
    return SegmentedTranscript(tuple(rows), len(words), alignment.anchored, float(np.median(late)) if late else 0.0)


@dataclass(frozen=True)
class _Phrase:
    """Words [first, last) between two pauses, at samples start and end."""

    first: int
    last: int
    start: int
    end: int
    reason: str  # why it is not to be trusted; empty where it is


@dataclass(frozen=True)
class _Segmenter:
    """Cuts an aligned text into rows; `silent` tells which frames of the recording are silence, [T]."""

    words: Sequence[TranscriptWord]
    alignment: TranscriptAlignment
    silent: NDArray[np.bool_]
    samples: int  # of the recording
    options: SegmentationOptions

    def rows(self) -> Iterator[PreparedRow]:
        """Rows of phrases that are all good, near each other and of one turn, or that are all bad."""
        row: list[_Phrase] = []
        for phrase in self._phrases():
            if row and not self._fits(row, phrase):
                yield self._row(row)
                row = []
            row.append(phrase)
        yield self._row(row)

    def _fits(self, row: Sequence[_Phrase], phrase: _Phrase) -> bool:
        """Whether a row can go on with the next phrase."""
        last = row[-1]
        if phrase.reason or last.reason:
            return bool(phrase.reason and last.reason)
        turns = {self.words[at].turn for each in (last, phrase) for at in (each.first, each.last - 1)}
        near = phrase.start - last.end <= LONGEST_PAUSE_S * SAMPLE_RATE - 2 * MARGIN
        return len(turns) == 1 and near and phrase.end - row[0].start <= self.options.longest_s * SAMPLE_RATE

    def _row(self, phrases: Sequence[_Phrase]) -> PreparedRow:
        """One row of phrases that are all good or all bad."""
        first, last, start, end = phrases[0].first, phrases[-1].last, phrases[0].start, phrases[-1].end
        own, places = self.words[first:last], [each for each in self.alignment.words[first:last] if each is not None]
        regret = sum(place.regret for place in places) / max(1, sum(place.letters for place in places))
        seconds, options = (end - start) / SAMPLE_RATE, self.options
        reason = "; ".join(dict.fromkeys(phrase.reason for phrase in phrases if phrase.reason))
        if not reason and regret > options.most_regret:
            reason = f"does not fit the sound: {regret:.2f} nats a character, allowed are {options.most_regret:g}"
        if not reason and seconds > options.longest_s:
            reason = f"{seconds:.1f} s without a pause that is certain, longer than {options.longest_s:g} s"
        if not reason and seconds < options.shortest_s:
            reason = f"{seconds:.2f} s, shorter than {options.shortest_s:g} s"
        speakers = {word.speaker for word in own}
        return PreparedRow(
            round(start / SAMPLE_RATE, 3),
            round(end / SAMPLE_RATE, 3),
            " ".join(word.written for word in own),
            round(seconds, 3),
            round(regret, 3) if places else None,
            reason,
            own[0].speaker if len(speakers) == 1 else "",
            tuple(_turns(own, places, start)) if len(speakers) > 1 and not reason else (),
        )

    def _phrases(self) -> Iterator[_Phrase]:
        """Cut the words at every certain pause, and judge what stands between two of them."""
        known = [(number, place) for number, place in enumerate(self.alignment.words) if place is not None]
        # First word after a pause, where the sound before it ends and where it begins again.
        borders = [(0, 0, _onset(known[0][1], self.silent))]
        for (left, before), (right, after) in pairwise(known):
            pause = _pause(before, after, self.silent) if right == left + 1 else None
            if pause and self._is_certain(left, -1) and self._is_certain(right, 1):
                borders.append((right, *pause))
        borders.append((len(self.words), _offset(known[-1][1], self.silent, self.samples), 0))
        for (first, _, start), (last, end, _) in pairwise(borders):
            yield _Phrase(first, last, start, end, self._distrust(first, last, start, end))

    def _is_certain(self, at: int, step: int) -> bool:
        """Whether a word at a border fits well, with its neighbour where it is short."""
        regret, letters, places = 0.0, 0, self.alignment.words
        while letters < 4 and 0 <= at < len(places) and (place := places[at]) is not None:
            regret, letters, at = regret + place.regret, letters + place.letters, at + step
        return letters > 0 and regret <= self.options.most_border_regret * letters

    def _distrust(self, first: int, last: int, start: int, end: int) -> str:
        """Why words [first, last) between pauses at two samples are not to be trusted; empty where they are."""
        words, options, foreign = self.words[first:last], self.options, self.alignment.letters_between
        if numbers := [word.written for word in words if not word.spoken]:
            return f"{', '.join(numbers[:3])}: how a number in digits is said is not known; write it in words"
        at, name = start, ""
        for word, place in zip(words, self.alignment.words[first:last], strict=True):
            if place is None:
                return f"no place was found for {word.written!r}"
            if place.letters >= 3 and place.regret > options.most_word_regret * place.letters:
                return f"{word.written!r} at {place.start / SAMPLE_RATE:.1f} s does not fit the sound"
            if foreign(at, place.start) >= options.foreign_letters:
                return f"before {word.written!r} at {place.start / SAMPLE_RATE:.1f} s more is said than is written"
            at, name = place.end, word.written
        if foreign(at, end) >= options.foreign_letters:
            return f"after {name!r} at {at / SAMPLE_RATE:.1f} s more is said than is written"
        return ""


def _turns(words: Sequence[TranscriptWord], places: Sequence[AlignedWord], start: int) -> Iterator[Turn]:
    for (speaker, _), run in groupby(zip(words, places, strict=True), key=lambda pair: (pair[0].speaker, pair[0].turn)):
        pairs = list(run)
        times = [round(max(0, at - start) / SAMPLE_RATE, 3) for at in (pairs[0][1].start, pairs[-1][1].end)]
        yield Turn(speaker or "?", times[0], times[1], " ".join(word.written for word, _ in pairs))


def _silent_frames(levels: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which frames of 32 ms are silence, measured by the quiet and the loud around them: levels [T] -> [T]."""
    around = round(AROUND_S * SAMPLE_RATE / VAD_FRAME)
    silent = np.zeros(len(levels), dtype=bool)
    for first in range(0, len(levels), around):
        low, high = np.percentile(levels[max(0, first - around) : first + 2 * around], (5, 90))
        silent[first : first + around] = levels[first : first + around] <= low + SILENCE_SHARE * (high - low)
    return silent


def _pause(before: AlignedWord, after: AlignedWord, silent: NDArray[np.bool_]) -> tuple[int, int] | None:
    """Where sound ends and begins again between two words: samples, or None where they are spoken in one breath."""
    first, last = before.end // VAD_FRAME, -(-after.start // VAD_FRAME)
    longest, at = (0, 0), first
    for is_silent, run in groupby(silent[first:last].tolist()):
        length = len(list(run))
        if is_silent and length > longest[1] - longest[0]:
            longest = (at, at + length)
        at += length
    start, end = longest[0] * VAD_FRAME, longest[1] * VAD_FRAME
    if end - start < SILENCE_S * SAMPLE_RATE:
        return None
    middle = (start + end) // 2
    return min(middle, start + MARGIN), max(middle, end - MARGIN)


def _onset(first: AlignedWord, silent: NDArray[np.bool_]) -> int:
    """Where the sound of the first word begins, with its margin."""
    at = first.start // VAD_FRAME
    while at > 0 and not silent[at - 1]:
        at -= 1
    return max(0, at * VAD_FRAME - MARGIN)


def _offset(last: AlignedWord, silent: NDArray[np.bool_], samples: int) -> int:
    """Where the sound of the last word ends, with its margin."""
    at = min(len(silent), -(-last.end // VAD_FRAME))
    while at < len(silent) and not silent[at]:
        at += 1
    return min(samples, at * VAD_FRAME + MARGIN)
