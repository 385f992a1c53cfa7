"""Word times by forced alignment of any text on the encoder's character posteriors.

All models share the character head: row 0 is the blank, row i below 256 code point i, and from 256 on, where there are
such rows, Katakana from U+30A1. What a head has no letters for but people speak, such as digits, symbols and other
scripts, is a wildcard that fits any letter (the star of arXiv 2305.13516); punctuation is silent.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from redline.decoding.align import Alignment, align_scores
from redline.punctuation import word_pieces
from redline.types import Notice, Word, share

BLANK, SPACE = 0, ord(" ")
KATAKANA, KATAKANA_ROW = 0x30A1, 256
HIRAGANA, HIRAGANA_END = 0x3041, 0x3096
SPOKEN_MARKS = "&@#%*/\\"
"""Marks that Unicode calls punctuation and people read out."""
WILD_IN_SILENCE = 0.1
"""What a wildcard costs in a frame of silence, in nats: enough to keep pauses out of it, too little to split it."""
LEADS = {0.04: 1}
"""Frames in front of a word's first letter that belong to it, by the seconds of a frame: where words follow each other,
heads of 25 frames a second tell the first letter when it is half over. Measured by scripts/word_time_accuracy.py; for
heads of other frames nothing is known, and nothing is done."""
MOST_LEAD_GAP = 2
"""Frames between two words that follow each other; behind a longer gap the first letter is told when it begins."""
MIN_FIT = -1.7
"""A text whose mean log probability of a frame is lower does not belong to the sound."""
DENSE = re.compile("[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
"""Scripts without spaces: kana, Han, Thai, Lao, Burmese, Khmer."""
Labels = Sequence[Sequence[int]]
"""The labels of each word."""
UNALIGNED = Notice(
    "unaligned",
    "the words could not be aligned with the sound, because the text does not fit it; their times are guesses",
)


@lru_cache(maxsize=4)
def folded(rows: int) -> tuple[int, ...]:
    """For each row of a character head the row that stands for it when case does not count."""
    lower = [ord(chr(row).lower()) if row < KATAKANA_ROW and len(chr(row).lower()) == 1 else row for row in range(rows)]
    return tuple(small if small < min(rows, KATAKANA_ROW) else row for row, small in enumerate(lower))


def spell(word: str, rows: int) -> list[int]:
    """Rows of a character head that write a word, case folded; `rows`, the wildcard, for each run of what it cannot.

    Accents go where the head has no row for them, and so do punctuation marks, which nobody speaks.
    """
    labels: list[int] = []
    for char in unicodedata.normalize("NFC", word.lower()):
        label = _character_row(char, rows)
        if label is not None and not (label == rows and labels[-1:] == [rows]):
            labels.append(label)
    return labels


@lru_cache(maxsize=4096)
def _character_row(char: str, rows: int) -> int | None:
    """The row of one character, `rows` for the wildcard, None for what is silent."""
    code = ord(char.replace("\u2019", "'"))
    if HIRAGANA <= code <= HIRAGANA_END:
        code += KATAKANA - HIRAGANA
    kind = unicodedata.category(char)
    if kind[0] in "MCZ" or (kind[0] == "P" and code != ord("'") and char not in SPOKEN_MARKS):
        return None
    if char.isalpha() or code == ord("'"):
        if 0 < code < min(rows, KATAKANA_ROW):
            return folded(rows)[code]
        if 0 <= code - KATAKANA < rows - KATAKANA_ROW:
            return KATAKANA_ROW + code - KATAKANA
        base = unicodedata.normalize("NFD", char)[0]
        if base != char:
            return _character_row(base, rows)
    return rows


def decode_characters(rows: Sequence[int]) -> str:
    """The text of rows of a character head."""
    return "".join(chr(row if row < KATAKANA_ROW else row - KATAKANA_ROW + KATAKANA) for row in rows)


def fold_case(logits: Tensor) -> Tensor:
    """Log probabilities in which a capital counts as its small letter: logits [..., C] -> [..., C]."""
    log_probs = logits.float().log_softmax(dim=-1)
    rows = torch.tensor(folded(logits.shape[-1]), device=logits.device)
    most = log_probs.amax(dim=-1, keepdim=True)
    summed = torch.zeros_like(log_probs).index_add_(-1, rows, (log_probs - most).exp())
    return summed.clamp(min=torch.finfo(torch.float32).tiny).log() + most


def with_wildcard(logits: Tensor) -> Tensor:
    """`fold_case` and, in one more column, a wildcard that fits every letter: logits [..., C] -> [..., C + 1]."""
    log_probs = fold_case(logits)
    letters = log_probs[..., BLANK + 1 :].amax(dim=-1)
    wild = torch.maximum(letters, log_probs[..., BLANK] - WILD_IN_SILENCE)
    return torch.cat((log_probs, wild[..., None]), dim=-1)


def timing_notices(text: str, score: float) -> tuple[Notice, ...]:
    """What to say about the times of a text that fits with a score of `scored_word_times`."""
    return (UNALIGNED,) if text.strip() and score <= MIN_FIT else ()


def scored_word_times(
    texts: Sequence[str], logits: Tensor, lengths: Tensor, frame_s: float
) -> list[tuple[list[Word], float]]:
    """Words of B texts with their times: character logits [B, T, C], lengths [B], seconds per frame.

    Times are seconds from the start of the clip and never decrease. The confidence of a word is the mean probability of
    its characters where they are aligned, and for a wildcard that of the letters that are heard there. A word of
    punctuation alone gets the time between its neighbours, and the confidence of the less certain one; a text that
    cannot be aligned at all shares its clip by its characters, with a confidence of 0. Beside them stands how well the
    text fits: the mean log probability of a frame, -inf where nothing fits.
    """
    rows = logits.shape[-1]
    spelled, space = [[spell(word, rows) for word in text.split()] for text in texts], (_space(rows),)
    log_probs = with_wildcard(logits)
    alignments = align_scores(log_probs, lengths, [_joined(words, space) for words in spelled], BLANK)
    clips = zip(texts, spelled, alignments, log_probs, lengths.tolist(), strict=True)
    return [
        (
            _aligned_words(text.split(), words, space, rows, BLANK, alignment, row[:length], frame_s),
            alignment.score if alignment else -math.inf,
        )
        for text, words, alignment, row, length in clips
    ]


class LazyWordTimes:
    """Word times of one text, computed when they are first asked for.

    It holds no more of the posteriors than the text's own letters. In scripts without spaces each character is a word.
    """

    def __init__(self, text: str, logits: Tensor, frame_s: float, before: str = "") -> None:
        """A text with the character logits [T, C] of its clip, which begins with the words of `before`."""
        rows, given = logits.shape[-1], _units(before)
        self.names, self.skipped, self.least_score, self.frame_s = [*given, *_units(text)], len(given), MIN_FIT, frame_s
        self._hold([spell(word, rows) for word in self.names], with_wildcard(logits), BLANK, (_space(rows),), rows)

    def _hold(self, spelled: Labels, log_probs: Tensor, blank: int, space: Sequence[int] = (), wild: int = -1) -> None:
        """Keep the columns of log probabilities [T, C] that spell the words."""
        columns = sorted({blank, *space, *(label for word in spelled for label in word)})
        self.log_probs = log_probs[:, columns].cpu()  # [T, K]
        self.spelled = [[columns.index(label) for label in word] for word in spelled]
        self.blank, self.space = columns.index(blank), [columns.index(label) for label in space]
        self.wild = columns.index(wild) if wild in columns else -1
        self.words: tuple[Word, ...] | None = None

    def __call__(self) -> tuple[Word, ...]:
        """All words in seconds from the start of the clip; none where the text does not fit the sound."""
        if self.words is None:
            words: list[Word] = []
            if self.names:
                length, targets = torch.tensor([len(self.log_probs)]), [_joined(self.spelled, self.space)]
                (alignment,) = align_scores(self.log_probs[None], length, targets, self.blank)
                score = -math.inf if alignment is None else alignment.score
                if score > self.least_score or self.least_score == -math.inf:
                    about = self.names, self.spelled, self.space, self.wild, self.blank
                    words = _aligned_words(*about, alignment, self.log_probs, self.frame_s)
            self.words = tuple(words[self.skipped :])
            self.log_probs = torch.empty(0)  # a transcript may be kept for long
        return self.words


class TokenTimes(LazyWordTimes):
    """Those of a text's own tokens, for encoders without a character head."""

    def __init__(self, ids: Sequence[int], pieces: Sequence[str], logits: Tensor, blank: int, frame_s: float) -> None:
        """Token ids and how each is written, with the token logits [T, V] of their clip."""
        places = word_pieces(pieces)
        self.names = ["".join(pieces[at] for at in word).strip() for word in places]
        self.skipped, self.least_score, self.frame_s = 0, -math.inf, frame_s
        self._hold([[ids[at] for at in word] for word in places], logits.float().log_softmax(dim=-1), blank)


