"""Where in a recording each word of a transcript is said: anchors by what the encoder hears, CTC alignment between.

Three words that are heard in a row, and that stand in the transcript in a row and only once, are an anchor. Between two
anchors every word is aligned with the character head. Speech that the transcript does not have may lie between any two
words (a wildcard as in arXiv 2406.02560, "star"), so what is missing pushes nothing aside; it is counted instead.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from redline.decoding.align import ctc_align
from redline.engine.scheduler import batches_by_length
from redline.features import FRAME_RATE, batch_features
from redline.models.nar import NarModel
from redline.train.objectives.encoder import CHAR_BLANK, character_targets
from redline.types import SAMPLE_RATE, Span, Waveform

SPACE = ord(" ")
ANCHOR_WORDS = 3
PIECE_S = 15.0
"""Shortest stretch between two anchors that is aligned as one."""
LONGEST_PIECE_S = 240.0
"""Where nothing was recognised for so long, nothing is aligned."""
SHORT_S = 30.0
"""A recording up to this length is aligned as one where it has no anchor: its text has few words to be known by."""
WILD_NATS = 1.5
"""What a frame of speech costs that the transcript does not have."""
BATCH_CELLS = 40_000_000
"""Frames times labels times texts that are aligned at once."""


@dataclass(frozen=True)
class Hearing:
    """What the character head makes of a recording: log probabilities [T, C] of its windows, one behind the other."""

    log_probs: Tensor
    spans: tuple[Span, ...]
    firsts: tuple[int, ...]
    """First frame of each window."""
    frame: int
    """Samples of one frame."""

    def sample(self, frame: int) -> int:
        """Where a frame begins."""
        window = max(0, bisect_right(self.firsts, frame) - 1)
        return min(self.spans[window].start + (frame - self.firsts[window]) * self.frame, self.spans[window].end)


@dataclass(frozen=True)
class HeardWord:
    """A word as the encoder would write it, in frames."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Place:
    """Where a word is said, in samples, and how well it fits; None of it where no place was found."""

    start: int
    end: int
    regret: float
    """Nats by which the word is less likely than what the encoder would have written itself, of all its letters."""
    letters: int


@dataclass(frozen=True)
class Placed:
    """The words of a text in a recording, and all that was heard there."""

    places: tuple[Place | None, ...]
    recognised: int
    """Words that belong to an anchor."""
    letters: tuple[tuple[int, int], ...]
    """Where each letter is heard, in samples, in time order."""

    def strange(self, start: int, end: int) -> int:
        """Letters that are heard wholly between two samples."""
        first = bisect_left(self.letters, (start, 0))
        last = bisect_left(self.letters, (end, 0))
        return sum(stop <= end for _, stop in self.letters[first:last])


@torch.inference_mode()
def hear(model: NarModel, wave: Waveform, spans: Sequence[Span], progress: Callable[[float], None]) -> Hearing:
    """Windows of a recording in time order -> the character posteriors of all of them, on the CPU in half precision."""
    place = model.encoder.input_linear.weight
    found: list[Tensor] = [torch.empty(0)] * len(spans)
    lengths = [span.end - span.start for span in spans]
    for group in batches_by_length(lengths, 120 * SAMPLE_RATE):
        features, frames = batch_features([wave.part(spans[index]) for index in group], model.config.frame_rule)
        out = model.encoder(features.to(place.device, place.dtype), frames.to(place.device))
        rows = out.char_logits.float().log_softmax(-1).cpu()
        for index, row, length in zip(group, rows, out.lengths.tolist(), strict=True):
            found[index] = row[:length].half()
        progress(sum(lengths[index] for index in group) / SAMPLE_RATE)
    firsts, at = [], 0
    for row in found:
        firsts.append(at)
        at += len(row)
    samples = SAMPLE_RATE // FRAME_RATE * model.config.encoder.subsampling
    width = model.config.encoder.output_dim
    return Hearing(torch.cat(found) if found else torch.empty(0, width), tuple(spans), tuple(firsts), samples)


def heard_words(hearing: Hearing) -> tuple[list[HeardWord], list[tuple[int, int]]]:
    """The words of the best path, none of them over the border of two windows, and its letters in samples."""
    words: list[HeardWord] = []
    spoken: list[tuple[int, int]] = []
    best = hearing.log_probs.argmax(dim=-1).tolist() if len(hearing.log_probs) else []
    ends = [*hearing.firsts[1:], len(best)]
    for first, end in zip(hearing.firsts, ends, strict=True):
        letters, start, at = "", first, first
        for label, run in groupby(best[first:end]):
            length = len(list(run))
            if label == SPACE and letters:
                words.append(HeardWord(letters, start, at))
                letters = ""
            elif label not in (CHAR_BLANK, SPACE):
                start = start if letters else at
                letters, stop = letters + chr(label), at + length
                spoken.append((hearing.sample(at), hearing.sample(at + length - 1) + hearing.frame))
            at += length
        if letters:
            words.append(HeardWord(letters, start, stop))
    return words, spoken


