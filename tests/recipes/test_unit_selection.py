"""Alignment, encoder states on disk, and sentences made of pieces."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from redline.decoding.align import Alignment, align_scores
from redline.decoding.ctc import collapse
from redline.decoding.ngram import DraftOptions
from redline.errors import DataError
from redline_recipes.tiny.encoder_cache import CachedUtterance, EncoderCache, token_cuts
from redline_recipes.tiny.ngram import NgramOptions, estimate
from redline_recipes.tiny.unit_selection import Spoken, UnitIndex, UnitSelectionOptions, UnitSelectionSource
from tests.corpus import WORDS, tokenizer_of


def _best_path(log_probs: torch.Tensor, target: list[int], blank: int) -> tuple[float, tuple[int, ...]]:
    """The readable twin: every path, tried."""
    T, V = log_probs.shape
    paths = (path for path in itertools.product(range(V), repeat=T) if collapse(path, blank) == target)
    return max((float(sum(log_probs[t, label] for t, label in enumerate(path))), path) for path in paths)


@pytest.mark.parametrize("target", [[], [1], [1, 2], [2, 2], [3, 1, 3]])
def test_alignment_is_the_best_of_all_paths_alone_and_in_a_batch(target: list[int]) -> None:
    torch.manual_seed(len(target))
    logits = torch.randn(3, 6, 4) * 2
    lengths = torch.tensor([6, 5, 4])
    targets = [target, target[:1], target]
    alignments = align_scores(logits.log_softmax(-1), lengths, targets, blank=0)
    for row, length, wanted, result in zip(logits, lengths.tolist(), targets, alignments, strict=True):
        score, path = _best_path(row[:length].log_softmax(-1), wanted, 0)
        assert result is not None
        assert result.score == pytest.approx(score / length, abs=1e-5)
        runs = [(label, list(run)) for label, run in itertools.groupby(range(length), key=lambda t: path[t])]
        spans = [run for label, run in runs if label]
        assert result.starts == tuple(run[0] for run in spans)
        assert result.ends == tuple(run[-1] + 1 for run in spans)
        (alone,) = align_scores(row[None, :length].log_softmax(-1), torch.tensor([length]), [wanted], blank=0)
        assert alone == result


def test_a_text_that_does_not_fit_has_no_alignment() -> None:
    long, doubled, fits = align_scores(
        torch.randn(3, 3, 4).log_softmax(-1), torch.tensor([2, 2, 2]), [[1, 2, 3], [1, 1], [1, 2]], blank=0
    )
    assert long is None and doubled is None and fits is not None


def test_cuts_lie_in_the_middle_of_pauses() -> None:
    assert token_cuts(Alignment((5, 8, 20), (6, 10, 21), 0.0), windows=22, margin=3) == (2, 7, 15, 22)


@pytest.fixture
def material() -> tuple[EncoderCache, UnitSelectionSource]:
    """Three utterances whose state at each frame is the token said there, two frames a window."""
    tokenizer = tokenizer_of([" ".join(WORDS)] * 4)
    texts = {"a": "the cat sat on a mat", "b": "the dog ran to a red house", "c": "and the sea by the mat"}
    states, best, rows = [], [], {}
    for identity, text in texts.items():
        tokens = tokenizer.encode(text)
        rows[identity] = CachedUtterance(
            len(states), 2 * len(tokens), len(best), tuple(tokens), tuple(range(0, 2 * len(tokens) + 1, 2))
        )
        states += [token for token in tokens for _ in range(2)]
        best += tokens
    frames = np.stack([np.array(states, dtype=np.float16)] * 4, axis=1)
    # Beside the token that is said, each window considers another one, and the blank.
    ids = np.stack((np.array(best), np.array(best) + 1), axis=1).astype(np.int32)
    probs = np.tile(np.array([-0.1, -4.0, -3.0], dtype=np.float16), (len(best), 1))
    view = EncoderCache(frames, ids, probs, rows, window=2, frame_rate=25.0)
    labelled = {identity: Spoken("en", text) for identity, text in texts.items()}
    paragraphs = {"en": ["the red dog sat by the sea and a cat ran to the house on a mat"]}
    blank = tokenizer.vocab_size - 1
    options = UnitSelectionOptions(share=0.5, words=(2, 5), batch_s=4, epoch_batches=6)
    return view, UnitSelectionSource([view, view], labelled, paragraphs, tokenizer, blank, 2, options)


def test_pieces_say_the_text_and_end_where_words_end(material: tuple[EncoderCache, UnitSelectionSource]) -> None:
    view, source = material
    tokens = source.tokenizer.encode("the red dog sat by the sea")
    for seed in range(20):
        units = source.units["en"].choose(tokens, random.Random(seed))
        assert units is not None
        chosen = [token for identity, first, last in units for token in view.utterances[identity].tokens[first:last]]
        assert chosen == tokens
        text = [
            source.tokenizer.decode(view.utterances[identity].tokens[first:last]) for identity, first, last in units
        ]
        assert all(part[:1] == " " for part in text[1:])
    assert source.units["en"].choose([source.tokenizer.vocab_size - 2], random.Random(0)) is None


def test_spliced_states_and_drafts_belong_to_their_texts(material: tuple[EncoderCache, UnitSelectionSource]) -> None:
    _, source = material
    for batch in source.epoch(0):
        assert len(batch.exports) == 2 and all(states.shape[2] == 2 for states in batch.exports)
        for row, (text, draft) in enumerate(zip(batch.texts, batch.drafts, strict=True)):
            tokens = source.tokenizer.encode(text)
            frames = batch.exports[0][row, : batch.lengths[row], 0]
            assert frames.tolist() == [token for token in tokens for _ in range(2)]
            assert list(draft) == collapse(tokens, source.blank)


def test_spliced_batches_of_an_epoch_can_be_resumed_anywhere(
    material: tuple[EncoderCache, UnitSelectionSource],
) -> None:
    _, source = material
    whole = [batch.texts for batch in source.epoch(3)]
    assert [batch.texts for batch in source.epoch(3, skip=2)] == whole[2:]
    assert whole != [batch.texts for batch in source.epoch(4)]


def test_a_token_that_nobody_says_is_an_error_for_people(material: tuple[EncoderCache, UnitSelectionSource]) -> None:
    view, source = material
    source.paragraphs = {"en": ["xylophone quartz"]}
    source.options = UnitSelectionOptions(share=1.0, words=(1, 2))
    with pytest.raises(DataError, match="nobody says"):
        next(source.epoch(0))
    for name in list(view.utterances):
        row = view.utterances[name]
        view.utterances[name] = CachedUtterance(row.frame, row.frames, row.window, row.tokens, ())
    assert not UnitIndex(view, set(view.utterances), [], 4).places


def test_drafts_of_pieces_are_read_by_the_draft_model(material: tuple[EncoderCache, UnitSelectionSource]) -> None:
    _, source = material
    tokens = source.tokenizer.encode("the red dog")
    greedy = [batch.drafts for batch in source.epoch(1)]
    wrong = [token + 1 for token in tokens]
    stream = np.array([source.blank, *wrong] * 40, dtype=np.int64)
    options = DraftOptions(lm_weight=20.0, token_bonus=60.0)
    source.draft_lm = estimate(stream, source.tokenizer.vocab_size, source.blank, NgramOptions(order=3), options)
    read = [batch.drafts for batch in source.epoch(1)]
    assert greedy != read and [len(rows) for rows in greedy] == [len(rows) for rows in read]
    assert set(wrong) & {token for rows in read for row in rows for token in row} > set()
    source.options = replace(source.options, greedy_share=1.0)
    assert [batch.drafts for batch in source.epoch(1)] != read


def test_what_n_grams_have_read_has_greedy_drafts(material: tuple[EncoderCache, UnitSelectionSource]) -> None:
    view, known = material
    tokens = known.tokenizer.encode("the red dog")
    stream = np.array([known.blank, *tokens] * 40, dtype=np.int64)
    lm = estimate(stream, known.tokenizer.vocab_size, known.blank, NgramOptions(order=3), DraftOptions())
    options = replace(known.options, share=0.7, greedy_share=0.5, sentences=0.5, epoch_batches=40)
    paragraphs, unread = {"en": ["The red dog. The sea."]}, {"en": ["A cat sat by a house."]}
    source = UnitSelectionSource([view], known.texts, paragraphs, known.tokenizer, known.blank, 2, options, lm, unread)
    seen: dict[bool, set[str]] = {True: set(), False: set()}
    plain = source._drafts
    greedily: list[bool] = []

    def spy(rows: Any, greedy: bool) -> list[list[int]]:
        greedily.append(greedy)
        return plain(rows, greedy)

    source._drafts = spy  # type: ignore[method-assign]
    for batch in source.epoch(0):
        seen[greedily[-1]].update(word for text in batch.texts for word in text.split())
    assert seen[False] <= {"a", "cat", "sat", "by", "house"} and {"red", "house"} <= seen[True]


def test_a_sentence_is_made_of_pieces_of_its_own_language(material: tuple[EncoderCache, UnitSelectionSource]) -> None:
    view, source = material
    labelled = {name: Spoken("de" if name == "b" else "en", said.text) for name, said in source.texts.items()}
    paragraphs = {"en": ["the cat sat on a mat"], "de": ["the dog ran to a red house"]}
    blank, options = source.blank, UnitSelectionOptions(share=1.0, words=(2, 3), batch_s=4, epoch_batches=4)
    both = UnitSelectionSource([view], labelled, paragraphs, source.tokenizer, blank, 2, options)
    assert {identity for places in both.units["de"].places.values() for identity, _ in places} == {"b"}
    assert {identity for places in both.units["en"].places.values() for identity, _ in places} == {"a", "c"}
    words = {word for batch in both.epoch(0) for text in batch.texts for word in text.split()}
    assert {"dog", "cat"} <= words
    with pytest.raises(DataError, match="no text in fr fits"):
        UnitSelectionSource([view], labelled, {"fr": ["x"]}, source.tokenizer, blank, 2, options)
