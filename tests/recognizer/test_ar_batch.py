"""One batch of an AR or Plus model holds any mixture of tasks, and each answer is what it is alone, to the bit."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from redline import audio, load_model
from redline.decoding.repetition import RepetitionOptions
from redline.decoding.speculative import SpeculativeOptions
from redline.errors import AudioError, EmptyAudioError, RecognitionError, RedlineError, UnsupportedTaskError
from redline.models.ar import ArModel
from redline.recognizer import ArRecognizer
from redline.recognizer.ar_batch import ArRow
from redline.testing import silence
from redline.types import SAMPLE_RATE, Hypothesis, Request, Task, Waveform
from tests.recognizer.ar_models import CLIPS, recognizer_of, two_sounds

DEMO = Path(__file__).parents[2] / "redline" / "assets" / "demo.flac"
BASE = (
    Task(),
    Task("translate", "en", "de"),
    Task(keywords=("Zq", "Nile")),
    Task(prompt="what is said?"),
    Task(language="de", words=True),
    Task("translate", "de", "en", keywords=("Rhone",)),
)
PLUS = (
    Task(),
    Task(words=True),
    Task(speakers=True),
    Task(keywords=("Zq", "Nile")),
    Task(prompt="what is said?"),
    Task(prefix="so it is"),
    Task(speakers=True, prefix="[Speaker 2]: so it", keywords=("Rhone",)),
)
MODELS: dict[str, tuple[str, Any, Sequence[Task]]] = {
    "2b": ("granite_speech", None, BASE),
    "2b, drafts": ("granite_speech", SpeculativeOptions("exact"), BASE),
    "2b-plus": ("granite_speech_plus", None, PLUS),
    "2b-plus, drafts": ("granite_speech_plus", SpeculativeOptions("exact"), PLUS),
    "2b-plus, fast": ("granite_speech_plus", SpeculativeOptions("fast", tau_ctc=0.3), PLUS),
    "speakers by embedding": ("speakers", SpeculativeOptions("trust"), PLUS),
}


def alone(recognizer: ArRecognizer, request: Request) -> Hypothesis | RedlineError:
    (answer,) = recognizer.recognize([request])
    return answer


def assert_same(outcome: Hypothesis | RedlineError, other: Hypothesis | RedlineError) -> None:
    if isinstance(outcome, Hypothesis) and isinstance(other, Hypothesis):
        assert outcome == other
        assert (outcome.timing and outcome.timing()) == (other.timing and other.timing())
    else:
        assert (type(outcome), str(outcome)) == (type(other), str(other))


def assert_alone_equals_in_the_batch(recognizer: ArRecognizer, requests: Sequence[Request]) -> list[Any]:
    single = [alone(recognizer, request) for request in requests]
    for order in (1, -1):
        for answer, expected in zip(recognizer.recognize(requests[::order]), single[::order], strict=True):
            assert_same(answer, expected)
    return single


def mixed(tasks: Sequence[Task], clips: Sequence[Waveform]) -> list[Request]:
    return [Request(clips[at % len(clips)], task, id=at) for at, task in enumerate(tasks)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_any_tasks_share_a_batch(folders: dict[str, Path], name: str, dtype: torch.dtype) -> None:
    folder, drafts, tasks = MODELS[name]
    recognizer = recognizer_of(folders[folder], drafts, dtype)
    answers = assert_alone_equals_in_the_batch(recognizer, mixed(tasks, [*CLIPS, two_sounds(3.0, 7)]))
    assert all(isinstance(answer, Hypothesis) for answer in answers)
    assert len({answer.text for answer in answers}) > len(tasks) // 2, "the tasks do not matter: this proves nothing"


@pytest.mark.parametrize("options", [{"beams": 3}, {"temperature": 0.9}], ids=["beams", "sampling"])
def test_any_tasks_share_a_beam_or_are_sampled_together(folders: dict[str, Path], options: dict[str, Any]) -> None:
    recognizer = recognizer_of(folders["granite_speech_plus"], **options)
    assert_alone_equals_in_the_batch(recognizer, mixed(PLUS, CLIPS))


@pytest.mark.parametrize(
    "drafts", ["own", *(pytest.param(drafts, marks=pytest.mark.laws) for drafts in ("none", "exact"))]
)
def test_any_tasks_share_a_batch_of_the_bundled_model(drafts: Any) -> None:
    whole = audio.load(DEMO).samples
    clips = [Waveform(whole[round(start * SAMPLE_RATE) :][: round(length * SAMPLE_RATE)]) for start, length in
             ((0.0, 4.1), (2.0, 3.0), (4.5, 5.2), (7.9, 3.1))]  # fmt: skip
    recognizer = load_model("tiny-plus", drafts=drafts).recognizer
    tasks = [replace(task, keywords=("fellow Americans",)) if task.keywords else task for task in PLUS]
    assert_alone_equals_in_the_batch(recognizer, mixed(tasks, clips))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["2b-plus, drafts", "speakers by embedding"])
def test_one_encoder_pass_and_one_prefill_serve_all_tasks(
    folders: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, drafts, tasks = MODELS[name]
    recognizer = recognizer_of(folders[folder], drafts)
    calls: list[str] = []

    def counted(owner: type, method: str) -> Any:
        run = getattr(owner, method)

        def call(*rest: Any) -> Any:
            calls.append(method)
            return run(*rest)

        return call

    for owner, method in ((ArRecognizer, "encode"), (ArModel, "prefill")):
        monkeypatch.setattr(owner, method, counted(owner, method))
    recognizer.recognize(mixed(tasks, CLIPS))
    assert calls == ["encode", "prefill"]


def test_a_request_that_fails_is_its_error_in_its_place(folders: dict[str, Path]) -> None:
    recognizer = recognizer_of(folders["granite_speech"])
    nan = Waveform(np.full(9000, np.nan, dtype=np.float32))
    short = Waveform(np.full(40, 0.5, dtype=np.float32))
    good = mixed(BASE, CLIPS)
    bad = [
        Request(nan, Task()),
        Request(CLIPS[0], Task(speakers=True)),
        Request(CLIPS[1], Task(language="fr")),
        Request(CLIPS[1], Task(keywords=("a",) * 101)),
        Request(short, Task()),
        Request(silence(0.5), Task(speakers=True)),
    ]
    requests = [request for pair in zip(good, bad, strict=True) for request in pair]
    answers = recognizer.recognize([*requests, Request(silence(1.0), Task())])
    kinds = [AudioError, UnsupportedTaskError, UnsupportedTaskError, UnsupportedTaskError, EmptyAudioError]
    assert [type(answer) for answer in answers[1:10:2]] == kinds and isinstance(answers[11], UnsupportedTaskError)
    for request, answer in zip(good, answers[::2], strict=False):
        assert_same(answer, alone(recognizer, request))
    assert answers[-1] == Hypothesis("")
    assert recognizer.recognize([]) == []


def test_a_clip_on_which_the_model_overflows_harms_only_itself(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = recognizer_of(folders["granite_speech_plus"], SpeculativeOptions("exact"))
    requests = mixed(PLUS, CLIPS)
    wanted = [alone(recognizer, request) for request in requests]
    embed = ArModel.embed_audio

    def overflowing(self: ArModel, encoded: Any) -> Any:
        embeddings, counts = embed(self, encoded)
        embeddings[2] = np.inf
        return embeddings, counts

    monkeypatch.setattr(ArModel, "embed_audio", overflowing)
    answers = recognizer.recognize(requests)
    assert isinstance(answers[2], RecognitionError) and "beyond the numbers of float32" in str(answers[2])
    for at, (answer, expected) in enumerate(zip(answers, wanted, strict=True)):
        if at != 2:
            assert_same(answer, expected)


def test_when_memory_runs_out_each_clip_is_tried_alone(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = recognizer_of(folders["granite_speech_plus"])
    requests = mixed(PLUS, CLIPS)
    wanted = [alone(recognizer, request) for request in requests]
    encode = ArRecognizer.encode

    def small(self: ArRecognizer, rows: Any) -> Any:
        if len(rows) > 1:
            raise MemoryError
        return encode(self, rows)

    monkeypatch.setattr(ArRecognizer, "encode", small)
    for answer, expected in zip(recognizer.recognize(requests), wanted, strict=True):
        assert_same(answer, expected)


def test_exact_drafts_change_no_answer_of_a_mixed_batch(folders: dict[str, Path]) -> None:
    """Random weights babble in circles: texts, loops and notices are the same with drafts and without."""
    for kind, tasks in (("granite_speech", BASE), ("granite_speech_plus", PLUS)):
        repeated = Waveform(np.concatenate([CLIPS[1].samples] * 6))
        requests = [*mixed(tasks, CLIPS), Request(repeated, Task())]
        answers = []
        for drafts in (None, SpeculativeOptions("exact")):
            recognizer = recognizer_of(folders[kind], drafts, loops=RepetitionOptions(copies=3, tokens=4))
            answers.append([(hypothesis.text, hypothesis.warnings) for hypothesis in recognizer.recognize(requests)])  # type: ignore[union-attr]
        assert answers[0] == answers[1]
        assert any(notices for _, notices in answers[0]), "nothing goes in circles: the test proves nothing"


def test_a_batch_is_forgotten_with_its_last_answer(folders: dict[str, Path]) -> None:
    """Encoder states of hours would wait for the garbage collector, which does not know how large they are."""
    recognizer = recognizer_of(folders["granite_speech_plus"], SpeculativeOptions("exact"))
    gc.disable()
    try:
        rows = recognizer.begin(mixed(PLUS, CLIPS))
        batch = weakref.ref(next(row.batch for row in rows if isinstance(row, ArRow)))
        texts = [row.decoding for row in rows if isinstance(row, ArRow)]
        assert recognizer.decoders is not None
        recognizer.decoders(texts)  # type: ignore[arg-type]
        for row in rows:
            assert isinstance(row.answer() if isinstance(row, ArRow) else row, Hypothesis)
        assert batch() is not None
        del rows, row, texts
        assert batch() is None
    finally:
        gc.enable()
