"""Training data from what people have: a recording and its transcript, or a recording and its captions.

The encoder listens, its rough words anchor the transcript in time, CTC alignment tries the doubtful words at each
border, and what does not fit the sound is dropped and told. Nothing is trusted because somebody wrote it down.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redline.decoding.align import Alignment, align
from redline.decoding.ctc import greedy
from redline.errors import DataError
from redline.features import FRAME_RATE, batch_features
from redline.longform.pipeline import PipelineOptions, batches, listen
from redline.longform.windows import WindowOptions
from redline.models.editor import NarEditor
from redline.train.data import Letters, spoken
from redline.train.encoder import CHAR_BLANK, characters
from redline.types import SAMPLE_RATE, Span, Waveform

NOTHING = "\0"
"""Stands for no word in an alignment of words."""


@dataclass(frozen=True)
class HarvestOptions:
    """What is worth keeping."""

    longest_s: float = 20.0
    shortest_s: float = 1.0
    most_regret: float = 1.5
    """Nats a character that a text may be less likely than what the encoder would have written itself."""
    margin_s: float = 0.2
    """Kept before the first and after the last sound of a text."""
    doubtful_words: int = 12
    """Words at the border of two windows that are tried on either side."""
    letters: Letters = "a-z"
    """What spoken words are made of: `a-z` for English, `all` for other languages."""


@dataclass(frozen=True)
class Word:
    """A word of a transcript as it is written, and as it is said in lower-case letters."""

    written: str
    said: str


@dataclass(frozen=True)
class Candidate:
    """A part of a recording and the words that may be said in it."""

    span: Span
    words: tuple[Word, ...]
    leading: int = 0
    """So many of the first words may as well belong to the part before."""
    trailing: int = 0

    @property
    def written(self) -> str:
        return " ".join(word.written for word in self.words)


@dataclass(frozen=True)
class Harvested:
    """A text that fits a part of a recording, in seconds; or one that does not, with the reason."""

    start: float
    end: float
    text: str
    regret: float
    dropped: str = ""

    def to_dict(self, audio: Path, language: str, source: str) -> dict[str, Any]:
        """A row of a manifest."""
        row = {"audio": str(audio), "start": round(self.start, 3), "end": round(self.end, 3), "text": self.text}
        row |= {"duration": round(self.end - self.start, 3), "language": language, "source": source}
        row |= {"regret": round(self.regret, 3)}
        return row | ({"dropped": self.dropped} if self.dropped else {})


def words_of(text: str, letters: Letters = "a-z") -> list[Word]:
    """The words of a transcript; one with a hyphen is said as several, and signs nobody says are no words."""
    return [Word(written, said) for written in text.split() if (said := spoken(written, letters))]


@dataclass(frozen=True)
class Cue:
    """One caption: seconds and what it says."""

    start: float
    end: float
    text: str


_TIMES = re.compile(r"(?:(\d+):)?(\d+):(\d+)[.,](\d+)\s*-->\s*(?:(\d+):)?(\d+):(\d+)[.,](\d+)")


def read_captions(path: Path) -> list[Cue]:
    """The cues of an .srt or .vtt file, without tags; raises `DataError` when there are none."""
    cues = []
    for block in re.split(r"\n\s*\n", path.read_text(encoding="utf-8-sig", errors="replace").replace("\r\n", "\n")):
        if found := _TIMES.search(block):
            numbers = [int(group or 0) for group in found.groups()]
            times = [
                3600 * numbers[at] + 60 * numbers[at + 1] + numbers[at + 2] + float(f"0.{found.groups()[at + 3]}")
                for at in (0, 4)
            ]
            text = html.unescape(re.sub(r"<[^>]*>|\{\\[^}]*\}", "", block[found.end() :].split("\n", 1)[-1]))
            if text.strip() and times[1] > times[0]:
                cues.append(Cue(times[0], times[1], " ".join(text.split())))
    if not cues:
        raise DataError(f"{path}: no captions; an .srt or .vtt file has lines such as 00:00:01,000 --> 00:00:04,000")
    return sorted(cues, key=lambda cue: cue.start)


def from_captions(cues: Sequence[Cue], samples: int, options: HarvestOptions) -> list[Candidate]:
    """Neighbouring captions joined up to the longest utterance."""
    found: list[Candidate] = []
    last_end = 0.0
    for cue in cues:
        words = tuple(words_of(cue.text, options.letters))
        start = max(0, round((cue.start - options.margin_s) * SAMPLE_RATE))
        end = min(samples, round((cue.end + options.margin_s) * SAMPLE_RATE))
        if not words or end <= start:
            continue
        near = found and cue.start - last_end < 1.0
        if near and end - found[-1].span.start <= options.longest_s * SAMPLE_RATE:
            found[-1] = Candidate(Span(found[-1].span.start, end), found[-1].words + words)
        else:
            found.append(Candidate(Span(start, end), words))
        last_end = cue.end
    return found


@dataclass
class _Listened:
    """What the character head makes of some spans: log probabilities [T, C] of each, on the CPU."""

    logits: list[Tensor]
    texts: list[str]


@torch.inference_mode()
def _hear(model: NarEditor, wave: Waveform, spans: Sequence[Span], progress: Callable[[float], None]) -> _Listened:
    place = model.encoder.input_linear.weight
    logits: list[Tensor] = [torch.empty(0)] * len(spans)
    texts = [""] * len(spans)
    lengths = [span.end - span.start for span in spans]
    for group in batches(lengths, 120 * SAMPLE_RATE):
        features, frames = batch_features([wave.part(spans[index]) for index in group], model.config.frame_rule)
        out = model.encoder(features.to(place.device, place.dtype), frames.to(place.device))
        rows = greedy(out.char_logits, out.lengths, CHAR_BLANK)
        for index, row, found, length in zip(group, out.char_logits.cpu(), rows, out.lengths.tolist(), strict=True):
            logits[index] = row[:length].float()
            texts[index] = "".join(map(chr, found))
        progress(sum(lengths[index] for index in group) / SAMPLE_RATE)
    return _Listened(logits, texts)


def from_transcript(words: Sequence[Word], spans: Sequence[Span], heard: Sequence[str], most: int) -> list[Candidate]:
    """Divide a transcript among spans, by the words that were heard in each.

    The words between the last one heard in a span and the first heard in a later one are doubtful: both may have them.
    """
    import kaldialign

    # A written word may be said as several, and only what is said can be compared.
    said = [(part, number) for number, word in enumerate(words) for part in word.said.split()]
    found = [(part, number) for number, text in enumerate(heard) for part in text.split()]
    pairs = kaldialign.align([part for part, _ in said], [part for part, _ in found], NOTHING)
    place: dict[int, int] = {}  # word -> the span in which it was heard as written
    at_said = at_found = 0
    for left, right in pairs:
        if left == right:
            place.setdefault(said[at_said][1], found[at_found][1])
        at_said += left != NOTHING
        at_found += right != NOTHING
    candidates = []
    anchors = sorted(place)
    for number, span in enumerate(spans):
        mine = [word for word in anchors if place[word] == number]
        if not mine:
            continue
        before = max((word for word in anchors if word < mine[0]), default=-1)
        after = min((word for word in anchors if word > mine[-1]), default=len(words))
        leading = min(mine[0] - before - 1, most)
        trailing = min(after - mine[-1] - 1, most)
        chosen = tuple(words[mine[0] - leading : mine[-1] + 1 + trailing])
        candidates.append(Candidate(span, chosen, leading, trailing))
    return candidates


def _fit(candidate: Candidate, logits: Tensor) -> tuple[Candidate, Alignment, float] | None:
    """The candidate with those of its doubtful words that fit best, its alignment and its regret in nats a character.

    None when no choice fits into the time. Where the text begins is decided first, then where it ends.
    """
    words = candidate.words
    ends = len(words)
    begins = [replace(candidate, words=words[leading:]) for leading in range(candidate.leading + 1)]
    best = _best(begins, logits)
    if best is not None:
        words = best[0].words
    shorter = [replace(candidate, words=words[: len(words) - cut]) for cut in range(min(candidate.trailing + 1, ends))]
    return _best([one for one in shorter if one.words], logits)


def _best(trials: Sequence[Candidate], logits: Tensor) -> tuple[Candidate, Alignment, float] | None:
    """The most likely of several texts of the same sound."""
    free = float(logits.log_softmax(-1).amax(-1).sum())
    targets = [characters(" ".join(word.said for word in trial.words), logits.shape[-1]) for trial in trials]
    lengths = torch.full((len(trials),), len(logits))
    found = align(logits.expand(len(trials), -1, -1), lengths, targets, CHAR_BLANK)
    fits = [
        (trial, alignment, (free - alignment.score * len(logits)) / len(target))
        for trial, target, alignment in zip(trials, targets, found, strict=True)
        if alignment is not None and target
    ]
    return max(fits, key=lambda fit: fit[1].score, default=None)


def harvest(
    model: NarEditor,
    wave: Waveform,
    material: Sequence[Word] | Sequence[Cue],
    options: HarvestOptions,
    progress: Callable[[float], None] = lambda seconds: None,
) -> list[Harvested]:
    """Find what of a transcript (words) or of captions (cues) is said where; what does not fit is marked as dropped."""
    if material and isinstance(material[0], Cue):
        cues = [cue for cue in material if isinstance(cue, Cue)]
        candidates = from_captions(cues, len(wave.samples), options)
        heard = _hear(model, wave, [one.span for one in candidates], progress)
    else:
        words = [word for word in material if isinstance(word, Word)]
        # Few long windows: a word without a neighbour that was heard has nothing to be found by.
        window = WindowOptions(max_s=options.longest_s, join_s=2.0)
        spans, _ = listen(wave, options.longest_s, PipelineOptions(window=window))
        listened = _hear(model, wave, spans, progress)
        candidates = from_transcript(words, spans, listened.texts, options.doubtful_words)
        order = {span: index for index, span in enumerate(spans)}
        heard = _Listened([listened.logits[order[one.span]] for one in candidates], [])
    return [_judge(one, logits, model, options) for one, logits in zip(candidates, heard.logits, strict=True)]


def _judge(candidate: Candidate, logits: Tensor, model: NarEditor, options: HarvestOptions) -> Harvested:
    start, end = candidate.span.start / SAMPLE_RATE, candidate.span.end / SAMPLE_RATE
    fitted = _fit(candidate, logits)
    if fitted is None:
        return Harvested(start, end, candidate.written, float("inf"), "more letters than there is time for")
    chosen, alignment, regret = fitted
    rate = FRAME_RATE / model.config.encoder.subsampling
    first = max(start, start + alignment.starts[0] / rate - options.margin_s)
    last = min(end, start + alignment.ends[-1] / rate + options.margin_s)
    dropped = ""
    if regret > options.most_regret:
        dropped = f"does not fit the sound: {regret:.2f} nats a character, allowed are {options.most_regret:g}"
    elif last - first < options.shortest_s:
        dropped = f"{last - first:.2f} s, shorter than {options.shortest_s:g} s"
    return Harvested(first, last, chosen.written, regret, dropped)
