"""Forced alignment in which words may be left out equals a plain search over states, one frame after the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from redline.decoding.align import Alignment, OptionalSymbols, align_scores

BLANK, WILD = 0, 4
WORDS = [[1, 2], [3], [2, 2, 1]]


def wordwise(spelled: list[list[int]]) -> list[int]:
    return [WILD, *(label for word in spelled for label in (*word, WILD))]


def optional_words(nats: float) -> list[OptionalSymbols]:
    parts, at = [], 1
    for word in WORDS:
        parts.append(OptionalSymbols(at, at + len(word), nats))
        at += len(word) + 1
    return parts


def plain_score(log_probs: Tensor, symbols: list[int], optional: list[OptionalSymbols]) -> float:
    """The best path of a text through [T, V]: blanks between symbols, and a fare for what is left out."""
    labels = [BLANK, *(label for symbol in symbols for label in (symbol, BLANK))]
    best = {0: float(log_probs[0, BLANK]), 1: float(log_probs[0, labels[1]])}
    for frame in log_probs[1:]:
        ways: dict[int, float] = {}
        for state, score in best.items():
            steps = {state: 0.0, state + 1: 0.0}
            if state + 2 < len(labels) and labels[state + 2] not in (BLANK, labels[state]):
                steps[state + 2] = 0.0
            for part in optional:
                if state == 2 * (part.first - 1) + 1:
                    steps[2 * part.end + 1] = max(-part.nats, steps.get(2 * part.end + 1, -1e9))
            for target, price in steps.items():
                if target < len(labels):
                    ways[target] = max(ways.get(target, -1e9), score + price + float(frame[labels[target]]))
        best = ways
    return max(best.get(len(labels) - 1, -1e9), best.get(len(labels) - 2, -1e9))


def path_score(log_probs: Tensor, symbols: list[int], optional: list[OptionalSymbols], path: Alignment) -> float:
    labels = [BLANK] * len(log_probs)
    for symbol, start, end in zip(symbols, path.starts, path.ends, strict=True):
        labels[start:end] = [symbol] * (end - start)
    fares = sum(part.nats for part in optional if path.ends[part.first] == 0)
    return float(log_probs[range(len(log_probs)), labels].sum()) - fares


@pytest.mark.parametrize("seed", range(12))
def test_words_are_left_out_where_the_path_is_better_without_them(seed: int) -> None:
    log_probs = (2 * torch.randn(16, 5, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)
    symbols, optional = wordwise(WORDS), optional_words(seed / 3)
    (path,) = align_scores(log_probs[None], torch.tensor([16]), [symbols], BLANK, [optional])
    assert path is not None
    assert 16 * path.score == pytest.approx(plain_score(log_probs, symbols, optional), abs=1e-3)
    assert 16 * path.score == pytest.approx(path_score(log_probs, symbols, optional, path), abs=1e-3)
    if seed == 0:  # at no price something is left out
        assert 0 in path.ends


def test_what_is_dear_to_leave_out_stays_and_texts_of_a_batch_do_not_meet() -> None:
    log_probs = torch.randn(2, 20, 5, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    symbols, lengths = wordwise(WORDS), torch.tensor([20, 17])
    dear = align_scores(log_probs, lengths, [symbols, symbols], BLANK, [optional_words(1e4), optional_words(1e4)])
    assert dear == align_scores(log_probs, lengths, [symbols, symbols], BLANK)
    mixed = align_scores(log_probs, lengths, [symbols, symbols], BLANK, [optional_words(0.0), []])
    assert mixed[1] == dear[1] and mixed[0] != dear[0]
