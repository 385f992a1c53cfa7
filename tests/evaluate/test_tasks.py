"""What evaluation asks a model for beside the text."""

from __future__ import annotations

import pytest

from redline.errors import ConfigError, DataError
from redline.evaluate import run
from redline.evaluate.tasks import EvaluationOptions, count_short_prompts, describe_tasks, tasks_of
from redline.manifest import Utterance
from redline.types import Task
from tests.evaluate.results import utterance


def row(text: str, *keywords: str, id: str = "u", language: str = "en") -> Utterance:
    return utterance(text, id, language, keywords=keywords)


def test_each_prompt_holds_the_keywords_of_its_row() -> None:
    rows = [row("ask mister Quilter", "Quilter", " Quilter "), row("nothing"), row("Äpfel", "Äpfel", language="de")]
    assert tasks_of(rows, EvaluationOptions(keywords=True)) == [
        Task(language="en", keywords=("Quilter",)),
        Task(language="en"),
        Task(language="de", keywords=("Äpfel",)),
    ]
    assert tasks_of(rows, EvaluationOptions()) == [run.task_of(each) for each in rows]
    assert tasks_of(rows, EvaluationOptions(True, True))[1] == Task(language="en", words=True, speakers=True)


def test_distractors_are_never_said_in_their_own_row_and_repeat_with_the_seed() -> None:
    names = ["Quilter", "Ruggedo", "Kaliko", "Brion", "Phronsie", "New York", "Apostle's"]
    rows = [row(f"so {name.upper()}, and quilter! said new york", name, id=name) for name in names]
    rows.append(row("nobody, really", id="without"))
    rows.append(row("Bonjour Ruggedo", "Ruggedo", language="fr"))
    options = EvaluationOptions(keywords=True, distractors=3)
    tasks = tasks_of(rows, options)
    for each, task in zip(rows[:-1], tasks[:-1], strict=True):
        others = set(task.keywords) - set(each.keywords)
        assert set(each.keywords) <= set(task.keywords) and len(others) == 3
        assert others <= set(names)
        assert each.id == "without" or not others & {"Quilter", "New York"}
    assert tasks[-1].keywords == ("Ruggedo",), "there is no other keyword in French"
    assert count_short_prompts(tasks, rows, options) == 1
    assert count_short_prompts(tasks_of(rows, EvaluationOptions()), rows, EvaluationOptions()) == 0
    assert tasks_of(rows, options) == tasks
    assert tasks_of(rows, EvaluationOptions(keywords=True, distractors=3, seed=1)) != tasks
    assert tasks_of(rows[::-1], options)[::-1] == tasks, "a row's prompt does not depend on the rows before it"
    assert len({task.keywords.index(each.keywords[0]) for each, task in zip(rows[:6], tasks, strict=False)}) > 1


def test_what_cannot_be_asked_is_told() -> None:
    with pytest.raises(DataError, match=r"no row has keywords .*rare_keywords"):
        tasks_of([row("a")], EvaluationOptions(keywords=True))
    with pytest.raises(ConfigError, match="distractors is 2"):
        EvaluationOptions(distractors=2)
    with pytest.raises(ConfigError, match="distractors is -1"):
        EvaluationOptions(keywords=True, distractors=-1)


def test_what_is_asked_is_described() -> None:
    rows = [row("mister Quilter", "Quilter"), row("mister Ruggedo", "Ruggedo")]
    assert describe_tasks(tasks_of(rows, EvaluationOptions()), rows) == ""
    asked = tasks_of(rows, EvaluationOptions(True, True, True, distractors=1))
    expected = "speakers, word times, 1.0 keywords a prompt and 1.0 that are not said"
    assert describe_tasks(asked, rows) == expected
