"""Beam search over CTC posteriors, against its readable twin and against all paths."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from redline.decoding.ctc import collapse, greedy
from redline.decoding.ctc_beam import BeamOptions, FrameCandidates, search
from redline.decoding.ngram import NgramLM
from redline.errors import ConfigError
from redline_recipes.tiny.ngram import NgramOptions, estimate
from tests.decoding.plain_search import lm_score, search_plain

BLANK = 7


@pytest.fixture(scope="module")
def model() -> NgramLM:
    torch.manual_seed(5)
    stream = torch.randint(0, BLANK, (400,))
    stream[::20] = BLANK
    return estimate(stream.numpy(), BLANK + 1, BLANK, NgramOptions(order=3), BeamOptions())


def _candidates(seed: int, options: BeamOptions, B: int = 4, T: int = 12) -> FrameCandidates:
    torch.manual_seed(seed)
    logits = torch.randn(B, T, BLANK + 1) * 2
    return FrameCandidates.of(logits, torch.tensor([T, T - 3, 1, 0]), BLANK, options)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("with_model", [False, True])
def test_the_fast_search_finds_what_its_readable_twin_finds(seed: int, with_model: bool, model: NgramLM) -> None:
    options = BeamOptions(width=6, candidates=4, margin=5.0, lm_weight=0.8, token_bonus=0.5)
    candidates = _candidates(seed, options)
    reader = model if with_model else None
    texts = search(candidates, reader, options)
    assert texts == search_plain(candidates, reader, options)
    assert texts[0] and texts[3] == []


@pytest.mark.parametrize("with_model", [False, True])
def test_a_wide_search_is_the_best_of_all_texts_over_all_paths(with_model: bool, model: NgramLM) -> None:
    torch.manual_seed(1)
    logits = torch.randn(1, 4, BLANK + 1)
    options = BeamOptions(width=4000, candidates=BLANK, margin=1e6, lm_weight=0.6, token_bonus=0.4)
    log_probs = logits[0].log_softmax(-1)
    texts: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(BLANK + 1), repeat=4):
        text = tuple(collapse(path, BLANK))
        texts[text] = texts.get(text, 0.0) + math.exp(sum(float(log_probs[t, label]) for t, label in enumerate(path)))

    def score(text: tuple[int, ...]) -> float:
        return math.log(texts[text]) + 0.6 * with_model * lm_score(model, text) + 0.4 * len(text)

    candidates = FrameCandidates.of(logits, torch.tensor([4]), BLANK, options)
    assert search(candidates, model if with_model else None, options) == [list(max(texts, key=score))]


def test_alone_is_as_in_a_batch(model: NgramLM) -> None:
    torch.manual_seed(3)
    options = BeamOptions(width=8)
    logits, lengths = torch.randn(3, 20, BLANK + 1) * 3, [20, 11, 5]
    whole = FrameCandidates.of(logits, torch.tensor(lengths), BLANK, options)
    together = search(whole, model, options)
    parts = [FrameCandidates.of(part, torch.tensor(lengths), BLANK, options) for part in logits.split(7, dim=1)]
    assert search(FrameCandidates.join(parts), model, options) == together, "picked frames by frames"
    assert search(whole.rows([2, 0]), model, options) == [together[2], together[0]]
    for row, length in enumerate(lengths):
        alone = FrameCandidates.of(logits[row : row + 1, :length], torch.tensor([length]), BLANK, options)
        assert search(alone, model, options) == [together[row]]


def test_sure_frames_need_no_reader(model: NgramLM) -> None:
    path = [BLANK, 1, 1, BLANK, 1, 2, BLANK, 3]
    logits = torch.nn.functional.one_hot(torch.tensor([path]), BLANK + 1) * 50.0
    lengths = torch.tensor([len(path)])
    options = BeamOptions()
    candidates = FrameCandidates.of(logits, lengths, BLANK, options)
    assert search(candidates, model, options) == greedy(logits, lengths, BLANK) == [[1, 1, 2, 3]]


def test_the_reader_decides_where_the_ear_cannot(model: NgramLM) -> None:
    stream = torch.tensor([BLANK, 1, 2, 3] * 50 + [BLANK, 4, 5, 6] * 50).numpy()
    reader = estimate(stream, BLANK + 1, BLANK, NgramOptions(order=3), BeamOptions())
    logits = torch.full((1, 3, BLANK + 1), -9.0)
    logits[0, 0, 1], logits[0, 1, [2, 5]], logits[0, 2, 3] = 5.0, torch.tensor([4.0, 4.1]), 5.0
    options = BeamOptions(lm_weight=0.5, token_bonus=0.0)
    candidates = FrameCandidates.of(logits, torch.tensor([3]), BLANK, options)
    assert search(candidates, None, options) == [[1, 5, 3]]
    assert search(candidates, reader, options) == [[1, 2, 3]]


def test_no_frames_give_no_text(model: NgramLM) -> None:
    empty = FrameCandidates.of(torch.zeros(2, 0, BLANK + 1), torch.zeros(2, dtype=torch.int64), BLANK, BeamOptions())
    assert search(empty, model, BeamOptions()) == [[], []]


@pytest.mark.parametrize("wrong", [{"width": 0}, {"candidates": 0}])
def test_options_that_cannot_search_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="allowed are 1 to"):
        BeamOptions(**wrong)  # type: ignore[arg-type]
