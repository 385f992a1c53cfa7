"""Forced alignment of a whole transcript: anchors from greedy decoding, CTC alignment with wildcards between them.

Three words that are decoded in a row, and that stand in the transcript in a row and only once, are an anchor. Between
two anchors every word is aligned with the character head. Speech that the transcript does not have may lie between any
two words (a wildcard as in arXiv 2406.02560, "star"), so what is missing pushes nothing aside; it is counted instead.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from redline.decoding.align import OptionalSymbols, align_scores
from redline.decoding.word_times import BLANK, SPACE
from redline.engine.scheduler import batches_by_length
from redline.features import FRAME_RATE, batch_features
from redline.models.nar import NarModel
from redline.types import SAMPLE_RATE, Span, Waveform

BATCH_S = 120.0  # so much sound is encoded, and aligned, at once
ANCHOR_WORDS = 3
PIECE_S = 15.0  # shortest stretch between two anchors that is aligned as one
LONGEST_PIECE_S = 240.0  # where nothing was recognised for so long, nothing is aligned
SHORT_S = 30.0  # up to this length a recording without an anchor is aligned: its text has few words to be known by
WILD_NATS = 1.5  # what a frame of speech costs that the transcript does not have
UNSAID_NATS = (6.0, 3.0)  # what a word costs that nobody says, where words may be left out, and each of its letters


@dataclass(frozen=True)
class Posteriors:
    """Character log probabilities [T, C] of the windows of a recording, one behind the other."""

    log_probs: Tensor
    spans: tuple[Span, ...]
    firsts: tuple[int, ...]  # first frame of each window
    frame: int  # samples of one frame

    def sample(self, frame: int) -> int:
        """Where a frame begins in the recording."""
        window = max(0, bisect_right(self.firsts, frame) - 1)
        return min(self.spans[window].start + (frame - self.firsts[window]) * self.frame, self.spans[window].end)


@dataclass(frozen=True)
class GreedyWord:
    """A word as the encoder would write it, in frames or samples."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class AlignedWord:
    """Where a word is said, in samples, and how well it fits."""

    start: int
    end: int
    regret: float  # nats by which its letters together are less likely than what the encoder would have written
    letters: int


@dataclass(frozen=True)
class TranscriptAlignment:
    """The words of a transcript in a recording, None where no place was found, and all letters of that recording."""

    words: tuple[AlignedWord | None, ...]
    anchored: int  # words that belong to an anchor
    letters: tuple[tuple[int, int], ...]  # start and end of each letter of greedy decoding, in samples, in time order
    decoded: tuple[GreedyWord, ...]  # the words that these letters make, in samples

    def letters_between(self, start: int, end: int) -> int:
        """Letters that are decoded wholly between two samples."""
        first, last = (bisect_left(self.letters, (sample, 0)) for sample in (start, end))
        return sum(stop <= end for _, stop in self.letters[first:last])


@torch.inference_mode()
def character_posteriors(
    model: NarModel, wave: Waveform, spans: Sequence[Span], progress: Callable[[float], None]
) -> Posteriors:
    """Windows of a recording in time order -> the posteriors of the character head, on the CPU in half precision."""
    weight = model.encoder.input_linear.weight
    rows = [torch.empty(0)] * len(spans)
    for group in batches_by_length([span.end - span.start for span in spans], BATCH_S * SAMPLE_RATE):
        features, frames = batch_features([wave.part(spans[at]) for at in group], model.config.frame_rule)
        out = model.encoder(features.to(weight.device, weight.dtype), frames.to(weight.device))
        log_probs = out.char_logits.float().log_softmax(-1).cpu().half()
        for at, row, length in zip(group, log_probs, out.lengths.tolist(), strict=True):
            rows[at] = row[:length].clone()  # a view would keep the padded batch
        progress(sum(spans[at].end - spans[at].start for at in group) / SAMPLE_RATE)
    return joined_posteriors(rows, spans, model.config.encoder.output_dim, model.config.encoder.subsampling)


