"""A model over the utterances of a data set: each gets the transcript of its file, or of its part of a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from redline import audio
from redline.engine.scheduler import BatchOptions
from redline.evaluate import run
from redline.evaluate.result import Result
from redline.evaluate.tasks import EvaluationOptions, tasks_of
from redline.longform.session import SessionOptions
from redline.manifest import Utterance, read_manifest, write_manifest
from redline.testing import FakeRecognizer
from redline.transcriber import Transcriber
from redline.types import Hypothesis, Notice, Request, Task, Waveform
from tests.evaluate.results import load_tone, prompted, timed, utterance

JFK = Path(__file__).parents[1] / "data" / "jfk.flac"
WHOLE = SessionOptions(vad=None)


class Obedient(FakeRecognizer):
    """A recognizer that answers by what it is asked, and remembers that."""

    def __init__(self, reply: Callable[[Waveform, Task], str]) -> None:
        super().__init__()
        self.reply = reply
        self.asked: list[Task] = []

    def answer(self, request: Request) -> Hypothesis:
        self.asked.append(request.task)
        return Hypothesis(self.reply(request.clip, request.task))


def rows(folder: Path, *fields: dict[str, Any]) -> list[Utterance]:
    return read_manifest(write_manifest(folder / "manifest.jsonl", fields))


def results(
    recognizer: FakeRecognizer, utterances: Sequence[Utterance], tasks: list[Task] | None = None
) -> list[Result]:
    return list(run.run(Transcriber(recognizer, WHOLE), utterances, run.Clock(), load_tone, tasks))


def test_every_utterance_has_one_result_and_failures_are_named(tmp_path: Path) -> None:
    utterances = rows(
        tmp_path,
        {"audio": "2.wav", "text": "x", "duration": 2},
        {"audio": "bad.wav", "text": "x", "duration": 1},
        {"audio": "5.wav", "text": "x", "duration": 5},
        {"audio": "9.wav", "text": "x", "duration": 2, "start": 3, "end": 5},
    )
    clock = run.Clock()
    answers = list(run.run(Transcriber(FakeRecognizer(), WHOLE), utterances, clock, load_tone))
    texts = {result.utterance.audio.name: result.edited for result in answers if result.failure is None}
    assert texts == {"2.wav": "2.00 seconds", "5.wav": "5.00 seconds", "9.wav": "2.00 seconds"}
    assert [result.failure for result in answers if result.failure] == ["bad.wav: not audio"]
    assert clock.audio_s == pytest.approx(9.0)
    assert clock.rtfx > 0


def test_rows_without_a_duration_share_batches_that_hold_them(tmp_path: Path) -> None:
    utterances = rows(tmp_path, *[{"audio": "1.wav", "text": "x"}] * 40)
    recognizer = FakeRecognizer(max_clip_s=30.0)
    transcriber = Transcriber(recognizer, WHOLE, BatchOptions(10.0))
    assert len(list(run.run(transcriber, utterances, run.Clock(), load_tone))) == 40
    assert [len(batch) for batch in recognizer.batches] == [10] * 4


def test_warnings_of_a_recognizer_are_kept(tmp_path: Path) -> None:
    recognizer = FakeRecognizer(lambda clip: Hypothesis("x", warnings=(Notice("odd", "this was odd"),)))
    (result,) = results(recognizer, rows(tmp_path, {"audio": "1.wav", "text": "x", "duration": 1}))
    assert result.warnings == (Notice("odd", "this was odd", 0.0, 1.0),)


@pytest.mark.parametrize("vad", [True, False])
def test_an_utterance_gets_the_transcript_of_its_file_or_its_part_of_it(tmp_path: Path, vad: bool) -> None:
    parts = ({}, {"start": 2.0, "end": 9.5}, {"start": 10.0})
    utterances = rows(tmp_path, *({"audio": str(JFK), "text": "x", "language": "en"} | part for part in parts))

    def transcribe(clip: Waveform) -> Hypothesis:
        return Hypothesis(f"{clip.samples.sum():.4f}", f"{clip.duration}", confidence=min(1.0, clip.duration / 10))

    transcriber = Transcriber(FakeRecognizer(transcribe, max_clip_s=4.0), SessionOptions() if vad else WHOLE)
    answers = {result.utterance.start: result for result in run.run(transcriber, utterances, run.Clock())}
    samples = audio.load(JFK).samples
    for part in parts:
        start, end = part.get("start", 0.0), part.get("end", 11.0)
        whole = transcriber.transcribe(samples[round(start * 16_000) : round(end * 16_000)], sample_rate=16_000)
        result = answers[start]
        assert (result.edited, result.draft, result.duration) == (whole.text, whole.draft, end - start)
        confidences = [segment.confidence or 0.0 for segment in whole.segments]
        assert round(min(confidences), 3) <= (result.confidence or 0.0) <= round(max(confidences), 3)


def test_rows_share_a_batch_whatever_they_are_asked() -> None:
    keywords = {"a": ("x",), "b": ("y",), "c": ("x",), "d": (), "e": ()}
    utterances = [utterance(text, "1", keywords=each) for text, each in keywords.items()]
    recognizer = Obedient(lambda clip, task: " ".join(task.keywords))
    tasks = tasks_of(utterances, EvaluationOptions(keywords=True))
    answers = results(recognizer, utterances, tasks)
    assert recognizer.asked == tasks and len(recognizer.batches) == 1
    assert {result.utterance.text: result.edited for result in answers} == {
        "a": "x",
        "b": "y",
        "c": "x",
        "d": "",
        "e": "",
    }
    assert {result.utterance.text: result.task for result in answers} == dict(zip("abcde", tasks, strict=True))


def test_times_count_from_the_start_of_the_part(tmp_path: Path) -> None:
    words = [{"start": 0.0, "end": 0.5, "text": "a"}, {"start": 0.5, "end": 1.0, "text": "b"}]
    utterances = rows(tmp_path, {"audio": "9.wav", "text": "a b", "start": 4, "end": 5, "words": words})
    recognizer = FakeRecognizer(lambda clip: Hypothesis("a b", words=timed("a b", 0.03)))
    (result,) = results(recognizer, utterances)
    assert recognizer.batches == [[1.0]]
    assert result.words == timed("a b", 0.03)


def test_an_answer_keeps_what_it_was_asked() -> None:
    asked = prompted("other", "own")
    (result,) = results(FakeRecognizer(lambda clip: "a"), [utterance("a", "1", keywords=("own",))], [asked])
    assert result.task == asked and result.distractors == ("other",)
