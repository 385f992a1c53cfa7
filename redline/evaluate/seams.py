"""Long recordings made of utterances, and the errors of their transcripts at the seams between windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from redline.evaluate.metrics.alignment import align_words
from redline.evaluate.result import DEFAULT_LANGUAGE
from redline.manifest import Utterance
from redline.normalize import normalised
from redline.types import SAMPLE_RATE, Waveform

NEAR_SEAM = 2
"""Words on each side of a seam that count as at it."""


@dataclass(frozen=True)
class LongRecording:
    """Sound, what is said in it, normalised, and its language."""

    wave: Waveform
    reference: str
    language: str


def join_utterances(
    rows: Sequence[Utterance], load: Callable[[Utterance], Waveform], *, longest_s: float, pause_s: float
) -> Iterator[LongRecording]:
    """Utterances joined, in their order and by language, to recordings of at least `longest_s`, but for the last.

    Between two stand `pause_s` of silence. With a `longest_s` of 0 each is a recording.
    """
    pause = np.zeros(round(pause_s * SAMPLE_RATE), dtype=np.float32)
    for language in dict.fromkeys(row.language for row in rows):
        code = language or DEFAULT_LANGUAGE
        parts, texts, count = list[np.ndarray](), list[str](), 0
        own = [row for row in rows if row.language == language]
        for row in own:
            samples = load(row).samples
            parts += [pause, samples] if parts else [samples]
            texts.append(row.text)
            count += len(samples) + len(pause)
            if count >= longest_s * SAMPLE_RATE or row is own[-1]:
                name = f"{Path(row.id).name} and {len(texts) - 1} before" if len(texts) > 1 else row.id
                yield LongRecording(Waveform(np.concatenate(parts), name), normalised(" ".join(texts), code), code)
                parts, texts, count = [], [], 0


@dataclass(frozen=True)
class SegmentErrors:
    """The segments of one transcript against the N words of a reference.

    `matched` and `recognized` have N entries: whether a word has one in its place, and which; `added` has N + 1: what
    was added in front of each word and behind the last. `seams` are the words in front of which one segment ends and
    the next begins.
    """

    matched: tuple[bool, ...]
    recognized: tuple[str, ...]
    added: tuple[tuple[str, ...], ...]
    seams: tuple[int, ...]
    wrong: tuple[bool, ...]
    """Whether each word is missing or another one."""

    @property
    def insertions(self) -> int:
        return sum(map(len, self.added))

    @property
    def deletions(self) -> int:
        return self.matched.count(False)

    @property
    def errors(self) -> int:
        return sum(self.wrong) + self.insertions

    def near(self, place: int) -> tuple[range, range]:
        """The words and the gaps between words around a place."""
        first, last = max(0, place - NEAR_SEAM), min(len(self.matched), place + NEAR_SEAM)
        return range(first, last), range(first, last + 1)

    @property
    def at_seams(self) -> tuple[int, int]:
        """Errors at seams, and words there, each counted once however many seams are near it."""
        words, gaps = set[int](), set[int]()
        for seam in self.seams:
            own_words, own_gaps = self.near(seam)
            words |= set(own_words)
            gaps |= set(own_gaps)
        return sum(self.wrong[word] for word in words) + sum(len(self.added[gap]) for gap in gaps), len(words)


def segment_errors(reference: str, segments: Sequence[str]) -> SegmentErrors:
    """Align segments with a reference; all texts are normalised."""
    ends = list(accumulate(len(segment.split()) for segment in segments))[:-1]
    matched, recognized, wrong = list[bool](), list[str](), list[bool]()
    added: list[list[str]] = [[]]
    places = [0]  # behind each recognized word, how many of the reference's words there were
    for pair in align_words(reference, " ".join(filter(None, segments))):
        if pair.reference:
            matched.append(bool(pair.hypothesis))
            recognized.append(pair.hypothesis)
            wrong.append(pair.kind != "equal")
            added.append([])
        else:
            added[-1].append(pair.hypothesis)
        if pair.hypothesis:
            places.append(len(matched))
    seams = tuple(places[end] for end in ends)
    return SegmentErrors(tuple(matched), tuple(recognized), tuple(map(tuple, added)), seams, tuple(wrong))
