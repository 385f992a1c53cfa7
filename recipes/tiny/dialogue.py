"""Dialogues made of single speakers: turns of two speakers or more joined, with the times of all words.

What a model for several speakers has to learn (who speaks, when each word is spoken, speech on top of speech) is exact
here, because every clip is put together from recordings whose speaker and words are known.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redline.errors import ConfigError, DataError
from redline.features import FRAME_SAMPLES
from redline.manifest import Utterance
from redline.types import SAMPLE_RATE, Turn, Word
from redline_recipes.tiny.microphone import in_band, through_one_microphone
from redline_recipes.tiny.word_alignment import samples_of

Range = tuple[float, float]
SpeakerKey = tuple[str, str, str]
"""Split, language and name."""

FADE = SAMPLE_RATE // 100
"""Samples over which a piece comes and goes, so that no cut clicks."""
PEAK = 0.95


@dataclass(frozen=True)
class DialogueOptions:
    """How dialogues are put together; every pair of numbers is the least and the most that is drawn."""

    speakers: int = 2
    turns: tuple[int, int] = (2, 6)
    turn_s: Range = (1.5, 8.0)  # of a piece; a turn made of two may be longer
    clip_s: Range = (8.0, 30.0)
    overlap: float = 0.33  # share of the joints at which the next speaker begins before the other one ends
    overlap_s: Range = (0.05, 0.4)
    gap_s: Range = (0.0, 0.8)  # between two speakers who do not talk at once
    again: float = 0.2  # share of the turns that are made of two pieces, where they are long enough
    again_s: Range = (0.3, 0.8)  # between the two pieces of such a turn
    pause_s: float = 0.2  # words so far apart may be parted
    margin_s: float = 0.2  # kept of the recording around a piece, up to the next word
    rim_s: Range = (0.1, 0.5)  # before the first and after the last word of a clip
    level_db: float = -26.0  # mean power of speech against full scale
    level_difference_db: float = 4.0  # the others are at most so much louder or quieter than the first
    floor_db: Range = (-75.0, -58.0)
    """Noise below the whole clip, against full scale: without it gaps would be silent as no recording is."""
    one_microphone: bool = False
    """Give all speakers the same mean spectrum, that between their own: readers have a microphone each."""
    band_hz: Range | None = None  # what is heard of the whole clip; a telephone's band is 300 to 3,400
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple) and value[0] > value[1]:
                raise ConfigError(f"{field.name} is {value}; the first number is the least, the second the most")
        for name in ("overlap", "again"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; allowed are 0 (never) to 1 (always)")
        if self.speakers < 2:
            raise ConfigError(f"speakers is {self.speakers}; a dialogue has at least 2")
        if self.turns[0] < self.speakers:
            raise ConfigError(f"turns is {self.turns}; a dialogue of {self.speakers} speakers has at least as many")
        if 2 * self.overlap_s[1] > self.turn_s[0]:
            raise ConfigError(
                f"overlap_s is up to {self.overlap_s[1]:g} and turn_s from {self.turn_s[0]:g}; "
                "an overlap is at most half of the shortest turn, or three turns would meet"
            )
        if self.clip_s[1] < self._two_turns_s:
            raise ConfigError(f"clip_s is {self.clip_s}; two turns may take {self._two_turns_s:g} s: lower turn_s")

    @property
    def _two_turns_s(self) -> float:
        """The longest that one turn of two pieces and one of a piece may take."""
        return 3 * self.turn_s[1] + self.again_s[1] + self.gap_s[1] + 2 * self.rim_s[1]


@dataclass(frozen=True)
class DialogueTurn:
    """Some words of an utterance, from one pause to another: those from `first` up to `last`."""

    utterance: Utterance
    first: int
    last: int

    @property
    def words(self) -> tuple[Word, ...]:
        """With their times in the utterance."""
        return self.utterance.words[self.first : self.last]

    @property
    def duration(self) -> float:
        """Seconds from the first word to the end of the last."""
        return self.words[-1].end - self.words[0].start


@dataclass(frozen=True)
class Placed:
    """A piece in a clip: whose it is, when its first word begins and the level of its speech."""

    piece: DialogueTurn
    speaker: str
    start: float
    level_db: float

    @property
    def words(self) -> tuple[Word, ...]:
        """With their times in the clip."""
        shift = self.start - self.piece.words[0].start
        return tuple(
            Word(round(word.start + shift, 3), round(word.end + shift, 3), word.text) for word in self.piece.words
        )

    @property
    def end(self) -> float:
        """When the last word ends."""
        return self.words[-1].end


@dataclass(frozen=True)
class Dialogue:
    """A plan of a clip: what is said when, and all that is needed to make the sound."""

    id: str
    placed: tuple[Placed, ...]
    duration: float
    floor_db: float

    @property
    def words(self) -> tuple[Word, ...]:
        """In the order of the turns, so that times may go back where speakers overlap."""
        return tuple(word for part in self.placed for word in part.words)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Neighbouring pieces of one speaker are one turn."""
        turns: list[Turn] = []
        for part in self.placed:
            text = " ".join(word.text for word in part.words)
            if turns and turns[-1].speaker == part.speaker:
                turns[-1] = replace(turns[-1], end=part.end, text=f"{turns[-1].text} {text}")
            else:
                turns.append(Turn(part.speaker, part.start, part.end, text))
        return tuple(turns)

    def to_dict(self, audio: str) -> dict[str, Any]:
        """A row of a manifest; `speakers` names who is "1" and who is "2"."""
        first = self.placed[0].piece.utterance
        names = {part.speaker: part.piece.utterance.speaker for part in self.placed}
        text, source = " ".join(turn.text for turn in self.turns), "dialogues"
        row = Utterance(self.id, Path(audio), text, self.duration, first.language, "", source, first.split)
        row = replace(row, turns=self.turns, words=self.words)
        return row.to_dict() | {"speakers": [names[speaker] for speaker in sorted(names)]}


