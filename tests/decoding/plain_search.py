"""The readable twin of `redline.decoding.ctc_beam.search`: one utterance after the other, texts in a dictionary."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from redline.decoding.biasing import KeywordTrie
from redline.decoding.ctc_beam import BeamOptions, FrameCandidates
from redline.decoding.ngram import NgramLM

NEVER = -math.inf
Text = tuple[int, ...]


def log_add(a: float, b: float) -> float:
    high = max(a, b)
    return high if high == NEVER else high + math.log(math.exp(a - high) + math.exp(b - high))


def lm_score(lm: NgramLM, text: Sequence[int]) -> float:
    """Log probability of a text, token by token."""
    history, total = np.array([lm.boundary]), 0.0
    for token in text:
        last = np.array([token])
        total += float(lm.score(history, last)[0])
        history = lm.advance(history, last)
    return total


def bias_score(trie: KeywordTrie, text: Sequence[int], ended: bool = True) -> float:
    """What the keywords in a text give, token by token, and at its end."""
    state, total = trie.start[:1], 0.0
    for token in text:
        state, gain = trie.step(state, np.array([token]))
        total += float(gain[0])
    return total + (float(trie.end(state)[0]) if ended else 0.0)


def search_plain(
    candidates: FrameCandidates, lm: NgramLM | None, options: BeamOptions, bias: KeywordTrie | None = None
) -> list[list[int]]:
    """The best text of each utterance as ids."""
    return [_search_row(candidates, row, lm, options, bias) for row in range(len(candidates.ids))]


def _search_row(
    candidates: FrameCandidates, row: int, lm: NgramLM | None, options: BeamOptions, bias: KeywordTrie | None
) -> list[int]:
    def score(text: Text, ended: bool = False) -> float:
        total = log_add(*beam[text]) + options.token_bonus * len(text)
        total += options.lm_weight * lm_score(lm, text) if lm else 0.0
        return total + (bias_score(bias, text, ended) if bias else 0.0)

    def add(text: Text, to_blank: float, to_token: float) -> None:
        have = beam.get(text, (NEVER, NEVER))
        beam[text] = log_add(have[0], to_blank), log_add(have[1], to_token)

    beam: dict[Text, tuple[float, float]] = {(): (0.0, NEVER)}  # log probability of ending in a blank, in the token
    for frame in range(int(candidates.lengths[row])):
        ids, log_probs = candidates.ids[row, frame].tolist(), candidates.log_probs[row, frame].tolist()
        blank = float(candidates.blank[row, frame])
        before, beam = beam, {}
        for text, (ends_blank, ends_token) in before.items():
            total = log_add(ends_blank, ends_token)
            add(text, total + blank, NEVER)
            for token, log_prob in zip(ids, log_probs, strict=True):
                if log_prob == NEVER:
                    continue
                if text and token == text[-1]:
                    add(text, NEVER, ends_token + log_prob)
                    add((*text, token), NEVER, ends_blank + log_prob)
                else:
                    add((*text, token), NEVER, total + log_prob)
        alive = [text for text in beam if log_add(*beam[text]) > NEVER]
        beam = {text: beam[text] for text in sorted(alive, key=score, reverse=True)[: options.width]}
    return list(max(beam, key=lambda text: score(tuple(text), ended=True)))