def _units(text: str) -> list[str]:
    """The words of a text, and each character of a script that puts no spaces between them."""
    return [
        unit
        for word in text.split()
        for unit in (re.findall(r"[^\W\d_]|[\W\d_]+", word) if DENSE.search(word) else [word])
    ]


def _carried(values: Sequence[float | None]) -> list[float | None]:
    """Values in which the one before stands for each that is not known."""
    carried: list[float | None] = []
    for value in values:
        carried.append(carried[-1] if value is None and carried else value)
    return carried


def _space(rows: int) -> int:
    """The row of the space, or the wildcard in a head that has none."""
    return SPACE if rows > SPACE else rows


def _joined(words: Labels, space: Sequence[int]) -> list[int]:
    """The labels of the words with those of a space, which may be none, between each two."""
    labels: list[int] = []
    for word in words:
        if word:
            labels += [*space, *word] if labels else word
    return labels


def _aligned_words(
    names: Sequence[str],
    spelled: Labels,
    space: Sequence[int],
    wild: int,
    blank: int,
    alignment: Alignment | None,
    log_probs: Tensor,
    frame_s: float,
) -> list[Word]:
    """Words with the times of their letters in an alignment with log probabilities [T, C].

    Neighbours without letters share the gap they stand in, and all words the clip where there is no alignment.
    """
    length = len(log_probs)
    if alignment is None or not any(spelled):
        return judged(share(names, 0.0, length * frame_s))
    labels = torch.tensor(_joined(spelled, space), device=log_probs.device)
    likely = log_probs[:, labels].exp().T.tolist()  # [symbols][T]
    silent = log_probs[:, blank].exp().tolist()  # [T]
    words: list[Word] = []
    waiting: list[str] = []
    now = at = 0
    for name, own in zip(names, spelled, strict=True):
        if not own:
            waiting.append(name)
            continue
        symbols = range(at, at + len(own))
        start, end = alignment.starts[symbols[0]], alignment.ends[symbols[-1]]
        if space and now and not waiting and start - now <= MOST_LEAD_GAP:
            start = max(now, start - LEADS.get(frame_s, 0))
        certain = []
        for symbol, label in zip(symbols, own, strict=True):
            frames = slice(alignment.starts[symbol], alignment.ends[symbol])
            posteriors = likely[symbol][frames]
            # A letter is as certain as in the most certain of its frames, a wildcard as letters are on average.
            certain.append(_wildcard_confidence(posteriors, silent[frames]) if label == wild else max(posteriors))
        words += share(waiting, round(now * frame_s, 3), round(start * frame_s, 3))
        confidence = round(sum(certain) / len(certain), 3)
        words.append(Word(round(start * frame_s, 3), round(end * frame_s, 3), name, confidence))
        waiting, now = [], end
        at += len(own) + len(space)
    return judged(words + share(waiting, round(now * frame_s, 3), round(length * frame_s, 3)))


def _wildcard_confidence(letters: Sequence[float], silence: Sequence[float]) -> float:
    """How certain the letters under a wildcard are: mean probability of the best one where it beats the blank."""
    spoken = [letter for letter, blank in zip(letters, silence, strict=True) if letter > blank]
    return sum(spoken) / len(spoken) if spoken else max(0.0, 1.0 - min(silence))


def judged(words: Sequence[Word]) -> list[Word]:
    """Words that all have a confidence: one without is as certain as the less certain word beside it, 0 if alone."""
    known = [word.confidence for word in words]
    before, after = _carried(known), _carried(known[::-1])[::-1]
    beside = [[each for each in pair if each is not None] for pair in zip(before, after, strict=True)]
    return [
        replace(word, confidence=min(each, default=0.0)) if word.confidence is None else word
        for word, each in zip(words, beside, strict=True)
    ]
