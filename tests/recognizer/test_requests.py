"""Requests of one call: whatever mixture of tasks, each is answered as if it were alone, to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import redline
from redline import audio, load_model
from redline.errors import AudioError, RecognitionError, UnsupportedTaskError
from redline.recognizer import NarRecognizer
from redline.recognizer.nar import EditorNetworks
from redline.types import SAMPLE_RATE, Hypothesis, Request, Task, Waveform
from tests.builders import tiny_checkpoint

DEMO = Path(redline.__file__).parent / "assets" / "demo.flac"
IN_BFLOAT16 = pytest.param("tiny in bfloat16", marks=pytest.mark.laws)  # slow where it is emulated
TASKS = (
    Task(),
    Task(words=True),
    Task(keywords=("fellow americans", "Priya")),
    Task(language="en", words=True, keywords=("your Country can do",)),
    Task(language="en"),
    Task(keywords=("ask", "for you")),
)


def requests() -> list[Request]:
    """Six clips of the recording, of different lengths, each with a task of its own."""
    whole = audio.load(DEMO).samples
    spans = ((0.0, 4.1), (2.0, 4.4), (0.3, 2.7), (5.0, 8.0), (1.0, 1.5), (0.0, 11.0))
    clips = [Waveform(whole[round(a * SAMPLE_RATE) : round(b * SAMPLE_RATE)]) for a, b in spans]
    return [Request(clip, task, id) for id, (clip, task) in enumerate(zip(clips, TASKS, strict=True))]


@pytest.fixture(scope="module", params=["tiny", IN_BFLOAT16, "random"])
def recognizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NarRecognizer:
    if request.param == "random":
        model = load_model(tiny_checkpoint(tmp_path_factory.mktemp("random") / "model"))
    else:
        dtype = "bfloat16" if "bfloat16" in request.param else "float32"
        model = load_model("tiny", dtype=dtype)
    assert isinstance(model.recognizer, NarRecognizer)
    return model.recognizer


def test_six_requests_of_different_tasks_are_answered_together_as_each_alone(recognizer: NarRecognizer) -> None:
    wanted = requests()
    together = recognizer.recognize(wanted)
    alone = [recognizer.recognize([request])[0] for request in wanted]
    assert together == alone
    assert recognizer.recognize(wanted[::-1]) == together[::-1]
    for request, answer, single in zip(wanted, together, alone, strict=True):
        assert isinstance(answer, Hypothesis) and isinstance(single, Hypothesis)
        assert bool(answer.words) == (request.task.words and bool(answer.text))
        assert (answer.timing is None) == request.task.words
        if answer.timing is not None and single.timing is not None:
            assert answer.timing() == single.timing()


def test_they_take_one_encoder_pass_and_one_editing_pass(
    recognizer: NarRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for owner, name in ((NarRecognizer, "encode"), (type(recognizer.networks), "read")):
        method = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, name=name, method=method: calls.append(name) or method(*a))
    recognizer.recognize(requests())
    assert calls == ["encode", "read"]


def test_keywords_of_one_request_are_not_those_of_another(recognizer: NarRecognizer) -> None:
    clip = requests()[-1].clip
    plain, with_keyword = (recognizer.recognize([Request(clip, task)])[0] for task in (TASKS[0], TASKS[3]))
    mixed = recognizer.recognize([Request(clip, TASKS[3]), Request(clip), Request(clip, TASKS[3]), Request(clip)])
    assert mixed == [with_keyword, plain, with_keyword, plain]


def test_a_request_that_cannot_be_answered_harms_only_itself(recognizer: NarRecognizer) -> None:
    good = requests()
    bad = [
        Request(Waveform(np.array([0.0, np.nan] * 9000, np.float32))),
        Request(good[0].clip, Task("translate")),
        Request(good[0].clip, Task(language="fr")),
        Request(Waveform(np.zeros(100, np.float32))),
    ]
    answers = recognizer.recognize([good[0], bad[0], good[1], *bad[1:], good[2]])
    kinds = [type(answer) for answer in answers]
    unsupported = [UnsupportedTaskError] * 2
    assert kinds[1] is AudioError and kinds[3:5] == unsupported and issubclass(kinds[5], AudioError)
    assert [answers[at] for at in (0, 2, 6)] == [recognizer.recognize([request])[0] for request in good[:3]]


def test_a_clip_on_which_the_model_leaves_the_numbers_harms_only_itself(
    recognizer: NarRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, networks = requests()[:3], type(recognizer.networks)
    embed_audio = networks.embed_audio

    def spoiled(self: EditorNetworks, exports: tuple[torch.Tensor, ...], lengths: torch.Tensor) -> object:
        audio, counts = embed_audio(self, exports, lengths)
        return audio.index_fill(0, torch.tensor([1]), torch.nan), counts

    alone = [recognizer.recognize([request])[0] for request in good]
    monkeypatch.setattr(networks, "embed_audio", spoiled)
    answers = recognizer.recognize(good)
    assert isinstance(answers[1], RecognitionError) and "beyond the numbers" in str(answers[1])
    assert [answers[0], answers[2]] == [alone[0], alone[2]]


def test_a_batch_that_memory_does_not_hold_is_halved_until_it_does(
    recognizer: NarRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, sizes = NarRecognizer.encode, list[int]()

    def short_of_memory(self: NarRecognizer, rows: list[torch.Tensor]) -> object:
        sizes.append(len(rows))
        if len(rows) > 2 or max(map(len, rows)) > 500:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(self, rows)

    expected = recognizer.recognize(requests())
    monkeypatch.setattr(NarRecognizer, "encode", short_of_memory)
    answers = recognizer.recognize(requests())
    assert sizes == [6, 3, 1, 2, 3, 1, 2, 1, 1]
    assert answers[:5] == expected[:5]
    assert isinstance(answers[5], RecognitionError) and "out of memory on 1 clips of 11.0 s" in str(answers[5])


def test_word_times_for_later_keep_no_more_than_the_texts_own_characters(recognizer: NarRecognizer) -> None:
    (answer,) = recognizer.recognize([requests()[-1]])
    assert isinstance(answer, Hypothesis) and answer.timing is not None
    held = getattr(answer.timing, "timing", answer.timing).log_probs  # in a calibrated model it is wrapped
    letters = set(answer.text.lower()) - set(" .,?!;:")
    assert held.shape[1] <= len(letters) + 3 and held.device.type == "cpu", "and blank, space and wildcard"
    assert held.untyped_storage().nbytes() == held.numel() * held.element_size(), "no view into the batch"
