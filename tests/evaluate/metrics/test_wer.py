"""Word error rates of groups of utterances: normalisation, drafts, sources."""

from __future__ import annotations

import pytest

from redline.evaluate.metrics.wer import ALL_HUMAN, describe_wer, error_count, wer_report, wer_reports
from tests.evaluate.results import result


def test_a_rate_without_a_reference_is_no_number() -> None:
    report = wer_report("s", [result("", "ghost words")])
    assert report["edited"]["wer"] is None, "infinity is no JSON"
    assert describe_wer(report["edited"]) == "-"


def test_normalisation_makes_spelling_and_case_free() -> None:
    report = wer_report("s", [result("MISTER QUILTER'S COLOUR IS TWENTY ONE", "Mr. Quilter's color is 21.")])
    assert error_count(report["edited"]) == 0
    german = wer_report("s", [result("Für Ärzte", "für ärzte!", language="de")])
    assert (error_count(german["edited"]), german["edited"]["words"]) == (0, 2)


def test_rate_weighs_words_not_utterances() -> None:
    report = wer_report("s", [result("a b c d e f g h i", "a b c d e f g h i"), result("x", "y")])
    assert report["edited"]["wer"] == pytest.approx(1 / 10)


def test_relative_reduction_is_of_the_drafts_errors() -> None:
    def reduction(reference: str, edited: str, draft: str | None) -> float | None:
        numbers: float | None = wer_report("s", [result(reference, edited, draft)])["relative_reduction"]
        return numbers

    assert reduction("a b c d", "a b c x", "a b x y") == 0.5
    assert reduction("a b c d", "a x y z", "a b c x") == -2.0
    assert reduction("a", "a", "a") is None, "nothing to reduce"
    assert reduction("a", "a", None) is None, "no draft"


def test_the_draft_of_an_answer_without_text_is_empty() -> None:
    results = [result("a b", "a b", "a c"), result("c", "")]
    assert error_count(wer_report("s", results)["draft"]) == 2
    assert wer_report("s", [*results, result("c", "c")])["draft"] is None, "one answer with a text has no draft"


def test_synthetic_speech_is_scored_apart() -> None:
    results = [result("a b", "a b", source="x"), result("a b", "a c", source="y"), result("a", "z", source="synthetic")]
    reports = {report["group"]: report for report in wer_reports(results)}
    assert list(reports) == ["synthetic", "x", "y", ALL_HUMAN]
    assert reports[ALL_HUMAN]["utterances"] == 2
    assert (error_count(reports[ALL_HUMAN]["edited"]), reports[ALL_HUMAN]["edited"]["words"]) == (1, 4)


def test_one_source_needs_no_sum() -> None:
    assert [report["group"] for report in wer_reports([result("a", "a"), result("b", "b")])] == ["s"]