def pieces(utterance: Utterance, options: DialogueOptions) -> list[DialogueTurn]:
    """Every part of an utterance between two pauses that is as long as a turn may be."""
    words = utterance.words
    pauses = [at for at in range(1, len(words)) if words[at].start - words[at - 1].end >= options.pause_s]
    candidates = (
        DialogueTurn(utterance, first, last)
        for first, last in combinations([0, *pauses, len(words)], 2)
        if last > first
    )
    least, most = options.turn_s
    return [piece for piece in candidates if least <= piece.duration <= most]


class Casts:
    """The speakers of each split and language and their pieces, every utterance used once before one comes again."""

    def __init__(self, utterances: Sequence[Utterance], options: DialogueOptions, draw: random.Random) -> None:
        self.draw = draw
        self.stock: dict[SpeakerKey, list[list[DialogueTurn]]] = {}
        for row in utterances:
            if row.speaker and (usable := pieces(row, options)):
                self.stock.setdefault((row.split, row.language, row.speaker), []).append(usable)
        self.count = options.speakers
        self.speakers = [speaker for speaker in self.stock if len(self.partners(speaker)) >= self.count - 1]
        if not self.speakers:
            needed = "two" if self.count == 2 else self.count
            raise DataError(
                f"{len(self.stock)} speakers with pieces of {options.turn_s[0]:g} to {options.turn_s[1]:g} s among "
                f"{len(utterances)} utterances with words; a dialogue needs {needed} of the same split and language"
            )
        self.decks: dict[SpeakerKey, list[list[DialogueTurn]]] = {speaker: [] for speaker in self.speakers}

    def cast(self) -> list[SpeakerKey]:
        """The speakers of a dialogue, all of the same split and language."""
        first = self.draw.choice(self.speakers)
        if self.count == 2:
            return [first, self.draw.choice(self.partners(first))]
        return [first, *self.draw.sample(self.partners(first), self.count - 1)]

    def order(self, turns: int) -> list[int]:
        """Who speaks in each turn, by place in the cast: all begin once, then anybody but the last one goes on."""
        order = [turn % self.count for turn in range(turns if self.count == 2 else min(turns, self.count))]
        while len(order) < turns:
            order.append(self.draw.choice([place for place in range(self.count) if place != order[-1]]))
        return order

    def partners(self, speaker: SpeakerKey) -> list[SpeakerKey]:
        """The other speakers of a speaker's split and language."""
        return [other for other in self.stock if other[:2] == speaker[:2] and other != speaker]

    def piece(self, speaker: SpeakerKey, length_s: float) -> DialogueTurn:
        """Of the speaker's next utterance the piece nearest to a length."""
        deck = self.decks[speaker]
        if not deck:
            deck += self.draw.sample(self.stock[speaker], len(self.stock[speaker]))
        return min(deck.pop(), key=lambda piece: abs(piece.duration - length_s))


def plan(
    utterances: Sequence[Utterance],
    count: int,
    options: DialogueOptions = DialogueOptions(),
) -> list[Dialogue]:
    """So many dialogues of utterances with words; the seed, the options and the utterances decide all of it.

    Raises `DataError` where no two speakers of a split and language have pieces, or clips come out too short.
    """
    draw = random.Random(options.seed)
    casts = Casts(utterances, options, draw)
    dialogues: list[Dialogue] = []
    misses = 0
    while len(dialogues) < count:
        placed = _act(casts, options)
        duration = round(max(part.end for part in placed) + draw.uniform(*options.rim_s), 3)
        floor_db = draw.uniform(*options.floor_db)
        if duration < options.clip_s[0]:
            misses += 1
            if misses > 100 * (len(dialogues) + 1):
                raise DataError(f"{misses} clips came out shorter than {options.clip_s[0]:g} s; allow shorter ones")
            continue
        split = placed[0].piece.utterance.split
        dialogues.append(Dialogue(_name(split, len(dialogues), placed, options), placed, duration, floor_db))
    return dialogues


