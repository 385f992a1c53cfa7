"""Keywords: recognized as whole words, false alarms counted, systems compared in pairs."""

from __future__ import annotations

from typing import Any

from redline.evaluate.metrics.keywords import (
    KEYWORD_COUNTS,
    compare_keywords,
    describe_keywords,
    keyword_rates,
    score_keywords,
)
from redline.evaluate.result import Result
from redline.types import Task
from tests.evaluate.results import prompted, result


def item(reference: str, edited: str, *keywords: str, task: Task = Task(), language: str = "en") -> Result:  # noqa: B008
    return result(reference, edited, keywords=keywords, task=task, language=language)


def score(*results: Result) -> dict[str, Any]:
    numbers = score_keywords(results)
    assert numbers is not None
    return numbers


def rates(**counts: int) -> dict[str, Any]:
    return keyword_rates([dict.fromkeys(KEYWORD_COUNTS, 0) | counts])


def test_keywords_are_found_as_whole_words_and_false_alarms_count() -> None:
    numbers = score(
        item("a flat white please", "a flat white please", "flat white"),
        item("one latte", "one flat white", "latte"),
        item("flatness", "flatness"),
    )
    assert numbers == rates(hits=1, misses=1, false_alarms=1)
    assert numbers["f1"] == 0.5
    assert score_keywords([item("a", "a")]) is None


def test_keywords_are_normalised_like_texts() -> None:
    german = item("Gute Äpfel!", "gute äpfel", "Äpfel!", language="de")
    assert score(german, item("the colour", "the color", "Colour")) == rates(hits=2)


def test_a_keyword_of_one_row_is_looked_for_in_all() -> None:
    numbers = score(item("quilter", "quilter", "Quilter"), item("mister quilter", "mister quilt"))
    assert numbers == rates(hits=1, misses=1)


def test_distractors_that_are_recognized_are_false_alarms() -> None:
    task = prompted("Ruggedo", "Brion", "Kaliko", "Quilter")
    numbers = score(item("mister quilter", "mister ruggedo kaliko", "Quilter", task=task))
    assert numbers == rates(misses=1, false_alarms=2, distractors=3, distractors_heard=2)
    assert describe_keywords(numbers).endswith("; 2 of 3 distractors heard")
    assert "distractors" not in describe_keywords(rates(hits=1)) and numbers["recall"] == 0.0


def test_a_result_knows_which_keywords_of_its_prompt_are_not_its_own() -> None:
    assert item("a", "a", "own", task=prompted("other", "own")).distractors == ("other",)


def test_recall_is_compared_in_pairs() -> None:
    before = [item("ask quilter", "ask quilt", "Quilter"), item("and brion", "and brion", "Brion")] * 20
    after = [item("ask quilter", "ask quilter", "Quilter"), item("and brion", "and brion", "Brion")] * 20
    numbers, nothing, same = (compare_keywords(*pair) for pair in ((before, after), (after, after), (before, before)))
    assert numbers is not None and nothing is not None and same is not None
    low, high = numbers["recall_interval"]
    assert numbers["recall_difference"] == 0.5 and 0 < low < 0.5 < high < 1
    assert numbers["text"].startswith("keyword recall 50.0 -> 100.0 %, +50.0 points (95 % from +")
    assert numbers["significant"] is True and "-0.0" not in nothing["text"]
    assert same["recall_difference"] == 0.0 and "not significant" in same["text"]
    assert compare_keywords([item("a", "a")], [item("a", "b")]) is None
