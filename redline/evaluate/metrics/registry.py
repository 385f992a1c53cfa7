"""What is measured beside the word error rate, where references and answers allow it.

To add a metric: a file with a function that scores results and one that puts its numbers into words, and a line in
`METRICS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from redline.errors import RedlineError
from redline.evaluate.metrics.cpwer import describe_cpwer, score_cpwer
from redline.evaluate.metrics.keywords import describe_keywords, score_keywords
from redline.evaluate.metrics.language_id import describe_language_id, score_language_id
from redline.evaluate.metrics.punctuation import describe_punctuation, score_punctuation
from redline.evaluate.metrics.tags import describe_tags, score_tags
from redline.evaluate.metrics.word_confidence import describe_word_confidence, score_word_confidence
from redline.evaluate.metrics.word_times import describe_word_times, score_word_times
from redline.evaluate.result import SYNTHETIC, Result


@dataclass(frozen=True)
class Metric:
    """A way to measure the results of a run."""

    name: str  # in front of its line, in the terminal and on the page
    key: str  # of its numbers in the JSON report
    score: Callable[[Sequence[Result]], dict[str, Any] | None]  # the numbers, JSON-ready; None where there are none
    describe: Callable[[dict[str, Any]], str]  # the numbers in a line


METRICS = (
    Metric("cpWER", "speakers", score_cpwer, describe_cpwer),
    Metric("word times", "word_times", score_word_times, describe_word_times),
    Metric("word confidence", "word_confidence", score_word_confidence, describe_word_confidence),
    Metric("tags", "tags", score_tags, describe_tags),
    Metric("keywords", "keywords", score_keywords, describe_keywords),
    Metric("written form", "written", score_punctuation, describe_punctuation),
    Metric("languages", "languages", score_language_id, describe_language_id),
)


def scores(results: Sequence[Result], metrics: Sequence[Metric] = METRICS) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The name of each metric, its line, and its numbers by their key; synthetic voices apart from human ones."""
    for suffix in ("", SYNTHETIC):
        group = [result for result in results if (result.source == SYNTHETIC) == bool(suffix)]
        for metric in metrics:
            name, key = (f"{metric.name}, {suffix}", f"{metric.key}_{suffix}") if suffix else (metric.name, metric.key)
            try:
                numbers = metric.score(group)
            except RedlineError as error:  # after hours of recognition, what could be counted is not thrown away
                yield name, str(error), {key: None}
                continue
            if numbers is not None:
                yield name, metric.describe(numbers), {key: numbers}
