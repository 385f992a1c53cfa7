"""New sentences from heard pieces: text from books, said with encoder states cut from the training set.

A few hours of speech say too few sentences to teach an editor what English looks like. Here a sentence is taken from a
book, the longest runs of its tokens that occur somewhere in the training set are looked up, and the encoder's states
of those runs are put one after the other. What comes out has the encoder's own mistakes on a sentence that nobody said:
unit selection, as in speech synthesis (Hunt and Black, ICASSP 1996), on states in place of samples.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from redline.decoding import ctc_beam
from redline.decoding.ctc_beam import Candidates
from redline.decoding.ngram import NgramLM
from redline.errors import DataError
from redline.features import pad
from redline.punctuation import strip_punctuation
from redline.tokenizer import Tokenizer
from redline.train.objectives.lm import excerpt
from redline.train.states import CachedSpan, StateBatch, StateView

PATIENCE = 1000
Unit = tuple[str, int, int]
"""Utterance, first token, token after the last."""
Row = tuple[list[CachedSpan], str, str | None]
"""What was heard, what is said, and how it is written."""


@dataclass(frozen=True)
class SpliceOptions:
    """What a batch for the editor is made of."""

    share: float = 0.8
    """Share of batches that are spliced; the others are real utterances."""
    words: tuple[int, int] = (3, 30)
    """Shortest and longest excerpt of a book."""
    sentences: float = 0.0
    """Share of the excerpts that begin where a sentence does, and of those that end with one, as speech between two
    pauses often does; where capitals and full stops go is learned from them."""
    text_share: float = 0.0
    """Share of the spliced batches that come without audio: drafts alone teach spelling and language far faster."""
    text_batch_s: float = 240.0
    longest_unit: int = 8
    """Tokens of the longest piece that is taken in one go."""
    batch_s: float = 80.0
    epoch_batches: int = 500
    seed: int = 0


class Units:
    """Every run of tokens in the training set, and where it was said."""

    def __init__(self, view: StateView, wanted: Collection[str], word_starts: Sequence[bool], longest: int) -> None:
        """`wanted` are the utterances to cut, those of one language."""
        self.word_starts = word_starts
        self.longest = longest
        self.places: dict[tuple[int, ...], list[tuple[str, int]]] = {}
        for identity, heard in view.heard.items():
            if not heard.cuts or identity not in wanted:
                continue
            for start in range(len(heard.tokens)):
                for size in range(1, min(longest, len(heard.tokens) - start) + 1):
                    # A piece without width would be a token that nobody hears.
                    if heard.cuts[start + size] > heard.cuts[start]:
                        self.places.setdefault(heard.tokens[start : start + size], []).append((identity, start))

    def choose(self, tokens: Sequence[int], draw: random.Random) -> list[Unit] | None:
        """Pieces that say `tokens`, whole words where possible; None when a token was never heard."""
        chosen: list[Unit] = []
        at = 0
        while at < len(tokens):
            most = min(draw.randint(1, self.longest), len(tokens) - at)
            size = self._longest(tokens, at, most, whole=True) or self._longest(tokens, at, self.longest, whole=False)
            if not size:
                return None
            identity, start = draw.choice(self.places[tuple(tokens[at : at + size])])
            chosen.append((identity, start, start + size))
            at += size
        return chosen

    def _longest(self, tokens: Sequence[int], at: int, most: int, whole: bool) -> int:
        """Tokens in the longest known run from `at`; a whole one ends where a word ends."""
        known = 0
        for size in range(1, min(self.longest, len(tokens) - at) + 1):
            if tuple(tokens[at : at + size]) not in self.places:
                break
            ends_word = at + size == len(tokens) or self.word_starts[tokens[at + size]]
            if not whole or ends_word:
                # The first word counts even when it is longer than was asked for.
                if whole and known and size > most:
                    break
                known = size
        return known


def joined(pieces: Sequence[CachedSpan]) -> CachedSpan:
    """Pieces one after the other: their tokens and where they are now, without what was heard of them."""
    tokens: list[int] = []
    spans: list[tuple[int, int]] = []
    before = 0
    for piece in pieces:
        tokens += piece.tokens
        spans += [(before + start, before + end) for start, end in piece.spans]
        before += len(piece.states)
    return CachedSpan(pieces[0].states[:0], pieces[0].ids[:0], pieces[0].log_probs[:0], tuple(tokens), tuple(spans))


class SplicedSource:
    """Batches of spliced and of real utterances in an order that depends on the seed and the epoch alone."""

    def __init__(
        self,
        views: Sequence[StateView],
        said: Mapping[str, tuple[str, str]],
        paragraphs: Mapping[str, Sequence[str]],
        tokenizer: Tokenizer,
        blank: int,
        layers: int,
        options: SpliceOptions,
        draft_lm: NgramLM | None = None,
    ) -> None:
        """`said` is the language and the text of each utterance; `paragraphs` of each language are in written form.

        `draft_lm` reads along while drafts are written and must not know the paragraphs.
        """
        if not all(paragraphs.values()):
            raise DataError("spliced utterances need text: name a folder of .txt files with --text")
        self.views = views
        self.said = said
        self.paragraphs = paragraphs
        self.tokenizer = tokenizer
        self.blank = blank
        self.layers = layers
        self.options = options
        self.draft_lm = draft_lm
        self.units = {}
        for language in paragraphs:
            own = {identity for identity in views[0].heard if said[identity][0] == language}
            self.units[language] = Units(views[0], own, tokenizer.word_starts, options.longest_unit)
            if not self.units[language].places:
                raise DataError(
                    f"no text in {language} fits its recording well enough to be cut into pieces: "
                    "train the encoder longer"
                )
        self.by_length = sorted(views[0].heard, key=lambda identity: views[0].heard[identity].frames)

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[StateBatch]:
        """The batches of one epoch after the first `skip`."""
        for number in range(skip, self.options.epoch_batches):
            draw = random.Random((self.options.seed * 7919 + epoch) * 100_003 + number)
            if draw.random() >= self.options.share:
                yield self._real(draw)
            else:
                yield self._spliced(draw, audio=draw.random() >= self.options.text_share)

    def sentences(self, draw: random.Random) -> StateBatch:
        """Sentences of similar length from the books, with audio."""
        return self._spliced(draw, audio=True)

    def _real(self, draw: random.Random) -> StateBatch:
        """Neighbours in length from the training set, in a random rendering each."""
        at = draw.randrange(len(self.by_length))
        rows: list[Row] = []
        left = self.options.batch_s
        for identity in self.by_length[at:]:
            view = draw.choice(self.views)
            left -= view.heard[identity].frames / view.frame_rate
            if left < 0 and rows:
                break
            rows.append(([view.cut(identity)], self.said[identity][1], None))
        return self._batch(rows, audio=True)

    def _spliced(self, draw: random.Random, audio: bool) -> StateBatch:
        """Sentences of similar length, each in pieces of one rendering."""
        size = draw.randint(*self.options.words)
        languages = tuple(self.paragraphs)
        rows: list[Row] = []
        left, unheard = self.options.batch_s if audio else self.options.text_batch_s, 0
        while left > 0:
            language = draw.choice(languages)
            paragraph = draw.choice(self.paragraphs[language])
            written = excerpt(paragraph, (size, size + 1 + size // 8), draw, self.options.sentences)
            text = strip_punctuation(written)
            units = self.units[language].choose(self.tokenizer.encode(text), draw)
            if not units:
                unheard += 1
                if unheard > PATIENCE:
                    raise DataError(
                        f"{unheard} sentences had tokens that nobody says, such as {text!r}: the encoder finds too few "
                        "of the training set's words in their sound yet. Train it longer ([encoder_training] steps), "
                        "give more speech, or let worse fitting words in ([states] least_score)"
                    )
                continue
            view = draw.choice(self.views)
            pieces = [view.cut(*unit) for unit in units]
            left -= sum(len(piece.states) for piece in pieces) / view.frame_rate
            rows.append((pieces, text, written))
        return self._batch(rows, audio)

    def _batch(self, rows: Sequence[Row], audio: bool) -> StateBatch:
        # Without audio, the states on disk are not even touched.
        heard = [
            np.concatenate([piece.states for piece in pieces]) if audio else pieces[0].states[:0]
            for pieces, _, _ in rows
        ]
        states, lengths = pad([torch.from_numpy(np.array(row)).float() for row in heard])
        drafts = tuple(tuple(draft) for draft in self._drafts([pieces for pieces, _, _ in rows]))
        windows = sum(len(piece.ids) for pieces, _, _ in rows for piece in pieces)
        seconds = windows * self.views[0].window / self.views[0].frame_rate
        _, texts, written = zip(*rows, strict=True)
        said = tuple(joined(pieces) for pieces, _, _ in rows)
        return StateBatch(states.chunk(self.layers, dim=-1), lengths, drafts, texts, seconds, written, said)

    def _drafts(self, rows: Sequence[Sequence[CachedSpan]]) -> list[list[int]]:
        """What is drafted when the pieces of each row are heard one after the other."""
        ids = [torch.from_numpy(np.concatenate([piece.ids for piece in row])).long() for row in rows]
        probs = [torch.from_numpy(np.concatenate([piece.log_probs for piece in row])).float() for row in rows]
        all_ids, lengths = pad(ids)
        log_probs, _ = pad(probs)
        candidates = Candidates(all_ids, log_probs[..., :-1], log_probs[..., -1], lengths)
        if self.draft_lm is None:
            return candidates.greedy(self.blank)
        return ctc_beam.search(candidates, self.draft_lm, self.draft_lm.options)
