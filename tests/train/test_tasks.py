"""Tasks: what is asked about an utterance, and the answers that are taught."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from redline.decoding import tags
from redline.errors import DataError
from redline.manifest import Utterance, read_manifest
from redline.train.data.tasks import Asker, TaskOptions, answer_of, slower
from redline.types import Turn, Word

TEXTS = ["the zebra sat", "a giraffe ran to the house", "the zebra and the house", "the house"]
WORDS = (Word(0.31, 0.52, "the"), Word(0.55, 0.98, "zebra"), Word(1.6, 2.03, "sat"))


def row(text: str, **fields: Any) -> Utterance:
    return Utterance("", Path(), text, 0.0, **fields)


def test_what_can_be_asked_is_told_by_the_manifest() -> None:
    asker = Asker(TEXTS, TaskOptions(rare_count=2, rare_letters=4))
    assert asker.rare == ["giraffe", "zebra"]
    assert set(asker.tasks_of(row("the zebra sat"))) == {"transcribe", "keywords"}
    assert set(asker.tasks_of(row("the zebra sat", words=WORDS))) == {"transcribe", "keywords", "words"}
    assert set(asker.tasks_of(row("a b", turns=(Turn("1", 0, 1, "a"),)))) == {"speakers"}
    assert set(asker.tasks_of(row("a", target_text="b", target_language="de"))) == {"translate"}
    assert "words" not in Asker(TEXTS, TaskOptions(words=0)).tasks_of(row("the zebra sat", words=WORDS))
    never = Asker(TEXTS, TaskOptions(transcribe=0, keywords=0, speakers=0, translate=0, tick_s=0.07))
    assert set(never.tasks_of(row("the zebra sat", words=WORDS))) == {"words"}
    dialogue, translated = (
        row("a b", turns=(Turn("1", 0, 1, "a"),)),
        row("a", target_text="b", target_language="de"),
    )
    assert [never.tasks_of(known) for known in (row("the zebra sat"), dialogue, translated)] == [{}, {}, {}]


def test_keywords_are_rare_words_of_the_text_among_others_that_are_not_said() -> None:
    asker = Asker(TEXTS, TaskOptions(rare_count=2, rare_letters=4))
    drawn = [asker.ask("keywords", row("the zebra sat"), random.Random(seed)) for seed in range(50)]
    prompts = {request.keywords for request, _ in drawn}
    assert all(answer == "the zebra sat" for _, answer in drawn)
    assert prompts <= {("zebra",), ("giraffe",), ("zebra", "giraffe"), ("giraffe", "zebra"), ()}
    assert {("zebra",), ("giraffe",)} <= prompts


def test_answers_with_times_are_read_back() -> None:
    asker = Asker(TEXTS, TaskOptions(tick_s=0.04, min_silence_s=0.1))
    request, answer = asker.ask("words", row("the zebra sat", words=WORDS), random.Random(0))
    assert request.words
    read = tags.parse_tagged(answer).words
    assert [word.text for word in read] == ["the", "zebra", "sat"]
    for got, wanted in zip(read, WORDS, strict=True):
        assert abs(got.end - wanted.end) <= 0.02 + 1e-9
    assert read[1].start == read[0].end and read[2].start > read[1].end  # 0.03 s is no silence, 0.6 s is one


def test_times_follow_the_speed_of_a_view() -> None:
    assert slower(row("the zebra sat", words=WORDS), 1.25).words[2].end == pytest.approx(2.03 * 1.25)


def test_answers_with_speakers_are_read_back() -> None:
    turns = (Turn("1", 0, 1, "the zebra"), Turn("2", 1, 2, "sat"))
    _, answer = Asker(TEXTS, TaskOptions()).ask("speakers", row("the zebra sat", turns=turns), random.Random(0))
    assert [(turn.speaker, turn.text) for turn in tags.parse_tagged(answer).turns] == [("1", "the zebra"), ("2", "sat")]


def test_the_manifest_says_what_a_model_is_taught(tmp_path: Path) -> None:
    def answer(**fields: object) -> Utterance:
        path = tmp_path / "manifest.jsonl"
        path.write_text(json.dumps({"audio": "a.wav", "text": "guten Tag", "duration": 1, **fields}) + "\n")
        return answer_of(read_manifest(path)[0])

    asker = Asker(TEXTS, TaskOptions(), "granite_speech")
    known = answer(language="de", target_text="good day", target_language="en")
    request, target = asker.ask(next(iter(asker.tasks_of(known))), known, random.Random(0))
    assert (request.verb, request.language, request.target_language, target) == ("translate", "de", "en", "good day")
    assert asker.tasks_of(answer(task="transcribe", keywords=["Tag"])) == {"transcribe": 1.0}
    assert answer(words=[{"start": 0, "end": 1, "text": "guten"}]).words == ()  # not the words of the text
    for fields, message in (
        ({"task": "sing"}, "allowed are transcribe, keywords"),
        ({"task": "speakers"}, "there are no turns"),
        ({"target_text": "good day"}, "without target_language"),
    ):
        with pytest.raises(DataError, match=message):
            answer(**fields)