def joined_posteriors(rows: list[Tensor], spans: Sequence[Span], width: int, subsampling: int) -> Posteriors:
    """Log probabilities [T_i, C] of windows, which are taken out of `rows`: hours would be in memory twice."""
    firsts = [0, *accumulate(map(len, rows))]
    joined = torch.empty(firsts[-1], width, dtype=torch.half)
    for first in firsts[:-1]:
        row = rows.pop(0)
        joined[first : first + len(row)] = row
    return Posteriors(joined, tuple(spans), tuple(firsts[:-1]), SAMPLE_RATE // FRAME_RATE * subsampling)


def greedy_words(posteriors: Posteriors) -> tuple[list[GreedyWord], list[tuple[int, int]]]:
    """The words of the best path, none of them over the border of two windows, and its letters in samples."""
    words: list[GreedyWord] = []
    letters: list[tuple[int, int]] = []
    best = posteriors.log_probs.argmax(dim=-1).tolist() if len(posteriors.log_probs) else []
    for first, end in pairwise([*posteriors.firsts, len(best)]):
        text, start, stop, at = "", first, first, first
        for label, run in groupby([*best[first:end], SPACE]):
            length = len(list(run))
            if label == SPACE and text:
                words.append(GreedyWord(text, start, at if at < end else stop))
                text = ""
            elif label not in (BLANK, SPACE):
                start = start if text else at
                text, stop = text + chr(label), at + length
                letters.append((posteriors.sample(at), posteriors.sample(at + length - 1) + posteriors.frame))
            at += length
    return words, letters


def anchors(reference: Sequence[str], hypothesis: Sequence[str]) -> list[tuple[int, int]]:
    """Places in both texts of runs of words that are the same and occur once in each (patience diff).

    Only the longest chain of pairs that rise in both is kept, so a chance match cannot turn the order.
    """
    there = _unique_runs(hypothesis)
    pairs = sorted((at, there[run]) for run, at in _unique_runs(reference).items() if run in there)
    ends: list[int] = []  # smallest last place of a rising chain of each length
    lengths: list[int] = []  # of the longest rising chain that ends with each pair, less one
    for _, place in pairs:
        lengths.append(bisect_left(ends, place))
        ends[lengths[-1] : lengths[-1] + 1] = [place]
    chain: list[tuple[int, int]] = []
    for pair, length in zip(reversed(pairs), reversed(lengths), strict=True):
        if length == len(ends) - 1 - len(chain):
            chain.append(pair)
    return chain[::-1]


def _unique_runs(words: Sequence[str]) -> dict[tuple[str, ...], int]:
    places: dict[tuple[str, ...], int] = {}
    for at in range(len(words) - ANCHOR_WORDS + 1):
        run = tuple(words[at : at + ANCHOR_WORDS])
        places[run] = -1 if run in places else at
    return {run: at for run, at in places.items() if at >= 0}


@dataclass(frozen=True)
class _Piece:
    """Words [first, last) that are said in frames [start, end)."""

    first: int
    last: int
    start: int
    end: int

    @property
    def frames(self) -> int:
        return self.end - self.start


def _pieces(
    words: Sequence[str], decoded: Sequence[GreedyWord], chain: Sequence[tuple[int, int]], frames: int, least: float
) -> list[_Piece]:
    """Cut words and frames together at anchors, at the wider of the two gaps between their words."""
    pieces: list[_Piece] = []
    word_of = [number for number, word in enumerate(words) for _ in word.split()]
    first = start = 0
    for at, place in chain:
        inner = max((1, 2), key=lambda step: decoded[place + step].start - decoded[place + step - 1].end)
        word, frame = word_of[at + inner], decoded[place + inner].start
        # A written word that is said as several is never divided.
        if frame - start >= least and word > first and word_of[at + inner - 1] != word:
            pieces.append(_Piece(first, word, start, frame))
            first, start = word, frame
    return [*pieces, _Piece(first, len(words), start, frames)]


def align_transcript(
    words: Sequence[str], posteriors: Posteriors, *, may_be_unsaid: bool = False
) -> TranscriptAlignment:
    """Where each written word is said: `words` as they are spoken, empty where that is not known.

    Words that `may_be_unsaid` have no place where the sound goes on better without them.
    """
    decoded, letters = greedy_words(posteriors)
    flat = [(part, number) for number, word in enumerate(words) for part in word.split()]
    chain = anchors([part for part, _ in flat], [word.text for word in decoded])
    anchored = len({flat[at + step][1] for at, _ in chain for step in range(ANCHOR_WORDS)})
    frames, rate = len(posteriors.log_probs), SAMPLE_RATE / posteriors.frame
    aligned: list[AlignedWord | None] = [None] * len(words)
    if chain or frames <= SHORT_S * rate:
        cut = _pieces(words, decoded, chain, frames, PIECE_S * rate)
        pieces = [
            each for each in cut if any(words[each.first : each.last]) and 0 < each.frames <= LONGEST_PIECE_S * rate
        ]
        for group in batches_by_length([piece.frames for piece in pieces], BATCH_S * rate):
            for number, word in _aligned_words(words, posteriors, [pieces[at] for at in group], may_be_unsaid):
                aligned[number] = word
    sampled = (
        GreedyWord(word.text, posteriors.sample(word.start), posteriors.sample(word.end - 1) + posteriors.frame)
        for word in decoded
    )
    return TranscriptAlignment(tuple(aligned), anchored, tuple(letters), tuple(sampled))


def _aligned_words(
    words: Sequence[str], posteriors: Posteriors, pieces: Sequence[_Piece], may_be_unsaid: bool
) -> Iterator[tuple[int, AlignedWord]]:
    """The words of some pieces where they fit best, by their numbers; none of a piece that has too few frames."""
    wild = posteriors.log_probs.shape[-1]
    rows = [posteriors.log_probs[piece.start : piece.end].float() for piece in pieces]  # [T, C]
    # Row i of the character head is code point i.
    spelled = [
        [[ord(char) for char in word if 0 < ord(char) < wild] for word in words[piece.first : piece.last]]
        for piece in pieces
    ]
    targets = [[wild, *(label for labels in own if labels for label in (*labels, wild))] for own in spelled]
    wildcards = [torch.maximum(row[:, SPACE], row.amax(-1) - WILD_NATS)[:, None] for row in rows]
    scores = pad_sequence([torch.cat(both, -1) for both in zip(rows, wildcards, strict=True)], batch_first=True)
    optional = [list(_optional_words(own)) for own in spelled] if may_be_unsaid else None
    alignments = align_scores(scores, torch.tensor([piece.frames for piece in pieces]), targets, BLANK, optional)
    for piece, log_probs, own, alignment in zip(pieces, rows, spelled, alignments, strict=True):
        at, best = 1, log_probs.amax(-1)
        for number, labels in enumerate(own, piece.first):
            if alignment is None or not labels:
                continue
            starts, ends = (frames[at : at + len(labels)] for frames in (alignment.starts, alignment.ends))
            at += len(labels) + 1
            if not ends[-1]:
                continue
            path = torch.full((ends[-1] - starts[0],), BLANK)
            for label, start, end in zip(labels, starts, ends, strict=True):
                path[start - starts[0] : end - starts[0]] = label
            chosen = log_probs[starts[0] : ends[-1]].gather(1, path[:, None])[:, 0]
            regret = float((best[starts[0] : ends[-1]] - chosen).sum())
            start, last = (posteriors.sample(piece.start + frame) for frame in (starts[0], ends[-1] - 1))
            yield number, AlignedWord(start, last + posteriors.frame, regret, len(labels))


def _optional_words(spelled: Sequence[Sequence[int]]) -> Iterator[OptionalSymbols]:
    """The letters of each word that has some, between wildcards."""
    at, (word_nats, letter_nats) = 1, UNSAID_NATS
    for labels in filter(None, spelled):
        yield OptionalSymbols(at, at + len(labels), word_nats + letter_nats * len(labels))
        at += len(labels) + 1