def _name(split: str, number: int, placed: Sequence[Placed], options: DialogueOptions) -> str:
    """An id that only the same clip gets, so that one that is on disk already can be told."""
    parts = [(part.piece.utterance.id, part.piece.first, part.piece.last, part.start, part.level_db) for part in placed]
    digest = hashlib.sha256(f"{options} {number} {parts}".encode()).hexdigest()[:8]
    return f"{split or 'clip'}-{number:05d}-{digest}"


def _act(casts: Casts, options: DialogueOptions) -> tuple[Placed, ...]:
    """The pieces of one clip, as many as were drawn or as fit."""
    draw = casts.draw
    cast = casts.cast()
    difference = draw.uniform(-options.level_difference_db, options.level_difference_db) / 2
    levels = [options.level_db - difference, options.level_db + difference]
    levels += [options.level_db + draw.uniform(-1.0, 1.0) * difference for _ in cast[2:]]
    placed: list[Placed] = []
    now = draw.uniform(*options.rim_s)
    for turn, place in enumerate(casts.order(draw.randint(*options.turns))):
        length_s = draw.uniform(*options.turn_s)
        twice = length_s >= 2 * options.turn_s[0] and draw.random() < options.again
        for half in range(1 + twice):
            if half:
                now += draw.uniform(*options.again_s)
            elif turn:
                meets = draw.random() < options.overlap
                now += -draw.uniform(*options.overlap_s) if meets else draw.uniform(*options.gap_s)
            piece = casts.piece(cast[place], length_s / (1 + twice))
            part = Placed(piece, str(place + 1), round(now, 3), levels[place])
            if part.end + options.rim_s[1] > options.clip_s[1]:
                return tuple(placed)
            placed.append(part)
            now = part.end
    return tuple(placed)


def render(dialogue: Dialogue, options: DialogueOptions = DialogueOptions()) -> NDArray[np.float32]:
    """The sound of a dialogue, samples [N]; raises `AudioError` where a recording cannot be read."""
    noise = np.random.default_rng(int.from_bytes(hashlib.sha256(dialogue.id.encode()).digest()[:8], "big"))
    mix = noise.normal(0.0, _amplitude(dialogue.floor_db), round(dialogue.duration * SAMPLE_RATE))
    cuts = [_cut(part.piece, options) for part in dialogue.placed]
    sounds = [sound for sound, _ in cuts]
    if options.one_microphone:
        sounds = through_one_microphone([part.piece.utterance.speaker for part in dialogue.placed], sounds)
    for part, sound, (_, lead) in zip(dialogue.placed, sounds, cuts, strict=True):
        begin = round(part.start * SAMPLE_RATE) - lead
        sound = sound[max(0, -begin) :] * _amplitude(part.level_db)
        begin = max(0, begin)
        sound = sound[: len(mix) - begin]
        fade = np.linspace(0.0, 1.0, min(FADE, len(sound)), endpoint=False)
        sound[: len(fade)] *= fade
        sound[len(sound) - len(fade) :] *= fade[::-1]
        mix[begin : begin + len(sound)] += sound
    if options.band_hz is not None:
        mix = in_band(mix, options.band_hz)
    return np.asarray(mix * min(1.0, PEAK / float(np.abs(mix).max())), dtype=np.float32)


def _amplitude(level_db: float) -> float:
    return math.pow(10.0, level_db / 20.0)


def _cut(piece: DialogueTurn, options: DialogueOptions) -> tuple[NDArray[np.float64], int]:
    """A piece at a mean power of 1, and how many of its samples come before its first word."""
    words, margin = piece.utterance.words, round(options.margin_s * SAMPLE_RATE)
    samples = samples_of(piece.utterance).astype(np.float64)
    start, end = round(piece.words[0].start * SAMPLE_RATE), round(piece.words[-1].end * SAMPLE_RATE)
    before = round(words[piece.first - 1].end * SAMPLE_RATE) if piece.first else 0
    after = round(words[piece.last].start * SAMPLE_RATE) if piece.last < len(words) else len(samples)
    # Aligned times are some hundredths of a second off; the quietest place of a pause is outside of both words.
    first = max(start - margin, _quietest(samples, before, start) if piece.first else 0)
    last = min(end + margin, _quietest(samples, end, after) if piece.last < len(words) else len(samples))
    power = float(np.mean(np.square(samples[start:end]))) if end > start else 0.0
    return samples[first:last] / math.sqrt(max(power, 1e-10)), start - first


def _quietest(samples: NDArray[np.float64], start: int, end: int) -> int:
    """The middle of the 20 ms with the least energy between two places."""
    if end - start <= FRAME_SAMPLES:
        return (start + end) // 2
    energy = np.concatenate(([0.0], np.cumsum(np.square(samples[start:end]))))
    return start + int(np.argmin(energy[FRAME_SAMPLES:] - energy[:-FRAME_SAMPLES])) + FRAME_SAMPLES // 2
