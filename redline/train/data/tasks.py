"""What an AR or Plus model is asked about an utterance, and what it should answer.

A task is drawn for every utterance of a batch; whether it can be asked at all is told by the fields of the manifest
(`words`, `turns`, `keywords`, `target_text`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from redline.decoding import tags
from redline.errors import ConfigError, DataError
from redline.manifest import Utterance
from redline.models.config import ArKind
from redline.prompts import PromptRequest
from redline.types import Turn, Word, listed

TASKS = ("transcribe", "keywords", "words", "speakers", "translate")


@dataclass(frozen=True)
class TaskOptions:
    """How often each task is asked where it can be, and what its prompts hold."""

    transcribe: float = 0.4
    keywords: float = 0.2
    words: float = 0.2
    speakers: float = 0.2
    translate: float = 1.0
    """Of utterances with a `target_text`; they are asked for nothing else."""
    rare_count: int = 20
    """A word of the text is a keyword when it occurs at most so often in all texts."""
    rare_letters: int = 5
    """And has at least so many letters."""
    most_keywords: int = 3
    """Keywords of a prompt that are said."""
    most_distractors: int = 6
    """Keywords of a prompt that are not."""
    tick_s: float = 0.04
    """Times are rounded to this before they are written: a small model needs few different tags."""
    min_silence_s: float = 0.12
    """Shorter silences are given to the word after them."""

    def __post_init__(self) -> None:
        if min(self.transcribe, self.keywords, self.words, self.speakers, self.translate) < 0:
            raise ConfigError("the shares of tasks are 0 (never) and above")
        if self.tick_s <= 0 or abs(round(self.tick_s * 100) - self.tick_s * 100) > 1e-9:
            raise ConfigError(f"tick_s is {self.tick_s}; allowed are whole centiseconds, such as 0.01 or 0.04")


@dataclass(frozen=True)
class Answer:
    """What is known about an utterance; times are seconds from its start."""

    text: str
    words: tuple[Word, ...] = ()
    turns: tuple[Turn, ...] = ()
    keywords: tuple[str, ...] = ()
    task: str = ""
    """The one task that is asked for; empty: any that the other fields allow."""
    duration: float = 0.0
    language: str = ""
    target_text: str = ""
    target_language: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "keywords", listed(self.keywords))

    def scaled(self, factor: float) -> Answer:
        """As it is heard when it is played slower by `factor`."""
        words = tuple(replace(word, start=word.start * factor, end=word.end * factor) for word in self.words)
        return replace(self, words=words)


class Asker:
    """Draws requests and their answers; it knows which words are rare."""

    def __init__(self, texts: Iterable[str], options: TaskOptions, kind: ArKind = "granite_speech_plus") -> None:
        """`kind` is the model's: 2B writes no tags, and only 2B translates."""
        self.options = options
        self.kind = kind
        counts = Counter(word for text in texts for word in text.split())
        self.rare = frozenset(
            word for word, count in counts.items() if count <= options.rare_count and len(word) >= options.rare_letters
        )
        self._distractors = sorted(self.rare)

    def tasks_of(self, said: Answer) -> dict[str, float]:
        """The tasks that can be asked about an utterance, and how often each is; empty where none ever is."""
        options, plus = self.options, self.kind == "granite_speech_plus"
        if said.task:
            return {said.task: 1.0}
        if said.target_text:
            shares = {"translate": options.translate}
        elif said.turns and plus:  # a dialogue's text alone would not tell who says it
            shares = {"speakers": options.speakers}
        else:
            shares = {"transcribe": options.transcribe}
            if said.keywords or self._distractors:
                shares["keywords"] = options.keywords
            if said.words and plus:
                shares["words"] = options.words
        return {task: share for task, share in shares.items() if share}

    def ask(self, task: str, said: Answer, draw: random.Random) -> tuple[PromptRequest, str]:
        """A request and the answer to it."""
        if task == "keywords":
            return PromptRequest(language=said.language or None, keywords=self.keywords(said, draw)), said.text
        if task == "words":
            return PromptRequest(words=True), self.with_times(said.words)
        if task == "speakers":
            return PromptRequest(speakers=True), tags.render_turns(said.turns)
        if task == "translate":
            request = PromptRequest("translate", said.language or None, said.target_language, punctuated=True)
            return request, said.target_text
        # 2B has an instruction for text with capitals and marks, and one for words alone.
        bare = said.text == said.text.lower() and all(char.isalnum() or char in " '" for char in said.text)
        return PromptRequest(language=said.language or None, punctuated=False if bare else None), said.text

    def keywords(self, said: Answer, draw: random.Random) -> tuple[str, ...]:
        """Some rare words of the text, or the manifest's own keywords, among others that are not said."""
        own = sorted(said.keywords or {word for word in said.text.split() if word in self.rare})
        true = draw.sample(own, min(len(own), draw.randint(0, self.options.most_keywords)))
        least = 0 if true else 1
        spoken = set(said.text.split())
        count = min(len(self._distractors), draw.randint(least, self.options.most_distractors))
        others = draw.sample(self._distractors, count)
        mixed = [*true, *(word for word in others if word not in spoken)]
        draw.shuffle(mixed)
        return tuple(mixed)

    def with_times(self, words: Sequence[Word]) -> str:
        """Words with time tags on the grid of `tick_s`, none of them overlapping."""
        tick, now, placed = self.options.tick_s, 0.0, []
        for word in words:
            start = max(now, round(word.start / tick) * tick)
            end = max(start, round(word.end / tick) * tick)
            if start - now < self.options.min_silence_s:
                start = now
            placed.append(Word(round(start, 2), round(end, 2), word.text))
            now = end
        return tags.render_words(placed, min_silence_s=self.options.min_silence_s)


def said_of(row: Utterance) -> Answer:
    """What a row of a manifest tells, as it is written there; raises `DataError` for a task that is none."""
    if row.task and row.task not in TASKS:
        raise DataError(f"{row.id}: task is {row.task!r}; allowed are {', '.join(TASKS)}")
    needed = {"words": row.words, "speakers": row.turns, "translate": row.target_text}
    if row.task in needed and not needed[row.task]:
        field = {"words": "words", "speakers": "turns", "translate": "target_text"}[row.task]
        raise DataError(f"{row.id}: task is {row.task!r}, but there are no {field}; give them, or leave the task out")
    if row.target_text and not row.target_language:
        raise DataError(f"{row.id}: target_text without target_language; say which language it is in")
    timed = " ".join(word.text for word in row.words) == " ".join(row.text.split())
    return Answer(
        " ".join(row.text.split()),
        row.words if timed else (),
        row.turns,
        row.keywords,
        row.task,
        row.duration,
        row.language,
        row.target_text,
        row.target_language,
    )


def tags_of(tick_s: float, speakers: int = 4) -> list[str]:
    """The tags that answers hold, each of which a small tokenizer keeps as one token."""
    step = round(tick_s * 100)
    times = [f"[T:{time}]" for time in range(0, tags.ROLLOVER, step)]
    return [*times, *(f"[Speaker {number}]:" for number in range(1, speakers + 1))]
