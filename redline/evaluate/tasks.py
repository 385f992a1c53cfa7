"""What is asked of a model beside the text: who speaks, when each word is said, and keywords in the prompt."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from redline.errors import ConfigError, DataError
from redline.evaluate.keywords import longest, normal, phrases
from redline.evaluate.run import task_of
from redline.manifest import Utterance
from redline.types import Recognizer, Task


@dataclass(frozen=True)
class TaskOptions:
    """What every utterance is asked for; raises `ConfigError` for what cannot be together."""

    speakers: bool = False
    words: bool = False
    """When each word is said."""
    keywords: bool = False
    """Each prompt holds the utterance's own keywords."""
    distractors: int = 0
    """Keywords of other utterances that each prompt holds too, none of them said in its own."""
    seed: int = 0
    """Which distractors are drawn, and in which order keywords stand among them."""

    def __post_init__(self) -> None:
        if self.distractors < 0 or (self.distractors and not self.keywords):
            raise ConfigError(
                f"distractors is {self.distractors}; allowed are 0 and more, and more only where keywords are asked for"
            )


def tasks(utterances: Sequence[Utterance], options: TaskOptions) -> list[Task]:
    """What is asked about each utterance, in order.

    Raises `DataError` when keywords are wanted and no utterance has any.
    """
    plain = [replace(task_of(one), speakers=options.speakers, words=options.words) for one in utterances]
    if not options.keywords:
        return plain
    if not any(one.keywords for one in utterances):
        raise DataError(
            "no row has keywords to ask for; in a manifest they are a list, such as "
            '"keywords": ["Quilter"], and scripts/rare_keywords.py makes them of rare words'
        )
    pools: dict[str, dict[str, str]] = {}
    for one, task in zip(utterances, plain, strict=True):
        language = task.language or ""
        pools.setdefault(language, {}).update((normal(key, language), key) for key in one.keywords)
    drawn = {
        language: {word: key for word, key in sorted(pool.items()) if word} if options.distractors else {}
        for language, pool in pools.items()
    }
    return [
        replace(task, keywords=_prompted(one, drawn[task.language or ""], task.language or "", options))
        for one, task in zip(utterances, plain, strict=True)
    ]


def _prompted(one: Utterance, pool: Mapping[str, str], language: str, options: TaskOptions) -> tuple[str, ...]:
    """The keywords of one prompt; distractors are drawn from `pool`, which has them by their normalised words."""
    own = own_keywords(one)
    if not options.distractors:
        return own
    said = phrases(one.text, language, longest(pool)) | {normal(key, language) for key in own}
    others = [key for word, key in pool.items() if word not in said]
    draw = random.Random(f"{options.seed} {one.id}")  # of its own, so that leaving out rows changes no order
    mixed = [*own, *draw.sample(others, min(options.distractors, len(others)))]
    draw.shuffle(mixed)  # the place in the list must not tell which are said
    return tuple(mixed)


def own_keywords(utterance: Utterance) -> tuple[str, ...]:
    """The keywords of an utterance as a prompt holds them, each once."""
    return tuple(dict.fromkeys(key.strip() for key in utterance.keywords))


def short(asked: Sequence[Task], utterances: Sequence[Utterance], options: TaskOptions) -> int:
    """Prompts with fewer distractors than were wanted, because there are no more."""
    return (
        0
        if not options.distractors
        else sum(
            len(task.keywords) - len(own_keywords(one)) < options.distractors
            for task, one in zip(asked, utterances, strict=True)
        )
    )


def check(recognizer: Recognizer, asked: Iterable[Task]) -> None:
    """Raises `UnsupportedTaskError` before hours of work, where a model cannot do what one of the tasks asks."""
    for task in dict.fromkeys(asked):
        if task != Task(language=task.language):
            recognizer.limits(task)


def describe(asked: Sequence[Task], utterances: Sequence[Utterance]) -> str:
    """What is asked for beside the text, in a line; empty where it is nothing."""
    parts = [name for name, wanted in (("speakers", "speakers"), ("word times", "words")) if _any(asked, wanted)]
    if _any(asked, "keywords"):
        own = sum(len(own_keywords(one)) for one in utterances)
        others = sum(len(task.keywords) for task in asked) - own
        line = f"{own / len(asked):.1f} keywords a prompt"
        parts.append(line + (f" and {others / len(asked):.1f} that are not said" if others else ""))
    return ", ".join(parts)


def _any(asked: Iterable[Task], wanted: str) -> bool:
    return any(getattr(task, wanted) for task in asked)
