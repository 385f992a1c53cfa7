"""Word times by forced alignment on character posteriors."""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from redline.decoding.word_times import (
    SPACE,
    LazyWordTimes,
    fold_case,
    scored_word_times,
    spell,
    timing_notices,
)
from redline.types import Word, share

ROWS = 128


def word_times(texts: Sequence[str], logits: Tensor, lengths: Tensor, frame_s: float) -> list[list[Word]]:
    return [words for words, _ in scored_word_times(texts, logits, lengths, frame_s)]


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


def test_words_that_follow_each_other_begin_before_their_first_letter_is_told() -> None:
    """In heads of 25 frames a second; behind a pause, and at the start, they begin with it."""
    labels = [ord("s"), ord("o"), SPACE, 0, ord("i"), ord("t"), 0, 0, SPACE, 0, 0, ord("i"), ord("s")]
    logits = torch.full((len(labels), ROWS), -8.0)
    logits[range(len(labels)), labels] = 8.0
    lengths = torch.tensor([len(logits)])
    (fine,), (coarse,) = (word_times(["so it is"], logits[None], lengths, frame_s) for frame_s in (0.02, 0.04))
    leads = [round(2 * a.start - b.start, 3) for a, b in zip(fine, coarse, strict=True)]
    gaps = [round((b.start - a.end) / 0.02) for a, b in itertools.pairwise(fine)]
    assert gaps[0] <= 2 < gaps[1] and leads == [0.0, 0.04, 0.0]
    assert [round(2 * a.end - b.end, 3) for a, b in zip(fine, coarse, strict=True)] == [0.0, 0.0, 0.0]
    assert all(a.end <= b.start for a, b in itertools.pairwise(coarse))


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
    confidences = [word.confidence for word in words]
    assert confidences[0] == confidences[2] == 1.0
    assert confidences[1] == pytest.approx(0.5, abs=0.01), "one of two letters is what was heard"
    assert confidences[3] is not None and confidences[3] < 0.1, "nothing is heard where the last one would be"


def test_digits_are_as_certain_as_the_letters_that_are_heard_there() -> None:
    sure = says("have twenty cats")
    unsure = sure.clone()
    unsure[20:44] *= 0.2  # the letters of "twenty"
    lengths = torch.tensor([len(sure)])
    (clear,), (murmured,) = (word_times(["have 20 cats"], logits[None], lengths, 0.02) for logits in (sure, unsure))
    assert clear[1].confidence == 1.0
    assert murmured[1].confidence is not None and murmured[1].confidence < 0.5 and murmured[0].confidence == 1.0


@pytest.mark.parametrize("text", ["- so at is", "so at - is", "so at is ...", "— so … at ! is -"])
def test_a_mark_that_stands_alone_is_as_certain_as_the_less_certain_word_beside_it(text: str) -> None:
    logits = says("so it is")
    (words,) = word_times([text], logits[None], torch.tensor([len(logits)]), 0.02)
    assert [word.text for word in words] == text.split()
    known = [word.confidence for word in words]
    at = text.split().index("at")
    for place, (word, confidence) in enumerate(zip(words, known, strict=True)):
        if not word.text.isalpha():
            assert confidence == (known[at] if abs(place - at) == 1 else 1.0)


def test_words_that_cannot_be_aligned_have_times_and_no_confidence_in_them() -> None:
    logits = says("so")
    for text in ("far more words than there are frames in this clip of one word", "...", "- -"):
        (words,) = word_times([text], logits[None], torch.tensor([len(logits)]), 0.02)
        assert [word.text for word in words] == text.split() and {word.confidence for word in words} == {0.0}
        assert words[0].start == 0.0 and words[-1].end == pytest.approx(len(logits) * 0.02)


def test_alone_equals_in_a_batch() -> None:
    rows = [says("so it is"), says("no"), says("my fellow")]
    texts = ["so it is", "no", "my fellow"]
    lengths = torch.tensor([len(row) for row in rows])
    together = word_times(texts, torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths, 0.02)
    alone = [
        word_times([text], row[None], torch.tensor([len(row)]), 0.02)[0] for text, row in zip(texts, rows, strict=True)
    ]
    assert together == alone


@pytest.mark.parametrize("written", ["20", "№", "東京", "двадцать", "€", "3rd-2"])
@pytest.mark.parametrize("pause", [0, 40])
def test_what_the_head_has_no_letters_for_is_found_where_it_is_said(written: str, pause: int) -> None:
    """Digits, symbols and other scripts are spoken in some letters; a pause beside them is none of theirs."""
    parts = [says("have"), torch.full((pause, ROWS), -8.0), says(" twenty")[1:], torch.full((pause, ROWS), -8.0)]
    for silence in (parts[1], parts[3]):
        silence[:, 0] = 8.0
    logits = torch.cat((*parts, says(" cats")[1:]))
    lengths = torch.tensor([len(logits)])
    (wanted,), (words,) = (
        word_times([f"have {word} cats"], logits[None], lengths, 0.02) for word in ("twenty", written)
    )
    for want, word in zip(wanted, words, strict=True):
        assert word.start == pytest.approx(want.start, abs=0.08) and word.end == pytest.approx(want.end, abs=0.08)


