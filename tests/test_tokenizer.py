"""The tokenizer: what goes in comes out, pieces join, special ids stay out of reach."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from redline.errors import CheckpointError
from redline.tokenizer import Tokenizer

END = "<|end_of_text|>"
GOLDEN = Path(__file__).parent / "data" / "golden" / "nar-tiny" / "tokenizer.json"


def byte_level() -> tokenizers.Tokenizer:
    """Byte-level BPE with a few merges, so that some characters are one token and most are several."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "a"), ("h", "e"), ("he", "l")]
    vocab = {symbol: id for id, symbol in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    core = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    return core


BYTES = Tokenizer(byte_level())
WORDS = Tokenizer.from_file(GOLDEN)


@given(st.text(max_size=20))
def test_decode_inverts_encode(text: str) -> None:
    assert BYTES.decode(BYTES.encode(text)) == text


@given(st.lists(st.one_of(st.text(max_size=5), st.just(END)), max_size=5).map("".join))
def test_user_text_never_yields_a_special_id(text: str) -> None:
    ids = BYTES.encode(text)
    assert not set(ids) & BYTES.special_ids
    assert BYTES.decode(ids) == text


def test_special_ids_are_known_and_left_out_of_text() -> None:
    end = BYTES.id_of(END)
    assert end is not None and BYTES.special_ids == {end}
    assert BYTES.decode([*BYTES.encode("he"), end]) == "he"
    assert BYTES.id_of("no such token") is None
    assert WORDS.special_ids == {94, 95} and WORDS.vocab_size == 96


@given(st.lists(st.integers(0, BYTES.vocab_size - 1), max_size=12))
def test_pieces_join_to_the_whole_text_for_any_bytes(ids: list[int]) -> None:
    pieces = BYTES.pieces(ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == BYTES.decode(ids)


@given(st.lists(st.integers(0, 95), max_size=8))
def test_pieces_join_to_the_whole_text_when_words_are_joined_by_spaces(ids: list[int]) -> None:
    assert "".join(WORDS.pieces(ids)) == WORDS.decode(ids)


def test_a_character_of_several_tokens_is_written_by_the_last_of_them() -> None:
    ids = BYTES.encode("hé a")
    assert BYTES.pieces(ids) == ["h", "", "é", " a"]


def test_the_callers_tokenizer_is_left_alone() -> None:
    core = byte_level()
    Tokenizer(core)
    assert core.encode(END).ids == [core.token_to_id(END)]


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "cannot be read"),
        (lambda path: path.write_text(json.dumps({"model": 3})), "not a tokenizer.json"),
    ],
)
def test_a_bad_tokenizer_file_is_refused(tmp_path: Path, write: Callable[[Path], object], message: str) -> None:
    path = tmp_path / "tokenizer.json"
    write(path)
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.from_file(path)
