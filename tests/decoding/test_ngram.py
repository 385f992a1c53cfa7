"""The draft's language model: estimation, pruning, files."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from redline.checkpoints.draft_lm import load_draft_lm, save_draft_lm
from redline.checkpoints.shared import DRAFT_LM
from redline.decoding import ngram
from redline.decoding.ctc_beam import FrameCandidates, search
from redline.decoding.ngram import DraftOptions, NgramLM, ScorePool
from redline.errors import CheckpointError, ConfigError, DataError
from redline_recipes.tiny.ngram import NgramOptions, estimate, split_text

BOUNDARY = 9
VOCABULARY = 10


def _stream(size: int = 3000, seed: int = 0) -> np.ndarray:  # type: ignore[type-arg]
    """Tokens 0 to 7 that lean on the one before, a boundary every thirty."""
    draw = np.random.default_rng(seed)
    tokens = [0]
    for _ in range(size):
        tokens.append(int((tokens[-1] + draw.choice([1, 1, 1, 2, 5])) % 8))
    stream = np.array(tokens, dtype=np.int64)
    stream[::30] = BOUNDARY
    return stream


def _model(kept: int = 10**6, order: int = 4) -> NgramLM:
    options = NgramOptions(order=order, kept=kept)
    return estimate(_stream(), VOCABULARY, BOUNDARY, options, DraftOptions(lm_weight=0.9))


def _after(model: NgramLM, text: list[int]) -> np.ndarray:  # type: ignore[type-arg]
    """Probability of every token after a text."""
    history = np.array([model.boundary])
    for token in text:
        history = model.advance(history, np.array([token]))
    return np.exp(model.score(history.repeat(VOCABULARY), np.arange(VOCABULARY)))


@pytest.mark.parametrize("kept", [10**6, 300, 0])
@pytest.mark.parametrize("text", [[], [0], [3, 4], [0, 1, 2, 3, 4, 5], [7, 2, 0]])
def test_probabilities_after_any_history_sum_to_one(kept: int, text: list[int]) -> None:
    probs = _after(_model(kept), text)
    seen = probs[:8]
    assert float(seen.sum()) == pytest.approx(1.0, abs=2e-3)
    assert bool((seen > 0).all())


def _discounts(counts: list[int]) -> list[float]:
    once, twice, thrice, four = (max(1, counts.count(number)) for number in (1, 2, 3, 4))
    y = once / (once + 2 * twice)
    by_formula = [0, 1 - 2 * y * twice / once, 2 - 3 * y * thrice / twice, 3 - 4 * y * four / thrice]
    return [float(x) for x in np.clip(by_formula, [0, 0.1, 0.1, 0.1], [0, 0.95, 1.9, 2.8])]


def test_bigrams_are_kneser_ney_by_hand() -> None:
    stream = _stream(400)
    model = estimate(stream, VOCABULARY, BOUNDARY, NgramOptions(order=2), DraftOptions())
    pairs: dict[tuple[int, int], int] = {}
    for a, b in itertools.pairwise(stream.tolist()):
        if b != BOUNDARY:
            pairs[a, b] = pairs.get((a, b), 0) + 1
    cut = _discounts(list(pairs.values()))
    places = {b: len({a for a, c in pairs if c == b}) for b in range(8)}
    lower_cut = _discounts(list(places.values()))
    share = sum(lower_cut[min(value, 3)] for value in places.values()) / sum(places.values()) / 8
    for (a, b), count in pairs.items():
        total = sum(other for (x, _), other in pairs.items() if x == a)
        left = sum(cut[min(other, 3)] for (x, _), other in pairs.items() if x == a)
        lower = (places[b] - lower_cut[min(places[b], 3)]) / sum(places.values()) + share
        wanted = (count - cut[min(count, 3)]) / total + left / total * lower
        assert float(np.exp(model.score(np.array([a]), np.array([b])))[0]) == pytest.approx(wanted, rel=1e-4)


def test_longer_histories_know_more() -> None:
    held_out = _stream(600, seed=4)

    def log_prob(model: NgramLM) -> float:
        history, total = np.array([model.boundary]), 0.0
        for token in held_out.tolist():
            if token == BOUNDARY:
                history = np.array([model.boundary])
                continue
            total += float(model.score(history, np.array([token]))[0])
            history = model.advance(history, np.array([token]))
        return total

    unigrams, bigrams = (log_prob(_model(order=order)) for order in (1, 2))
    assert bigrams > unigrams + 100
    assert log_prob(_model(kept=200)) > unigrams + 100


def test_pruning_keeps_the_count_it_was_told_and_every_history() -> None:
    whole, pruned = _model(), _model(kept=150)
    assert sum(pruned.sizes) < sum(whole.sizes)
    assert sum(pruned.sizes[2:]) <= 150 + 150
    keys = [pruned.grams(order).keys for order in range(1, pruned.order + 1)]
    for shorter, longer in itertools.pairwise(keys):
        assert set((longer >> pruned.bits).tolist()) <= set(shorter.tolist())


def test_a_file_gives_the_model_back(tmp_path: Path) -> None:
    model = _model(kept=500)
    save_draft_lm(model, tmp_path)
    read = load_draft_lm(tmp_path / DRAFT_LM, VOCABULARY)
    assert read.options == model.options and read.options.lm_weight == 0.9
    assert read.sizes == model.sizes
    for order in range(1, model.order + 1):
        assert np.array_equal(read.grams(order).keys, model.grams(order).keys)
    for text in ([], [1], [3, 4, 5, 6]):
        assert np.allclose(np.log(_after(read, text)), np.log(_after(model, text)), atol=0.15)


def test_files_that_do_not_fit_are_refused_with_the_reason(tmp_path: Path) -> None:
    path = save_draft_lm(_model(kept=50), tmp_path)
    with pytest.raises(CheckpointError, match="vocabulary of 10 tokens, the model has 11"):
        load_draft_lm(path, 11)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_draft_lm(tmp_path / "none.safetensors", VOCABULARY)
    from safetensors.numpy import load_file, save_file

    arrays = load_file(path)
    save_file(arrays, path, metadata={"format": "another"})
    with pytest.raises(CheckpointError, match="'another'"):
        load_draft_lm(path, VOCABULARY)
    save_file(arrays, path, metadata={"format": "redline n-grams 1"})
    with pytest.raises(CheckpointError, match="vocabulary of None tokens"):
        load_draft_lm(path, VOCABULARY)
    about = {"format": "redline n-grams 1", "vocab_size": "10", "boundary": "9", "order": "4"}
    save_file({name: array for name, array in arrays.items() if name != "heads.2"}, path, metadata=about)
    with pytest.raises(CheckpointError, match=r"damaged draft language model .*heads\.2"):
        load_draft_lm(path, VOCABULARY)


def test_an_order_beyond_the_key_is_refused() -> None:
    with pytest.raises(ConfigError, match="at most 3 tokens"):
        estimate(_stream(), 100_352, BOUNDARY, NgramOptions(order=4), DraftOptions())


def test_too_little_text_is_an_error_for_people() -> None:
    with pytest.raises(DataError, match="too few"):
        estimate(_stream(3)[:2], VOCABULARY, BOUNDARY, NgramOptions(order=5), DraftOptions())


def test_held_out_paragraphs_are_not_read() -> None:
    read, held = split_text([str(number) for number in range(20)], NgramOptions(held_out=8))
    assert held == ["0", "8", "16"] and not set(read) & set(held) and len(read) == 17


@pytest.mark.parametrize("kept", [10**6, 300, 0])
@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_all_tokens_at_once_have_the_scores_of_each_alone(kept: int, order: int) -> None:
    model = _model(kept, order)
    draw = np.random.default_rng(order)
    histories = np.zeros(40, dtype=np.int64)
    for _ in range(order - 1):
        histories = model.advance(histories, draw.integers(VOCABULARY, size=40))
    tokens = np.arange(VOCABULARY)
    each = model.score(histories.repeat(VOCABULARY), np.tile(tokens, 40)).reshape(40, VOCABULARY)
    assert np.array_equal(model.score_all(histories), each)
    assert np.array_equal(model.score_all(histories[7:8]), each[7:8])


def test_a_pool_forgets_no_history_that_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngram, "LEAST_ROWS", 4)
    model = _model(300, 3)
    pool = ScorePool(model, 3)
    draw = np.random.default_rng(0)
    histories = kept = np.zeros(3, dtype=np.int64)
    alive = pool.add(histories)
    for step in range(30):
        histories = model.advance(histories, draw.integers(8, size=3))
        grown = np.array([True, step % 2 == 0, step % 3 == 0])
        alive[grown] = pool.add(histories[grown])
        kept = np.where(grown, histories, kept)
        alive = pool.keep(alive)
        assert np.array_equal(pool.rows[alive], model.score_all(kept))
    assert pool.used <= len(pool.rows)


def test_a_search_is_the_same_with_a_pool_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(5)
    logits, lengths = 3 * torch.randn(4, 60, VOCABULARY, generator=draw), torch.tensor([60, 41, 1, 17])
    candidates = FrameCandidates.of(logits, lengths, BOUNDARY, DraftOptions())
    model = _model(300)
    assert model.pool(8) is not None
    pooled = search(candidates, model, model.options)
    monkeypatch.setattr(ngram, "POOLED_TOKENS", 1)
    assert model.pool(8) is None
    assert search(candidates, model, model.options) == pooled