def anchors(said: Sequence[str], heard: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of places (in what is said, in what was heard) of runs of words that are the same and occur once in each.

    Only the longest chain of pairs that rise in both is kept, so a chance match cannot turn the order.
    """
    places = [_once(words) for words in (said, heard)]
    pairs = sorted((at, places[1][run]) for run, at in places[0].items() if run in places[1])
    tops: list[int] = []  # smallest last place of a chain of each length
    holders: list[int] = []
    before: list[int] = []
    for number, (_, at) in enumerate(pairs):
        length = bisect_left(tops, at)
        before.append(holders[length - 1] if length else -1)
        if length == len(tops):
            tops.append(at)
            holders.append(number)
        else:
            tops[length], holders[length] = at, number
    chain: list[tuple[int, int]] = []
    number = holders[-1] if holders else -1
    while number >= 0:
        chain.append(pairs[number])
        number = before[number]
    return chain[::-1]


def _once(words: Sequence[str]) -> dict[tuple[str, ...], int]:
    found: dict[tuple[str, ...], int] = {}
    for at in range(len(words) - ANCHOR_WORDS + 1):
        run = tuple(words[at : at + ANCHOR_WORDS])
        found[run] = -1 if run in found else at
    return {run: at for run, at in found.items() if at >= 0}


@dataclass(frozen=True)
class _Piece:
    """Words [first, last) that are said in frames [start, end)."""

    first: int
    last: int
    start: int
    end: int


def _pieces(
    words: Sequence[str], heard: Sequence[HeardWord], chain: Sequence[tuple[int, int]], frames: int, least: float
) -> list[_Piece]:
    """Cut words and frames together at anchors, where the second of three heard words begins."""
    pieces: list[_Piece] = []
    parts = [number for number, word in enumerate(words) for _ in word.split()]
    first = start = 0
    for at, place in chain:
        inner = max((1, 2), key=lambda step: heard[place + step].start - heard[place + step - 1].end)
        word, frame = parts[at + inner], heard[place + inner].start
        # A written word that is said as several is never divided.
        if frame - start < least or word <= first or parts[at + inner - 1] == word:
            continue
        pieces.append(_Piece(first, word, start, frame))
        first, start = word, frame
    return [*pieces, _Piece(first, len(words), start, frames)]


def place_words(said: Sequence[str], hearing: Hearing) -> Placed:
    """Where each word of a text is said, one entry a written word, empty where it is not known how it is said."""
    heard, letters = heard_words(hearing)
    flat = [(part, number) for number, word in enumerate(said) for part in word.split()]
    chain = anchors([part for part, _ in flat], [word.text for word in heard])
    recognised = len({flat[at + step][1] for at, _ in chain for step in range(ANCHOR_WORDS)})
    frames, rate = len(hearing.log_probs), SAMPLE_RATE / hearing.frame
    places: list[Place | None] = [None] * len(said)
    if not chain and frames > SHORT_S * rate:
        return Placed(tuple(places), 0, tuple(letters))
    cut = _pieces(said, heard, chain, frames, PIECE_S * rate)
    todo = [one for one in cut if any(said[one.first : one.last]) and 0 < one.end - one.start <= LONGEST_PIECE_S * rate]
    todo.sort(key=lambda one: one.end - one.start)
    while todo:
        group = [todo.pop()]
        widest = sum(map(len, said[group[0].first : group[0].last]))
        while todo:
            widest = max(widest, sum(map(len, said[todo[-1].first : todo[-1].last])))
            if (len(group) + 1) * (group[0].end - group[0].start) * 2 * widest > BATCH_CELLS:
                break
            group.append(todo.pop())
        _align(said, hearing, group, places)
    return Placed(tuple(places), recognised, tuple(letters))


def _align(said: Sequence[str], hearing: Hearing, pieces: Sequence[_Piece], places: list[Place | None]) -> None:
    """Put the words of some pieces where they fit best."""
    width = hearing.log_probs.shape[-1]
    longest = max(one.end - one.start for one in pieces)
    wild = width
    batch = torch.zeros(len(pieces), longest, width + 1)
    targets: list[list[int]] = []
    letters: list[list[int]] = []
    for row, one in zip(batch, pieces, strict=True):
        log_probs = hearing.log_probs[one.start : one.end].float()
        row[: len(log_probs), :width] = log_probs
        free = log_probs.amax(-1)
        row[: len(log_probs), wild] = torch.maximum(log_probs[:, SPACE], free - WILD_NATS)
        target, counts = [wild], []
        for word in said[one.first : one.last]:
            own = character_targets(word, width)
            counts.append(len(own))
            target += [*own, wild] if own else []
        targets.append(target)
        letters.append(counts)
    lengths = torch.tensor([one.end - one.start for one in pieces])
    found = ctc_align(batch, lengths, targets, CHAR_BLANK)
    for one, target, counts, alignment in zip(pieces, targets, letters, found, strict=True):
        if alignment is None:
            continue
        log_probs = hearing.log_probs[one.start : one.end].float()
        free = log_probs.amax(-1)
        at = 1
        for number, count in enumerate(counts):
            if not count:
                continue
            starts, ends = alignment.starts[at : at + count], alignment.ends[at : at + count]
            path = [CHAR_BLANK] * (ends[-1] - starts[0])
            for label, first, stop in zip(target[at : at + count], starts, ends, strict=True):
                path[first - starts[0] : stop - starts[0]] = [label] * (stop - first)
            chosen = log_probs[starts[0] : ends[-1]].gather(1, torch.tensor(path)[:, None])[:, 0]
            regret = float((free[starts[0] : ends[-1]] - chosen).sum())
            start, end = hearing.sample(one.start + starts[0]), hearing.sample(one.start + ends[-1] - 1) + hearing.frame
            places[one.first + number] = Place(start, end, regret, count)
            at += count + 1
