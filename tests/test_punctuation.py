"""Capitals and marks: written form, the head that tells it, and what training teaches it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from redline.checkpoints import nar
from redline.checkpoints.heads import load_punctuation_head, save_punctuation_head
from redline.decoding.slots import edits, punctuate, with_slots
from redline.errors import CheckpointError
from redline.models.heads import PunctuationHead
from redline.models.nar import NarModel
from redline.normalize import spoken
from redline.punctuation import (
    MARKS,
    Punctuation,
    restore_pieces,
    strip_punctuation,
    word_pieces,
)
from redline.recognizer import NarRecognizer
from redline.tensor_file import save_head
from redline.testing import tone
from redline.tokenizer import Tokenizer
from redline.types import Task
from redline_recipes.tiny.books import written
from redline_recipes.tiny.punctuation import UNKNOWN, punctuation_labels, punctuation_loss
from tests.builders import recognize_clips, tiny_config
from tests.corpus import WORDS, tokenizer_of


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Well, I never!", "Well, I never!"),
        ("\u201cIs it?\u201d she said\u2014\u201cno.\u201d", "Is it? she said no."),
        ("a well-known Caf\u00e9; but : no", "a well known Cafe; but: no"),
        ("\u2018Tis the dogs' bowl\u2026", "Tis the dogs bowl"),
        ("(so what?!) he asked.", "so what? he asked."),
        ("... and", "and"),
        ("", ""),
    ],
)
def test_printed_lines_in_written_form(line: str, expected: str) -> None:
    assert written(line) == expected
    assert strip_punctuation(written(line)) == spoken(line)


def test_every_form_is_found_again_in_what_it_wrote() -> None:
    for capital in (False, True):
        for mark in MARKS:
            form = Punctuation(capital, mark)
            assert Punctuation.of(form.restore("cat")) == form
            assert strip_punctuation(form.restore("cat")) == "cat"


def test_pieces_are_dressed_word_by_word() -> None:
    pieces = ["we", "ll", " i", " ne", "", "ver", " ", "mind"]
    assert word_pieces(pieces) == [[0, 1], [2], [3, 5], [7]]
    forms = [
        Punctuation(True, "?"),
        Punctuation(False, ","),
        Punctuation(True, ""),
        Punctuation(False, ":"),
        Punctuation(True, ";"),
    ]
    forms += [Punctuation(True, "!"), Punctuation(True, "."), Punctuation(True, ".")]
    assert restore_pieces(pieces, forms) == ["We", "ll,", " I", " ne", "", "ver!", " ", "Mind."]
    assert restore_pieces([], []) == []


def test_edits_tell_a_capital_as_a_replacement_and_still_join() -> None:
    draft, path = [1, 2], [0, 1, 0, 2, 0]
    changes = edits(draft, path, 0, [" 1", " 2"], [" One.", " 2"])
    assert [edit.op for edit in changes] == ["replace", "keep"]
    assert "".join(edit.text for edit in changes) == " One. 2"
    assert "".join(edit.draft for edit in changes) == " 1 2"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tokenizer_of([" ".join(WORDS)] * 4)


def test_labels_lie_on_the_slots_of_the_words(tokenizer: Tokenizer) -> None:
    blank = tokenizer.vocab_size - 1
    text = "The cat sat, on a mat."
    tokens = tokenizer.encode(strip_punctuation(text))
    slots = torch.tensor([with_slots(tokens, blank)])
    logits = torch.nn.functional.one_hot(slots, tokenizer.vocab_size) * 20.0
    lengths = torch.tensor([slots.shape[1]])
    case, mark = punctuation_labels(logits, lengths, [text], tokenizer, blank)[:, 0].tolist()
    for word, form in zip(word_pieces(tokenizer.pieces(tokens)), map(Punctuation.of, text.split()), strict=True):
        assert case[2 * word[0] + 1] == form.capital
        assert MARKS[mark[2 * word[-1] + 1]] == form.mark
    assert sum(label != UNKNOWN for label in case) == sum(label != UNKNOWN for label in mark) == 6
    assert bool((punctuation_labels(logits, lengths, [None], tokenizer, blank) == UNKNOWN).all())


def test_the_head_learns_the_forms_of_a_text(tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    blank = tokenizer.vocab_size - 1
    text = "The cat sat, on a mat."
    slots = torch.tensor([with_slots(tokenizer.encode(strip_punctuation(text)), blank)])
    logits = torch.nn.functional.one_hot(slots, tokenizer.vocab_size) * 20.0
    lengths = torch.tensor([slots.shape[1]])
    head, hidden = PunctuationHead(32), torch.randn(1, slots.shape[1], 32)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
    for _ in range(60):
        loss = punctuation_loss(head(hidden), logits, lengths, [text], tokenizer, blank)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(loss.detach()) < 0.1
    used = [slot for slot in range(slots.shape[1]) if slots[0, slot] != blank]
    pieces = tokenizer.pieces(tokenizer.encode(strip_punctuation(text)))
    assert "".join(restore_pieces(pieces, punctuate(head(hidden)[:, used])[0])).strip() == text


def _shouting(model: NarModel) -> PunctuationHead:
    """A head that gives every word a capital and an exclamation mark."""
    head = PunctuationHead(model.config.text.hidden_size)
    with torch.no_grad():
        head.out.weight.zero_()
        head.out.bias.zero_()
        head.out.bias[1] = head.out.bias[2 + MARKS.index("!")] = 1.0
    return head


def test_a_checkpoint_keeps_its_head_and_transcripts_use_it(tokenizer: Tokenizer, tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = NarModel(tiny_config(tokenizer.vocab_size)).eval()
    model.punctuation_head = _shouting(model)
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer._core.to_str(), encoding="utf-8")
    folder = nar.save_nar(tmp_path / "model", model, path)
    assert not any("punctuation" in name for name in load_file(folder / "model.safetensors"))
    loaded, _, _ = nar.load_nar(folder)
    assert loaded.punctuation_head is not None
    (shouted,) = recognize_clips(NarRecognizer(loaded, tokenizer, name="x"), [tone(2.0)], Task(language="en"))
    (quiet,) = recognize_clips(
        NarRecognizer(loaded, tokenizer, name="x", punctuate=False), [tone(2.0)], Task(language="en")
    )
    assert shouted.text.count("!") == len(quiet.text.split())
    assert "".join(edit.text for edit in shouted.edits).strip() == shouted.text
    assert "".join(edit.text for edit in quiet.edits).strip() == quiet.text
    assert shouted.draft == quiet.draft


def test_a_head_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = save_punctuation_head(PunctuationHead(8), tmp_path)
    assert load_punctuation_head(tmp_path, 8).out.bias.shape == (2 + len(MARKS),)
    with pytest.raises(CheckpointError, match="width 16"):
        load_punctuation_head(tmp_path, 16)
    save_head(PunctuationHead(8).state_dict(), path, ["|"])
    with pytest.raises(CheckpointError, match=r"its rows are the marks \|"):
        load_punctuation_head(tmp_path, 8)
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_punctuation_head(tmp_path, 8)