def test_a_word_of_another_script_that_nobody_says_stays_between_its_neighbours() -> None:
    logits = says("so is")
    (words,) = word_times(["so 東京 is 東"], logits[None], torch.tensor([len(logits)]), 0.02)
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times) and times[-1] <= len(logits) * 0.02


def test_punctuation_is_silent() -> None:
    logits = says("so it is")
    lengths = torch.tensor([len(logits)])
    (plain,), (marked,) = (word_times([text], logits[None], lengths, 0.02) for text in ("so it is", "«So, it is...»"))
    assert [(word.start, word.end) for word in plain] == [(word.start, word.end) for word in marked]
    (words,) = word_times(["so - it is"], logits[None], lengths, 0.02)
    assert words[0].end <= words[1].start <= words[1].end <= words[2].start


def test_times_worked_out_later_are_those_that_are_asked_for() -> None:
    logits = torch.cat((says("so it is"), says(" no 2"))).clamp(min=-4.0)
    (words,) = word_times(["So it is, no 2!"], logits[None], torch.tensor([len(logits)]), 0.02)
    timing = LazyWordTimes("So it is, no 2!", logits, 0.02)
    assert timing.log_probs.shape[1] < 12, "it holds more than its own letters"
    assert timing() == tuple(words) == timing() and pickle.loads(pickle.dumps(timing))() == tuple(words)
    assert LazyWordTimes("is, no 2!", logits, 0.02, before="So it")() == tuple(words[2:])
    assert timing.log_probs.numel() == 0, "it holds posteriors that nobody needs any more"


def test_a_text_that_is_not_what_is_heard_is_told() -> None:
    logits = says("so it is no more than that")
    lengths = torch.tensor([len(logits)])
    for text, expected in (("so it was no more than that", False), ("where were you when they all went home", True)):
        ((_, score),) = scored_word_times([text], logits[None], lengths, 0.02)
        assert bool(timing_notices(text, score)) is expected
    assert not timing_notices("", -math.inf) and timing_notices("a", -math.inf)


def test_what_nobody_said_has_no_times() -> None:
    logits = says("so it is no more than that")
    assert LazyWordTimes("where were you when they all went home", logits, 0.02)() == ()
    assert LazyWordTimes("so it is no more than that " * 20, logits, 0.02)() == ()  # more letters than frames
    assert LazyWordTimes("", logits, 0.02)() == ()


def test_scripts_without_spaces_are_timed_by_character() -> None:
    assert LazyWordTimes("今日は Redline です", says("so it is"), 0.02).names == [*"今日は", "Redline", *"です"]
    logits = torch.full((60, 348), -8.0)
    logits[:, 0] = 0.0
    for at, char in enumerate("トウキョウ"):
        logits[10 * at + 5, 256 + ord(char) - 0x30A1] = 8.0
    words = LazyWordTimes("とうきょう", logits, 0.02)()
    assert [word.text for word in words] == list("とうきょう")
    assert [round(word.start / 0.02) for word in words] == [5, 15, 25, 35, 45]


def test_a_text_that_does_not_fit_shares_its_clip() -> None:
    (words,) = word_times(["several words that are far too long"], says("a")[None], torch.tensor([4]), 0.02)
    assert " ".join(word.text for word in words) == "several words that are far too long"
    assert words[0].start == 0 and words[-1].end == 0.08


@pytest.mark.parametrize("text", ["", "  ", "東"])
def test_nothing_to_align_is_no_error(text: str) -> None:
    (words,) = word_times([text], says("a")[None], torch.tensor([6]), 0.02)
    assert " ".join(word.text for word in words) == text.strip()


def test_katakana_has_rows_of_its_own_in_the_published_head() -> None:
    assert spell("ア", 348) == spell("あ", 348) == [256 + ord("ア") - 0x30A1] and spell("ア", 256) == [256]
    assert spell("Ä", 348) == [ord("ä")] and spell("Ä", 128) == [ord("a")]


def test_times_are_shared_by_characters() -> None:
    assert share(["a", "bcd"], 1.0, 3.0) == [Word(1.0, 1.5, "a"), Word(1.5, 3.0, "bcd")]
    assert share([], 0.0, 1.0) == []
