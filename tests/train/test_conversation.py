"""Conversations put together from the states of two speakers."""

from __future__ import annotations

import random

import numpy as np
import pytest

from redline.errors import ConfigError, DataError
from redline.train.conversation import ConversationOptions, Conversations
from redline.train.splice import joined
from redline.train.states import CachedUtterance, StateView
from tests.corpus import WORDS, tokenizer_of

TEXTS = {"a1": "the cat sat on a mat", "a2": "the dog ran", "b1": "to a red house by the sea", "c1": "and the mat"}
SPEAKERS = {"a1": "a", "a2": "a", "b1": "b", "c1": ""}
TOKENIZER = tokenizer_of([" ".join(WORDS)] * 4)


def view() -> StateView:
    """Each frame's state is the token that is said there, three frames a token."""
    states: list[int] = []
    rows = {}
    for identity, text in TEXTS.items():
        tokens = tuple(TOKENIZER.encode(text))
        rows[identity] = CachedUtterance(
            len(states), 3 * len(tokens), len(states), tokens, tuple(range(0, 3 * len(tokens) + 1, 3))
        )
        states += [token for token in tokens for _ in range(3)]
    frames = np.array(states, dtype=np.float16)[:, None]
    return StateView(frames, frames.astype(np.int32), np.zeros((len(states), 2), np.float16), rows, 1, 25.0)


def test_what_is_heard_is_what_is_said_turn_by_turn() -> None:
    options = ConversationOptions(share=1.0, turns=(1, 5), words=(1, 3))
    source = Conversations([view()], SPEAKERS, TOKENIZER, options)
    draw, pairs = random.Random(0), set()
    for _ in range(300):
        pieces, turns = source.draw(draw, source.views[0])
        assert 1 <= len(turns) == len(pieces) <= 5
        assert [turn.speaker for turn in turns] == ["1", "2", "1", "2", "1"][: len(turns)]
        for piece, turn in zip(pieces, turns, strict=True):
            assert 1 <= len(turn.text.split()) <= 3 and set(turn.text.split()) <= set(WORDS)
            assert [int(state) for state in piece.states[::3, 0]] == list(piece.tokens) == TOKENIZER.encode(turn.text)
        whole = joined(pieces)
        assert whole.spans == tuple((at, at + 3) for at in range(0, 3 * len(whole.tokens), 3))
        pairs.add(tuple(any(turn.text in TEXTS[one] for one in ("a1", "a2")) for turn in turns[:2]))
    assert len(pairs) > 1


def test_two_speakers_are_needed() -> None:
    with pytest.raises(DataError, match="need two speakers; 1 are named"):
        Conversations([view()], {**SPEAKERS, "b1": ""}, TOKENIZER, ConversationOptions(share=0.5))


@pytest.mark.parametrize("wrong", [{"share": 2.0}, {"turns": (0, 2)}, {"words": (5, 2)}])
def test_options_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="allowed are"):
        ConversationOptions(**wrong)  # type: ignore[arg-type]
