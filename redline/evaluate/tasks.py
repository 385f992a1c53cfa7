"""What every utterance of a data set is asked for beside its text: speakers, word times, keywords in the prompt."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from redline.errors import ConfigError, DataError
from redline.evaluate.metrics.keywords import longest_keyword, normalised_keyword, phrases
from redline.evaluate.run import task_of
from redline.manifest import Utterance
from redline.types import Task


@dataclass(frozen=True)
class EvaluationOptions:
    """What every utterance is asked for; raises `ConfigError` for what cannot be together."""

    speakers: bool = False
    words: bool = False  # when each word is said
    keywords: bool = False  # each prompt holds the utterance's own keywords
    distractors: int = 0  # keywords of other utterances that each prompt holds too, none of them said in its own
    seed: int = 0  # which distractors are drawn, and in which order keywords stand among them

    def __post_init__(self) -> None:
        if self.distractors < 0 or (self.distractors and not self.keywords):
            raise ConfigError(
                f"distractors is {self.distractors}; allowed are 0 and more, and more only where keywords are asked for"
            )


def tasks_of(utterances: Sequence[Utterance], options: EvaluationOptions) -> list[Task]:
    """The task of each utterance, in order; raises `DataError` when keywords are wanted and no utterance has any."""
    plain = [replace(task_of(row), speakers=options.speakers, words=options.words) for row in utterances]
    if not options.keywords:
        return plain
    if not any(row.keywords for row in utterances):
        raise DataError(
            "no row has keywords to ask for; in a manifest they are a list, such as "
            '"keywords": ["Quilter"], and scripts/rare_keywords.py makes them of rare words'
        )
    pools: dict[str | None, dict[str, str]] = defaultdict(dict)  # of each language, by their normalised words
    for row, task in zip(utterances, plain, strict=True):
        pools[task.language].update((normalised_keyword(key, task.language or ""), key) for key in row.keywords)
    pools = {language: dict(sorted(pool.items())) for language, pool in pools.items()}
    return [
        replace(task, keywords=_prompt_keywords(row, task.language or "", pools[task.language], options))
        for row, task in zip(utterances, plain, strict=True)
    ]


def _prompt_keywords(
    utterance: Utterance, language: str, pool: Mapping[str, str], options: EvaluationOptions
) -> tuple[str, ...]:
    own = utterance.keywords
    if not options.distractors:
        return own
    spoken = phrases(utterance.text, language, longest_keyword(pool)) | {normalised_keyword(k, language) for k in own}
    others = [keyword for words, keyword in pool.items() if words and words not in spoken]
    draw = random.Random(f"{options.seed} {utterance.id}")  # of its own, so that leaving out rows changes no order
    mixed = [*own, *draw.sample(others, min(options.distractors, len(others)))]
    draw.shuffle(mixed)  # the place in the list must not tell which are said
    return tuple(mixed)


def count_short_prompts(tasks: Sequence[Task], utterances: Sequence[Utterance], options: EvaluationOptions) -> int:
    """Prompts with fewer distractors than were wanted, because there are no more."""
    distractors = [len(task.keywords) - len(row.keywords) for task, row in zip(tasks, utterances, strict=True)]
    return sum(0 <= count < options.distractors for count in distractors)


def describe_tasks(tasks: Sequence[Task], utterances: Sequence[Utterance]) -> str:
    """What is asked for beside the text, in a line; empty where it is nothing."""
    parts = ["speakers"] if any(task.speakers for task in tasks) else []
    parts += ["word times"] if any(task.words for task in tasks) else []
    if prompted := sum(len(task.keywords) for task in tasks):
        own = sum(len(row.keywords) for row in utterances)
        line = f"{own / len(tasks):.1f} keywords a prompt"
        parts.append(line + (f" and {(prompted - own) / len(tasks):.1f} that are not said" if prompted > own else ""))
    return ", ".join(parts)
