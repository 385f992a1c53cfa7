"""Unit selection: sentences from books, put together from encoder states of the training set.

A few hours of speech say too few sentences to teach an editor what English looks like. Here a sentence is taken from a
book, the longest runs of its tokens that occur somewhere in the training set are looked up, and the encoder's states
of those runs are put one after the other. What comes out has the encoder's own mistakes on a sentence that nobody
spoke: unit selection, as in speech synthesis (Hunt and Black, ICASSP 1996), on states in place of samples.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from redline.decoding import ctc_beam
from redline.decoding.ctc import collapse
from redline.decoding.ctc_beam import FrameCandidates
from redline.decoding.ngram import NgramLM
from redline.errors import DataError
from redline.features import pad
from redline.punctuation import strip_punctuation
from redline.tokenizer import Tokenizer
from redline_recipes.tiny.books import Sentences, excerpt
from redline_recipes.tiny.encoder_cache import CachedBatch, CachedSpan, EncoderCache

PATIENCE = 1000
Unit = tuple[str, int, int]
"""Utterance, first token, token after the last."""
Row = tuple[list[CachedSpan], str, str | None]
"""The spans of an utterance, its text, and the text in written form where it is known."""


@dataclass(frozen=True)
class Spoken:
    """What an utterance says, and how that is written where it is known."""

    language: str
    text: str
    written: str | None = None


@dataclass(frozen=True)
class UnitSelectionOptions:
    """What a batch of cached encoder states is made of."""

    share: float = 0.8  # share of batches that are made of units; the others are real utterances
    words: tuple[int, int] = (3, 30)  # shortest and longest excerpt of a book
    sentences: float = 0.0
    """Share of the excerpts that are whole sentences, as what is read aloud mostly is; where capitals and full stops go
    is learned from them."""
    text_share: float = 0.0
    """Share of the batches of units that come without audio: drafts alone teach spelling and language far faster."""
    text_batch_s: float = 240.0
    greedy_share: float = 0.0
    """Share of the batches of units whose drafts are greedy although there are n-grams; those of real utterances are
    all greedy then, because n-grams have mostly read what is said there."""
    greedy_text: str = ""  # a folder of more text for greedy drafts, which n-grams may have read
    longest_unit: int = 8  # tokens of the longest unit
    batch_s: float = 80.0
    epoch_batches: int = 500
    seed: int = 0

    def rng(self, epoch: int, number: int) -> random.Random:
        """The random numbers of one batch of an epoch."""
        return random.Random((self.seed * 7919 + epoch) * 100_003 + number)


class UnitIndex:
    """Every run of tokens in the training set, and where it is spoken."""

    def __init__(self, cache: EncoderCache, ids: Collection[str], word_starts: Sequence[bool], longest: int) -> None:
        """`ids` are the utterances to cut, those of one language."""
        self.word_starts = word_starts
        self.longest = longest
        self.places: dict[tuple[int, ...], list[tuple[str, int]]] = {}
        for identity, entry in cache.utterances.items():
            if not entry.cuts or identity not in ids:
                continue
            for start in range(len(entry.tokens)):
                for size in range(1, min(longest, len(entry.tokens) - start) + 1):
                    # A unit without width would be a token without sound.
                    if entry.cuts[start + size] > entry.cuts[start]:
                        self.places.setdefault(entry.tokens[start : start + size], []).append((identity, start))

    def choose(self, tokens: Sequence[int], draw: random.Random) -> list[Unit] | None:
        """Units that spell `tokens`, whole words where possible; None when a token never occurs."""
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


class UnitSelectionSource:
    """Batches of unit selection and of real utterances in an order that depends on the seed and the epoch alone."""

    def __init__(
        self,
        caches: Sequence[EncoderCache],
        texts: Mapping[str, Spoken],
        paragraphs: Mapping[str, Sequence[str]],
        tokenizer: Tokenizer,
        blank: int,
        layers: int,
        options: UnitSelectionOptions,
        draft_lm: NgramLM | None = None,
        unread: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """`texts` is what each utterance says; `paragraphs` of each language are in written form.

        `draft_lm` is the n-gram LM of the drafts' shallow fusion, which must not know the paragraphs in `unread`, by
        default all.
        """
        unread = paragraphs if unread is None else unread
        if not all((*paragraphs.values(), *unread.values())):
            raise DataError("unit selection needs text: name a folder of .txt files with --text")
        self.caches, self.texts, self.paragraphs, self.unread = caches, texts, paragraphs, unread
        self.tokenizer, self.blank, self.layers = tokenizer, blank, layers
        self.options, self.draft_lm = options, draft_lm
        self.units = {}
        for language in paragraphs:
            own = {identity for identity in caches[0].utterances if texts[identity].language == language}
            self.units[language] = UnitIndex(caches[0], own, tokenizer.word_starts, options.longest_unit)
            if not self.units[language].places:
                raise DataError(
                    f"no text in {language} fits its recording well enough to be cut into units: "
                    "train the encoder longer"
                )
        self.whole = [
            {language: Sentences(lines, options.words) for language, lines in part.items()} if options.sentences else {}
            for part in (paragraphs, unread)
        ]
        self.by_length = sorted(caches[0].utterances, key=caches[0].seconds)

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[CachedBatch]:
        """The batches of one epoch after the first `skip`."""
        for number in range(skip, self.options.epoch_batches):
            draw = self.options.rng(epoch, number)
            if draw.random() >= self.options.share:
                yield self._real(draw)
            else:
                yield self.sentences(draw, audio=draw.random() >= self.options.text_share)

    def _real(self, draw: random.Random) -> CachedBatch:
        """Neighbours in length, in a random rendering each."""
        at = draw.randrange(len(self.by_length))
        rows: list[Row] = []
        left = self.options.batch_s
        for identity in self.by_length[at:]:
            cache = draw.choice(self.caches)
            left -= cache.seconds(identity)
            if left < 0 and rows:
                break
            said = self.texts[identity]
            rows.append(([cache.cut(identity)], said.text, said.written))
        return self._batch(rows, True, self.options.greedy_share > 0)

    def sentences(self, draw: random.Random, audio: bool = True) -> CachedBatch:
        """Sentences of similar length from the books, each in units of one rendering."""
        size = draw.randint(*self.options.words)
        greedy = draw.random() < self.options.greedy_share
        has_read = not greedy and self.draft_lm is not None
        paragraphs, whole = (self.paragraphs, self.unread)[has_read], self.whole[has_read]
        languages = tuple(paragraphs)
        rows: list[Row] = []
        left, unknown = self.options.batch_s if audio else self.options.text_batch_s, 0
        while left > 0:
            language = draw.choice(languages)
            written, longest = None, size + 1 + size // 8
            if draw.random() < self.options.sentences:
                written = whole[language].draw(range(size, longest + 1), draw)
            written = written or excerpt(draw.choice(paragraphs[language]), (size, longest), draw)
            text = strip_punctuation(written)
            units = self.units[language].choose(self.tokenizer.encode(text), draw)
            if not units:
                unknown += 1
                if unknown > PATIENCE:
                    raise DataError(
                        f"{unknown} sentences had tokens that nobody says, such as {text!r}: the encoder finds too few "
                        "of the training set's words in their sound yet. Train it longer ([encoder_training] steps), "
                        "give more speech, or let worse fitting words in ([encoder_cache] least_score)"
                    )
                continue
            cache = draw.choice(self.caches)
            spans = [cache.cut(*unit) for unit in units]
            left -= sum(len(span.states) for span in spans) / cache.frame_rate
            rows.append((spans, text, written))
        return self._batch(rows, audio, greedy)

    def _batch(self, rows: Sequence[Row], audio: bool, greedy: bool) -> CachedBatch:
        # Without audio, the states on disk are not even touched.
        joined = [
            np.concatenate([span.states for span in spans]) if audio else spans[0].states[:0] for spans, _, _ in rows
        ]
        states, lengths = pad([torch.from_numpy(np.array(row)).float() for row in joined])
        drafts = tuple(tuple(draft) for draft in self._drafts([spans for spans, _, _ in rows], greedy))
        windows = sum(len(span.ids) for spans, _, _ in rows for span in spans)
        seconds = windows * self.caches[0].window / self.caches[0].frame_rate
        _, texts, written = zip(*rows, strict=True)
        return CachedBatch(states.chunk(self.layers, dim=-1), lengths, drafts, texts, seconds, written)

    def _drafts(self, rows: Sequence[Sequence[CachedSpan]], greedy: bool) -> list[list[int]]:
        """The draft of each row's spans, one after the other."""
        ids = [torch.from_numpy(np.concatenate([span.ids for span in row])).long() for row in rows]
        probs = [torch.from_numpy(np.concatenate([span.log_probs for span in row])).float() for row in rows]
        all_ids, lengths = pad(ids)
        log_probs, _ = pad(probs)
        likely, blank = log_probs[..., :-1], log_probs[..., -1]
        if self.draft_lm is not None and not greedy:
            candidates = FrameCandidates(all_ids, likely, blank, lengths)
            return ctc_beam.search(candidates, self.draft_lm, self.draft_lm.options)
        best, place = likely.max(dim=-1)
        paths = torch.where(best > blank, all_ids.gather(-1, place[..., None])[..., 0], self.blank).tolist()
        return [collapse(path[:length], self.blank) for path, length in zip(paths, lengths.tolist(), strict=True)]
