"""Training data from what people have: a recording and its transcript, or a recording and its captions.

Every word is placed in time by what the encoder hears (`placing`); times of captions are not believed. The text is cut
where the sound pauses, at pauses whose words on both sides were heard well, so that no word loses its row; what
does not fit the sound is dropped and told, with all that stands between two certain pauses. Nothing is trusted because
somebody wrote it down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redline.longform import vad
from redline.longform.session import Session, SessionOptions
from redline.longform.windows import WindowOptions
from redline.models.nar import NarModel
from redline.prepare.align_transcript import Place, Placed, hear, place_words
from redline.prepare.transcripts import Line
from redline.train.data.batches import Letters, spoken
from redline.types import SAMPLE_RATE, ClipLimits, Task, Turn, Waveform

WINDOW_S = 20.0
"""Longest stretch that the encoder hears at once; the longer, the more it knows around a word."""
MARGIN_S = 0.2
"""Kept before the first and after the last sound of a row, where the pause leaves room."""
QUIET_S = 0.16
"""Shortest silence that a row may end in: longer than the closure of a plosive."""
AROUND_S = 10.0
"""How far around a place its quiet and its loud are measured."""
QUIET_SHARE = 0.35
"""How far from the quiet to the loud, in decibels, silence may reach."""
LONGEST_PAUSE_S = 1.5
"""A row holds no longer pause."""


@dataclass(frozen=True)
class HarvestOptions:
    """What is worth keeping."""

    longest_s: float = 20.0
    shortest_s: float = 1.0
    most_regret: float = 1.5
    """Nats a character that a text may be less likely than what the encoder would have written itself."""
    most_word_regret: float = 7.0
    """The same of a single word of three letters and more."""
    most_border_regret: float = 3.0
    """The same of the words at the border of a row."""
    strange_letters: int = 3
    """So many letters heard between two words are speech that the text does not have."""
    letters: Letters = "a-z"
    """What spoken words are made of: `a-z` for English, `all` for other languages."""


@dataclass(frozen=True)
class TranscriptWord:
    """A word of a transcript as it is written, as it is said in lower-case letters, and who says it in which turn."""

    written: str
    said: str
    speaker: str = ""
    turn: int = 0
    shown: float | None = None
    """Seconds at which a caption that begins with it is shown."""


@dataclass(frozen=True)
class Harvested:
    """A text that fits a part of a recording, in seconds; or one that does not, with the reason."""

    start: float
    end: float
    text: str
    regret: float
    dropped: str = ""
    speaker: str = ""
    turns: tuple[Turn, ...] = ()
    """Who says what, where several do; times count from `start`."""

    def to_dict(self, audio: Path, language: str, source: str) -> dict[str, Any]:
        """A row of a manifest."""
        row = {"audio": str(audio), "start": round(self.start, 3), "end": round(self.end, 3), "text": self.text}
        row |= {"duration": round(self.end - self.start, 3), "language": language, "source": source}
        if self.speaker:
            row["speaker"] = self.speaker
        if self.turns:
            row["turns"] = [turn.to_dict() for turn in self.turns]
        if np.isfinite(self.regret):
            row["regret"] = round(self.regret, 3)
        return row | ({"dropped": self.dropped} if self.dropped else {})


@dataclass(frozen=True)
class Harvest:
    """What became of a text."""

    rows: tuple[Harvested, ...]
    given: int
    """Words of the text."""
    recognised: int
    """Words of the text that were recognised in their order, three in a row."""
    late_s: float = 0.0
    """How much later than said captions are shown, in the middle of all; below 0: earlier."""

    @property
    def kept(self) -> int:
        """Words in rows."""
        return sum(len(row.text.split()) for row in self.rows if not row.dropped)


def words_of(text: str, letters: Letters = "a-z") -> list[TranscriptWord]:
    """The words of a text; one with a hyphen is said as several, and signs nobody says are no words.

    A number in digits is a word, but how it is said is not known: `said` is empty where `letters` has no digits.
    """
    return list(_words([Line(text)], letters))


def words_of_lines(lines: Iterable[Line], letters: Letters = "a-z") -> list[TranscriptWord]:
    """The words of a transcript with speakers."""
    return list(_words(lines, letters))


def _words(lines: Iterable[Line], letters: Letters) -> Iterable[TranscriptWord]:
    for line in lines:
        shown = line.shown
        for written in line.text.split():
            # "2nd" would be said "nd": a word with a digit is only known where digits are letters.
            unsaid = letters == "a-z" and any(char.isdigit() for char in written)
            said = "" if unsaid else spoken(written, letters)
            if said or unsaid:
                yield TranscriptWord(written, said, line.speaker, line.turn, shown)
                shown = None


def harvest(
    model: NarModel,
    wave: Waveform,
    words: Sequence[TranscriptWord],
    options: HarvestOptions,
    progress: Callable[[float], None] = lambda seconds: None,
) -> Harvest:
    """Find what of a text is said where; what does not fit is among the rows, marked as dropped."""
    session = Session(ClipLimits(WINDOW_S), Task(), SessionOptions(window=WindowOptions(join_s=2.0)))
    for at in range(0, len(wave.samples), vad.BLOCK):
        session.feed(wave.samples[at : at + vad.BLOCK])
        session.ready()  # only the windows are wanted, not their clips
    session.close()
    hearing = hear(model, wave, session.windows, progress)
    placed = place_words([word.said for word in words], hearing)
    if not any(placed.places):
        whole = " ".join(word.written for word in words)
        reason = "no three words of it are recognised in a row anywhere in the recording"
        return Harvest((Harvested(0.0, wave.duration, whole, float("inf"), reason),), len(words), 0)
    rows = tuple(_rows(words, placed, wave, options))
    late = [
        word.shown - place.start / SAMPLE_RATE
        for word, place in zip(words, placed.places, strict=True)
        if word.shown is not None and place is not None
    ]
    return Harvest(rows, len(words), placed.recognised, float(np.median(late)) if late else 0.0)


@dataclass(frozen=True)
class _Phrase:
    """Words [first, last) between two pauses, at samples start and end."""

    first: int
    last: int
    start: int
    end: int
    reason: str
    """Why it is not to be trusted; empty where it is."""


def _rows(
    words: Sequence[TranscriptWord], placed: Placed, wave: Waveform, options: HarvestOptions
) -> Iterable[Harvested]:
    phrases = _phrases(words, placed, wave, options)
    most = options.longest_s * SAMPLE_RATE
    rows: list[list[_Phrase]] = []
    for phrase in phrases:
        last = rows[-1][-1] if rows else None
        fits = last is not None and bool(phrase.reason) == bool(last.reason)
        if last is not None and fits and not phrase.reason:
            turns = {words[at].turn for one in (last, phrase) for at in (one.first, one.last - 1)}
            near = phrase.start - last.end <= (LONGEST_PAUSE_S - 2 * MARGIN_S) * SAMPLE_RATE
            fits = len(turns) == 1 and near and phrase.end - rows[-1][0].start <= most
        if fits:
            rows[-1].append(phrase)
        else:
            rows.append([phrase])
    for row in rows:
        yield _row(words, placed.places, row, options)


def _row(
    words: Sequence[TranscriptWord], places: Sequence[Place | None], phrases: Sequence[_Phrase], options: HarvestOptions
) -> Harvested:
    """One row of phrases that are all good or all bad."""
    first, last, start, end = phrases[0].first, phrases[-1].last, phrases[0].start, phrases[-1].end
    own = words[first:last]
    found = [place for place in places[first:last] if place is not None]
    regret = sum(place.regret for place in found) / max(1, sum(place.letters for place in found))
    seconds = (end - start) / SAMPLE_RATE
    reasons = list(dict.fromkeys(phrase.reason for phrase in phrases if phrase.reason))
    if not reasons and regret > options.most_regret:
        reasons = [f"does not fit the sound: {regret:.2f} nats a character, allowed are {options.most_regret:g}"]
    if not reasons and seconds > options.longest_s:
        reasons = [f"{seconds:.1f} s without a pause that is certain, longer than {options.longest_s:g} s"]
    if not reasons and seconds < options.shortest_s:
        reasons = [f"{seconds:.2f} s, shorter than {options.shortest_s:g} s"]
    speakers = {word.speaker for word in own}
    return Harvested(
        start / SAMPLE_RATE,
        end / SAMPLE_RATE,
        " ".join(word.written for word in own),
        regret if found else float("inf"),
        "; ".join(reasons),
        own[0].speaker if len(speakers) == 1 else "",
        tuple(_turns(own, places[first:last], start)) if len(speakers) > 1 and not reasons else (),
    )


def _turns(words: Sequence[TranscriptWord], places: Sequence[Place | None], start: int) -> Iterable[Turn]:
    for (speaker, _), run in groupby(zip(words, places, strict=True), key=lambda one: (one[0].speaker, one[0].turn)):
        said = list(run)
        found = [place for _, place in said if place is not None]
        times = [round(max(0, at - start) / SAMPLE_RATE, 3) for at in (found[0].start, found[-1].end)]
        yield Turn(speaker or "?", times[0], times[1], " ".join(word.written for word, _ in said))


def _phrases(words: Sequence[TranscriptWord], placed: Placed, wave: Waveform, options: HarvestOptions) -> list[_Phrase]:
    """Cut the words at every certain pause, and judge what stands between two of them."""
    places = placed.places
    quiet = _quiet(vad.frame_levels(wave.samples))
    known = [number for number, place in enumerate(places) if place is not None]
    # First word after a pause, where the sound before it ends and where it begins again.
    borders = [(0, 0, _onset(places[known[0]], quiet))]
    for left, right in pairwise(known):
        before, after = places[left], places[right]
        assert before is not None and after is not None
        found = _pause(before, after, quiet) if right == left + 1 else None
        if found and all(_certain(places, at, step, options) for at, step in ((left, -1), (right, 1))):
            borders.append((right, *found))
    borders.append((len(words), _offset(places[known[-1]], quiet, len(wave.samples)), 0))
    phrases = []
    for (first, _, start), (last, end, _) in pairwise(borders):
        reason = _reason(words[first:last], placed, first, start, end, options)
        phrases.append(_Phrase(first, last, start, end, reason))
    return phrases


def _certain(places: Sequence[Place | None], at: int, step: int, options: HarvestOptions) -> bool:
    """Whether a word at a border was heard well, with its neighbour where it is short."""
    regret, letters = 0.0, 0
    while letters < 4 and 0 <= at < len(places) and (place := places[at]) is not None:
        regret, letters, at = regret + place.regret, letters + place.letters, at + step
    return letters > 0 and regret <= options.most_border_regret * letters


def _reason(
    words: Sequence[TranscriptWord], placed: Placed, first: int, start: int, end: int, options: HarvestOptions
) -> str:
    """Why words between two pauses, the first of them number `first` of all, are not to be trusted."""
    if digits := [word.written for word in words if not word.said]:
        return f"{', '.join(digits[:3])}: how a number in digits is said is not known; write it in words"
    at, name = start, ""
    for word, place in zip(words, placed.places[first:], strict=False):
        if place is None:
            return f"no place was found for {word.written!r}"
        if place.letters >= 3 and place.regret > options.most_word_regret * place.letters:
            return f"{word.written!r} at {place.start / SAMPLE_RATE:.1f} s does not fit the sound"
        if placed.strange(at, place.start) >= options.strange_letters:
            return f"before {word.written!r} at {place.start / SAMPLE_RATE:.1f} s more is said than is written"
        at, name = place.end, word.written
    if placed.strange(at, end) >= options.strange_letters:
        return f"after {name!r} at {at / SAMPLE_RATE:.1f} s more is said than is written"
    return ""


def _quiet(levels: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which frames of 32 ms are silence, measured by the quiet and the loud around them."""
    around = round(AROUND_S * SAMPLE_RATE / vad.FRAME)
    quiet = np.zeros(len(levels), dtype=bool)
    for first in range(0, len(levels), around):
        near = levels[max(0, first - around) : first + 2 * around]
        low, high = np.percentile(near, (5, 90))
        quiet[first : first + around] = levels[first : first + around] <= low + QUIET_SHARE * (high - low)
    return quiet


