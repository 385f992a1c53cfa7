"""cpWER: speakers are paired as suits the answer best, and what a model does not say is told, not scored."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redline.errors import DataError, RedlineError
from redline.evaluate.metrics import cpwer
from redline.evaluate.metrics.cpwer import cpwer_counts, describe_cpwer, is_meeteval_installed, score_cpwer
from redline.evaluate.metrics.wer import error_count
from redline.evaluate.result import Result
from redline.types import Task, Turn
from tests.evaluate.results import SPEAKERS, best_pairing, result


def answer(reference: Sequence[Turn], turns: Sequence[Turn], text: str | None = None, task: Task = Task()) -> Result:  # noqa: B008
    edited = " ".join(turn.text for turn in turns) if text is None else text
    spoken = " ".join(turn.text for turn in reference)
    return result(spoken, edited, turns=tuple(reference), answer_turns=tuple(turns), task=task)


def score(*results: Result) -> dict[str, Any]:
    numbers = score_cpwer(results)
    assert numbers is not None
    return numbers


def errors(numbers: dict[str, Any]) -> tuple[int, ...]:
    return tuple(numbers[key] for key in ("insertions", "deletions", "substitutions", "words"))


def test_names_of_speakers_and_cuts_of_turns_make_no_difference(meeteval: None) -> None:
    turns = (Turn("2", 0, 1, "good"), Turn("2", 0, 1, "MORNING, well"), Turn("1", 1, 2, "good evening"))
    numbers = score(answer(SPEAKERS, turns))
    assert errors(numbers) == (0, 0, 0, 5)
    assert [numbers[key] for key in ("utterances", "speakers", "missed", "invented")] == [1, 2, 0, 0]


def test_a_word_given_to_the_wrong_speaker_counts_twice(meeteval: None) -> None:
    turns = (Turn("1", 0, 1, "good morning well evening"), Turn("2", 1, 2, "good"))
    assert errors(score(answer(SPEAKERS, turns))) == (1, 1, 0, 5)
    alone = score(answer(SPEAKERS, (Turn("1", 0, 3, "good morning well good evening"),)))
    assert errors(alone) == (2, 2, 0, 5) and alone["missed"] == 1


def test_reference_turns_are_put_in_order_of_time(meeteval: None) -> None:
    turns = (Turn("1", 0, 1, "good morning well"), Turn("2", 1, 2, "good evening"))
    assert error_count(score(answer(SPEAKERS[::-1], turns))) == 0


def test_a_model_that_names_nobody_gets_no_number() -> None:
    numbers = score(answer(SPEAKERS, (), "good morning good evening well"), answer(SPEAKERS, (), ""))
    assert describe_cpwer(numbers) == "no number: 2 references name speakers, but the model names none"
    assert numbers["cpwer"] is None
    assert score_cpwer([answer((), ())]) is None, "no reference names speakers"


def test_an_empty_answer_loses_its_words_where_others_name_speakers(meeteval: None) -> None:
    good = (Turn("1", 0, 1, "good morning well"), Turn("2", 1, 2, "good evening"))
    numbers = score(answer(SPEAKERS, good), answer(SPEAKERS, (), ""), answer(SPEAKERS, (), "good morning"))
    assert errors(numbers) == (0, 5, 0, 10)
    assert (numbers["utterances"], numbers["left_out"]) == (2, 1)
    assert describe_cpwer(numbers).startswith("50.00 % (5 errors in 10 words of 4 speakers in 2 utterances")
    assert describe_cpwer(numbers).endswith("; 1 answers without speakers left out")


def test_an_answer_that_names_nobody_though_asked_is_one_speakers(meeteval: None) -> None:
    both = (Turn("ann", 0, 1, "good morning"), Turn("bob", 1, 2, "good evening"))
    good = answer(both, both, task=Task(speakers=True))
    numbers = score(good, answer(both, (), "good morning good evening", Task(speakers=True)))
    assert [numbers[key] for key in ("utterances", "untagged", "left_out", "missed")] == [2, 1, 0, 1]
    assert errors(numbers) == (2, 2, 0, 8) and describe_cpwer(numbers).endswith("; 1 answers name nobody")
    left = score(good, answer(both, (), "good morning good evening"))
    assert (left["untagged"], left["left_out"]) == (0, 1), "nobody asked it"


def test_a_missing_package_and_too_many_speakers_are_told(monkeypatch: pytest.MonkeyPatch, meeteval: None) -> None:
    crowd = tuple(Turn(str(number), 0, 1, "yes") for number in range(7))
    with pytest.raises(DataError, match=r"u: 7 speakers in the reference and 1 in the answer .*Are you sure"):
        score(answer(crowd, (Turn("1", 0, 1, "yes"),)))
    assert is_meeteval_installed()
    monkeypatch.setitem(sys.modules, "meeteval", None)
    monkeypatch.delitem(sys.modules, "meeteval.wer")
    assert not is_meeteval_installed() and "redline[speakers]" in cpwer.MISSING_MEETEVAL
    with pytest.raises(RedlineError, match=r"pip install 'redline\[speakers\]'"):
        score(answer(SPEAKERS, (Turn("1", 0, 1, "yes"),)))


TEXTS = st.dictionaries(st.sampled_from("pqr"), st.lists(st.sampled_from("ab"), min_size=1, max_size=4).map(" ".join))


@pytest.mark.extras
@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_meeteval_counts_what_trying_every_pairing_counts(reference: dict[str, str], texts: dict[str, str]) -> None:
    sides = [tuple(Turn(who, 0, 1, text) for who, text in side.items()) for side in (reference, texts)]
    numbers = cpwer_counts(*sides, language="xx")
    expected = best_pairing(reference, texts, False, False)
    assert (error_count(numbers), numbers["words"]) == (expected.errors, expected.length)
    assert (numbers["missed"], numbers["invented"]) == (expected.missed_speaker, expected.falarm_speaker)


@pytest.mark.extras
def test_meeteval_refuses_a_crowd_with_an_error_for_people() -> None:
    crowd = tuple(Turn(str(number), 0, 1, "yes") for number in range(21))
    with pytest.raises(DataError, match=r"21 speakers in the reference and 21 in the answer are too many .*cut"):
        score(answer(crowd, crowd))
