"""When each word of a text was said, by forced alignment on the encoder's character posteriors.

It works for the text of any of the models, because they share the encoder's character head: row 0 is the blank, row i
below 256 code point i, and from 256 on, where there are such rows, Katakana from U+30A1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor

from redline.decoding.align import Alignment, align
from redline.types import Turn, Word

BLANK, SPACE = 0, ord(" ")
KATAKANA, KATAKANA_ROW = 0x30A1, 256


@lru_cache(maxsize=4)
def folded(rows: int) -> tuple[int, ...]:
    """For each row of a character head the row that stands for it when case does not count."""
    lower = [ord(chr(row).lower()) if row < KATAKANA_ROW and len(chr(row).lower()) == 1 else row for row in range(rows)]
    return tuple(small if small < min(rows, KATAKANA_ROW) else row for row, small in enumerate(lower))


def spell(word: str, rows: int) -> list[int]:
    """Rows of a character head that write a word, case folded; characters that it has no row for are left out."""
    labels = []
    for char in word.lower():
        code = ord(char)
        if 0 < code < min(rows, KATAKANA_ROW):
            labels.append(folded(rows)[code])
        elif 0 <= code - KATAKANA < rows - KATAKANA_ROW:
            labels.append(KATAKANA_ROW + code - KATAKANA)
    return labels


def fold_case(logits: Tensor) -> Tensor:
    """Log probabilities in which a capital counts as its small letter: logits [..., C] -> [..., C]."""
    log_probs = logits.float().log_softmax(dim=-1)
    rows = torch.tensor(folded(logits.shape[-1]), device=logits.device)
    most = log_probs.amax(dim=-1, keepdim=True)
    summed = torch.zeros_like(log_probs).index_add_(-1, rows, (log_probs - most).exp())
    return summed.clamp(min=torch.finfo(torch.float32).tiny).log() + most


def word_times(texts: Sequence[str], logits: Tensor, lengths: Tensor, frame_s: float) -> list[list[Word]]:
    """Words of B texts with their times: character logits [B, T, C], lengths [B], seconds per frame.

    Times are seconds from the start of the clip and never decrease. The confidence of a word is how sure the encoder is
    of its characters where they are heard: the mean of their probabilities; None for a word without a time of its own.
    A word that has no character with a row (digits a
    head was never taught, other scripts) gets the time between its neighbours; a text that cannot be aligned at all
    shares its clip in proportion to its characters.
    """
    return [words for words, _ in scored_word_times(texts, logits, lengths, frame_s)]


def scored_word_times(
    texts: Sequence[str], logits: Tensor, lengths: Tensor, frame_s: float
) -> list[tuple[list[Word], float]]:
    """`word_times`, each with how well the text fits: the mean log probability of a frame, -inf where nothing fits."""
    spelled = [[spell(word, logits.shape[-1]) for word in text.split()] for text in texts]
    targets = [_joined(words) for words in spelled]
    log_probs = fold_case(logits)
    found = align(log_probs, lengths, targets, BLANK)
    results: list[tuple[list[Word], float]] = []
    rows = zip(texts, spelled, targets, found, log_probs, lengths.tolist(), strict=True)
    for text, words, target, alignment, row, length in rows:
        names = text.split()
        if alignment is None or not any(words):
            results.append((share(names, 0.0, length * frame_s), -math.inf))
            continue
        spans: list[tuple[int, int, float] | None] = []
        sure = _certainty(row, target, alignment)
        at = 0
        for labels in words:
            if not labels:
                spans.append(None)
                continue
            end = at + len(labels)
            spans.append((alignment.starts[at], alignment.ends[end - 1], sum(sure[at:end]) / len(labels)))
            at = end + 1  # and the space
        results.append((_filled(names, spans, length, frame_s), alignment.score))
    return results


def _certainty(log_probs: Tensor, labels: Sequence[int], alignment: Alignment) -> list[float]:
    """The probability of each label in the surest of its frames: log probabilities [T, C] of one clip."""
    own = log_probs[:, torch.tensor(labels, device=log_probs.device)].exp().T.tolist()  # [symbols][T]
    return [max(row[start:end]) for row, start, end in zip(own, alignment.starts, alignment.ends, strict=True)]


def share(words: Sequence[str], start: float, end: float) -> list[Word]:
    """Words that share a span of time in proportion to their characters."""
    marks = [0, *accumulate(len(word) for word in words)]
    total = max(1, marks[-1])
    times = [round(start + (end - start) * mark / total, 3) for mark in marks]
    return [Word(times[index], times[index + 1], word) for index, word in enumerate(words)]


def timed_turns(turns: Iterable[Turn], words: Sequence[Word]) -> tuple[list[Turn], list[Word]]:
    """Give turns the times of their words and the words their speakers; the turns hold the words in order."""
    made, said = [], []
    at = 0
    for turn in turns:
        count = len(turn.text.split())
        own = words[at : at + count]
        at += count
        if own:
            made.append(Turn(turn.speaker, own[0].start, own[-1].end, turn.text))
        said += [Word(word.start, word.end, word.text, word.confidence, turn.speaker or None) for word in own]
    return made, said


def _joined(words: Sequence[Sequence[int]]) -> list[int]:
    """The labels of the words with a space between each two."""
    labels: list[int] = []
    for word in words:
        if word:
            labels += [SPACE, *word] if labels else word
    return labels


def _filled(
    names: Sequence[str], spans: Sequence[tuple[int, int, float] | None], length: int, frame_s: float
) -> list[Word]:
    """Words with the times of their spans in frames; neighbours without one share the gap they stand in."""
    words: list[Word] = []
    waiting: list[str] = []
    now = 0
    for name, span in zip([*names, ""], [*spans, (length, length, 0.0)], strict=True):
        if span is None:
            waiting.append(name)
            continue
        start, end, sure = span
        words += share(waiting, round(now * frame_s, 3), round(start * frame_s, 3))
        waiting, now = [], end
        if name:
            words.append(Word(round(start * frame_s, 3), round(end * frame_s, 3), name, round(sure, 3)))
    return words
