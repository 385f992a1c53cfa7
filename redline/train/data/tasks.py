"""Tasks of AR and Plus models: what is asked about an utterance, and the answer that is taught.

A task is drawn for every utterance of a batch; whether it can be asked at all depends on the fields of the manifest
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
from redline.train.loop.optim import check_ranges
from redline.types import Word

FIELDS = {"transcribe": "text", "keywords": "text", "words": "words", "speakers": "turns", "translate": "target_text"}
"""The tasks, and what a row needs for each."""


@dataclass(frozen=True)
class TaskOptions:
    """How often each task is asked where it can be, and what its prompts hold."""

    transcribe: float = 0.4
    keywords: float = 0.2
    words: float = 0.2
    speakers: float = 0.2
    translate: float = 1.0  # of utterances with a `target_text`; they are asked for nothing else
    rare_count: int = 20  # a word of the text is a keyword when it occurs at most so often in all texts
    rare_letters: int = 5  # and has at least so many letters
    most_keywords: int = 3  # keywords of a prompt that are spoken
    most_distractors: int = 6  # keywords of a prompt that are not
    tick_s: float = 0.04  # times are rounded to this before they are written: a small model needs few different tags
    min_silence_s: float = 0.12  # shorter silences are given to the word after them

    def __post_init__(self) -> None:
        check_ranges(self, "transcribe keywords words speakers translate", 0)
        if self.tick_s <= 0 or abs(round(self.tick_s * 100) - self.tick_s * 100) > 1e-9:
            raise ConfigError(f"tick_s is {self.tick_s}; allowed are whole centiseconds, such as 0.01 or 0.04")


class Asker:
    """Draws requests and their answers; it knows which words are rare."""

    def __init__(self, texts: Iterable[str], options: TaskOptions, kind: ArKind = "granite_speech_plus") -> None:
        """`kind` is the model's: 2B writes no tags, and only 2B translates."""
        self.options = options
        self.kind = kind
        counts = Counter(word for text in texts for word in text.split())
        rare = {word for word, n in counts.items() if n <= options.rare_count and len(word) >= options.rare_letters}
        self.rare = sorted(rare)

    def tasks_of(self, row: Utterance) -> dict[str, float]:
        """The tasks that can be asked about an utterance, and how often each is; empty where none ever is."""
        options, plus = self.options, self.kind == "granite_speech_plus"
        if row.task:
            return {row.task: 1.0}
        if row.target_text:
            shares = {"translate": options.translate}
        elif row.turns and plus:  # a dialogue's text alone would not tell who says it
            shares = {"speakers": options.speakers}
        else:
            shares = {"transcribe": options.transcribe}
            if row.keywords or self.rare:
                shares["keywords"] = options.keywords
            if row.words and plus:
                shares["words"] = options.words
        return {task: share for task, share in shares.items() if share}

    def ask(self, task: str, row: Utterance, draw: random.Random) -> tuple[PromptRequest, str]:
        """A request about an utterance and the answer to it."""
        language = row.language or None
        if task == "keywords":
            return PromptRequest(language=language, keywords=self.keywords(row, draw)), row.text
        if task == "words":
            return PromptRequest(words=True), self.with_times(row.words)
        if task == "speakers":
            return PromptRequest(speakers=True), tags.render_turns(row.turns)
        if task == "translate":
            return PromptRequest("translate", language, row.target_language, punctuated=True), row.target_text
        # 2B has an instruction for text with capitals and marks, and one for words alone.
        bare = row.text == row.text.lower() and all(char.isalnum() or char in " '" for char in row.text)
        return PromptRequest(language=language, punctuated=False if bare else None), row.text

    def keywords(self, row: Utterance, draw: random.Random) -> tuple[str, ...]:
        """Some rare words of the text, or the manifest's own keywords, among distractors that are not spoken."""
        spoken = set(row.text.split())
        own = sorted(row.keywords or spoken.intersection(self.rare))
        true = draw.sample(own, min(len(own), draw.randint(0, self.options.most_keywords)))
        count = min(len(self.rare), draw.randint(0 if true else 1, self.options.most_distractors))
        mixed = [*true, *(word for word in draw.sample(self.rare, count) if word not in spoken)]
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


def answer_of(row: Utterance) -> Utterance:
    """A row as answers are made of it: with word times only where they are of its text; raises `DataError`."""
    if row.task and row.task not in FIELDS:
        raise DataError(f"{row.id}: task is {row.task!r}; allowed are {', '.join(FIELDS)}")
    if row.task and not getattr(row, FIELDS[row.task]):
        raise DataError(f"{row.id}: task is {row.task!r}, but there are no {FIELDS[row.task]}; give them, or no task")
    if row.target_text and not row.target_language:
        raise DataError(f"{row.id}: target_text without target_language; say which language it is in")
    text = " ".join(row.text.split())
    return replace(row, text=text, words=row.words if " ".join(word.text for word in row.words) == text else ())


def slower(row: Utterance, factor: float) -> Utterance:
    """An utterance with the word times of a rendering that lasts `factor` times as long."""
    return replace(
        row, words=tuple(replace(word, start=word.start * factor, end=word.end * factor) for word in row.words)
    )