def _pause(before: Place, after: Place, quiet: NDArray[np.bool_]) -> tuple[int, int] | None:
    """Where sound ends and begins again between two words: samples, or None where they are spoken in one breath."""
    first, last = before.end // vad.FRAME, -(-after.start // vad.FRAME)
    best, at = (0, 0), first
    for silent, run in groupby(quiet[first:last].tolist()):
        length = len(list(run))
        if silent and length > best[1] - best[0]:
            best = (at, at + length)
        at += length
    start, end = best[0] * vad.FRAME, best[1] * vad.FRAME
    if end - start < QUIET_S * SAMPLE_RATE:
        return None
    middle, margin = (start + end) // 2, round(MARGIN_S * SAMPLE_RATE)
    return min(middle, start + margin), max(middle, end - margin)


def _onset(first: Place | None, quiet: NDArray[np.bool_]) -> int:
    """Where the sound of the first word begins, with its margin."""
    assert first is not None
    at = first.start // vad.FRAME
    while at > 0 and not quiet[at - 1]:
        at -= 1
    return max(0, at * vad.FRAME - round(MARGIN_S * SAMPLE_RATE))


def _offset(last: Place | None, quiet: NDArray[np.bool_], samples: int) -> int:
    """Where the sound of the last word ends, with its margin."""
    assert last is not None
    at = min(len(quiet), -(-last.end // vad.FRAME))
    while at < len(quiet) and not quiet[at]:
        at += 1
    return min(samples, at * vad.FRAME + round(MARGIN_S * SAMPLE_RATE))
