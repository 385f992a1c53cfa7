"""Word times by forced alignment on character posteriors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from redline.decoding.words import SPACE, fold_case, share, spell, timed_turns, word_times
from redline.types import Turn, Word

ROWS = 128


def says(text: str, per_char: int = 2, rows: int = ROWS) -> Tensor:
    """Logits [T, C] of a head that is sure of every character, with a space before words and a blank behind letters."""
    labels: list[int] = []
    for word in text.split(" "):
        labels += [0, SPACE if labels else 0, 0]
        for char in word:
            labels += [ord(char)] * per_char + [0]
    logits = torch.full((len(labels), rows), -8.0)
    logits[range(len(labels)), labels] = 8.0
    return logits


def test_words_are_found_where_they_are_said() -> None:
    logits = says("so it is")
    (words,) = word_times(["so it is"], logits[None], torch.tensor([len(logits)]), 0.02)
    assert [word.text for word in words] == ["so", "it", "is"]
    # Three frames of no letter, then two letters of two frames with a blank behind each.
    assert [(word.start, word.end) for word in words] == [(0.06, 0.16), (0.24, 0.34), (0.42, 0.52)]


def test_the_case_of_the_text_does_not_matter() -> None:
    logits = says("so it is")
    lengths = torch.tensor([len(logits)])
    (small,), (large,) = (word_times([text], logits[None], lengths, 0.02) for text in ("so it is", "So IT is"))
    assert [(word.start, word.end) for word in small] == [(word.start, word.end) for word in large]
    assert [word.text for word in large] == ["So", "IT", "is"]


def test_folding_adds_the_probability_of_capitals() -> None:
    logits = torch.randn(3, 7, ROWS)
    folded, whole = fold_case(logits).exp(), logits.softmax(-1)
    torch.testing.assert_close(folded[..., ord("a")], whole[..., ord("a")] + whole[..., ord("A")])
    torch.testing.assert_close(folded[..., 0], whole[..., 0])
    torch.testing.assert_close(folded.sum(-1), torch.ones(3, 7))


def test_every_word_with_a_time_of_its_own_has_a_confidence_and_what_is_not_heard_a_low_one() -> None:
    logits = says("so it is")
    (words,) = word_times(["so at is 東"], logits[None], torch.tensor([len(logits)]), 0.02)
    sure = [word.confidence for word in words]
    assert sure[0] == sure[2] == 1.0 and sure[3] is None
    assert sure[1] == pytest.approx(0.5, abs=0.01), "one of two letters is what was heard"


def test_alone_equals_in_a_batch() -> None:
    rows = [says("so it is"), says("no"), says("my fellow")]
    texts = ["so it is", "no", "my fellow"]
    lengths = torch.tensor([len(row) for row in rows])
    together = word_times(texts, torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths, 0.02)
    alone = [
        word_times([text], row[None], torch.tensor([len(row)]), 0.02)[0] for text, row in zip(texts, rows, strict=True)
    ]
    assert together == alone


def test_a_word_that_cannot_be_spelled_gets_the_time_between_its_neighbours() -> None:
    logits = says("so is")
    (words,) = word_times(["so 東京 is 東"], logits[None], torch.tensor([len(logits)]), 0.02)
    so, tokyo, is_, east = words
    assert tokyo.start == so.end and tokyo.end == is_.start and east.start == is_.end
    assert east.end == pytest.approx(len(logits) * 0.02)


def test_a_text_that_does_not_fit_shares_its_clip() -> None:
    (words,) = word_times(["several words that are far too long"], says("a")[None], torch.tensor([4]), 0.02)
    assert " ".join(word.text for word in words) == "several words that are far too long"
    assert words[0].start == 0 and words[-1].end == 0.08


@pytest.mark.parametrize("text", ["", "  ", "東"])
def test_nothing_to_align_is_no_error(text: str) -> None:
    (words,) = word_times([text], says("a")[None], torch.tensor([6]), 0.02)
    assert " ".join(word.text for word in words) == text.strip()


def test_katakana_has_rows_of_its_own_in_the_published_head() -> None:
    assert spell("ア", 348) == [256 + ord("ア") - 0x30A1] and spell("ア", 256) == []
    assert spell("Ä", 348) == [ord("ä")] and spell("Ä", 128) == []


def test_times_are_shared_by_characters() -> None:
    assert share(["a", "bcd"], 1.0, 3.0) == [Word(1.0, 1.5, "a"), Word(1.5, 3.0, "bcd")]
    assert share([], 0.0, 1.0) == []


def test_turns_get_the_times_of_their_words() -> None:
    words = [Word(0.0, 0.5, "so"), Word(0.6, 0.9, "it"), Word(1.2, 1.5, "no")]
    turns, said = timed_turns([Turn("1", 0, 9, "so it"), Turn("", 0, 9, "no")], words)
    assert turns == [Turn("1", 0.0, 0.9, "so it"), Turn("", 1.2, 1.5, "no")]
    assert [word.speaker for word in said] == ["1", "1", None]
