"""The NAR recognizer: clips in, texts with drafts and edits out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from redline.checkpoints import nar
from redline.decoding import ctc_beam
from redline.decoding.ngram import DraftOptions, NgramLM
from redline.errors import RecognitionError, UnsupportedTaskError
from redline.features import FEATURE_DIM
from redline.recognizer import NarRecognizer
from redline.recognizer.common import memory_errors
from redline.recognizer.drafts import search_drafts
from redline.testing import tone
from redline.tokenizer import Tokenizer
from redline.types import Recognizer, Task, Waveform
from redline_recipes.tiny.ngram import NgramOptions, estimate
from tests.builders import recognize_clips, tiny_checkpoint


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory: pytest.TempPathFactory) -> NarRecognizer:
    folder = tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")
    model, _, folder = nar.load_nar(folder)
    return NarRecognizer(model, Tokenizer.from_file(folder / "tokenizer.json"), name="tiny")


def chirp(seconds: float, seed: int) -> Waveform:
    torch.manual_seed(seed)
    parts = [tone(0.1, float(hertz)).samples for hertz in torch.randint(100, 4000, (round(seconds * 10),))]
    return Waveform(torch.cat([torch.from_numpy(part) for part in parts]).numpy())


CLIPS = [chirp(seconds, seed) for seed, seconds in enumerate([1.3, 4.0, 0.5, 2.2])]


def test_it_is_a_recognizer(recognizer: NarRecognizer) -> None:
    assert isinstance(recognizer, Recognizer)
    assert recognizer.languages == ("en",) and recognizer.device.type == "cpu" and recognizer.dtype == torch.float32


def test_batched_equals_single(recognizer: NarRecognizer) -> None:
    together = recognize_clips(recognizer, CLIPS, Task())
    assert any(hypothesis.text for hypothesis in together)
    for clip, batched in zip(CLIPS, together, strict=True):
        (alone,) = recognize_clips(recognizer, [clip], Task())
        assert (alone.text, alone.draft, alone.edits) == (batched.text, batched.draft, batched.edits)
        assert alone.confidence == pytest.approx(batched.confidence, abs=2e-3)


def test_edits_lead_from_the_draft_to_the_text(recognizer: NarRecognizer) -> None:
    together = recognize_clips(recognizer, CLIPS, Task())
    assert any(edit.op != "keep" for hypothesis in together for edit in hypothesis.edits)
    for hypothesis in together:
        assert "".join(edit.draft for edit in hypothesis.edits).strip() == hypothesis.draft
        assert "".join(edit.text for edit in hypothesis.edits).strip() == hypothesis.text
        assert hypothesis.confidence is None or 0 < hypothesis.confidence <= 1


@pytest.mark.parametrize("task", [Task("translate"), Task(language="fr")])
def test_what_it_cannot_do_is_refused_before_there_are_clips(recognizer: NarRecognizer, task: Task) -> None:
    with pytest.raises(UnsupportedTaskError, match=r"cannot|it knows en"):
        recognizer.limits(task)
    assert recognizer.limits(Task(language="en")).max_s == 30.0 and recognizer.recognize([]) == []


def test_a_checkpoint_for_tests_is_the_same_every_time(tmp_path: Path) -> None:
    first, second = (tiny_checkpoint(tmp_path / name) for name in ("one", "two"))
    for file in sorted(path.name for path in first.iterdir()):
        assert (first / file).read_bytes() == (second / file).read_bytes()


def _ngrams(recognizer: NarRecognizer, options: DraftOptions) -> NgramLM:
    """n-grams of a random text in the model's tokens."""
    vocabulary, blank = recognizer.model.config.text.vocab_size, recognizer.model.config.blank_token_id
    torch.manual_seed(0)
    stream = torch.randint(0, vocabulary, (500,))
    stream[::10] = blank
    return estimate(stream.numpy(), vocabulary, blank, NgramOptions(order=3), options)


def test_drafts_that_are_read_along_are_the_same_in_a_batch(recognizer: NarRecognizer) -> None:
    recognizer.draft_lm = _ngrams(recognizer, DraftOptions(width=4))
    try:
        together = recognize_clips(recognizer, CLIPS, Task())
        alone = [recognize_clips(recognizer, [clip], Task())[0] for clip in CLIPS]
    finally:
        recognizer.draft_lm = None
    assert [(hypothesis.draft, hypothesis.text) for hypothesis in together] == [
        (hypothesis.draft, hypothesis.text) for hypothesis in alone
    ]
    assert [hypothesis.draft for hypothesis in together] != [
        hypothesis.draft for hypothesis in recognize_clips(recognizer, CLIPS, Task())
    ]


def test_edits_that_listen_to_the_draft_head_are_the_same_in_a_batch(
    recognizer: NarRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = recognize_clips(recognizer, CLIPS, Task())
    config = replace(recognizer.model.config, keep_bias=-2.0, sound_weight=0.8)
    monkeypatch.setattr(recognizer.model, "config", config)
    together = recognize_clips(recognizer, CLIPS, Task())
    alone = [recognize_clips(recognizer, [clip], Task())[0] for clip in CLIPS]
    assert [each.edits for each in together] == [each.edits for each in alone]
    assert [each.draft for each in together] == [each.draft for each in deaf]
    assert [each.text for each in together] != [each.text for each in deaf]
    # Where the sound decides, the greedy draft is already the likeliest.
    monkeypatch.setattr(recognizer.model, "config", replace(config, keep_bias=0.0, sound_weight=100.0))
    assert [each.text for each in recognize_clips(recognizer, CLIPS, Task())] == [each.draft for each in deaf]


def test_a_model_that_favours_its_draft_keeps_every_token(recognizer: NarRecognizer) -> None:
    ops = {}
    try:
        for bias in (0.0, 1e4):
            recognizer.draft_lm = _ngrams(recognizer, DraftOptions(width=4, keep_bias=bias))
            hypotheses = recognize_clips(recognizer, CLIPS, Task())
            ops[bias] = {edit.op for hypothesis in hypotheses for edit in hypothesis.edits}
            # A favoured draft is not thereby a sure one.
            assert all(hypothesis.confidence is None or hypothesis.confidence < 0.9 for hypothesis in hypotheses)
    finally:
        recognizer.draft_lm = None
    assert ops[1e4] == {"keep"} and {"replace", "insert"} & ops[0.0]


def test_no_gradient_is_kept_of_the_search_for_a_draft(
    recognizer: NarRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = recognizer.model
    encoded = model.encode(torch.randn(1, 80, FEATURE_DIM), torch.tensor([80]))
    assert model.draft_head(encoded)[0].requires_grad
    asked: list[bool] = []
    search = ctc_beam.search
    monkeypatch.setattr(
        ctc_beam, "search", lambda *args: asked.append(args[0].log_probs.requires_grad) or search(*args)
    )
    search_drafts(model.draft_head, encoded, _ngrams(recognizer, DraftOptions(width=4)), [None])
    assert asked == [False]


@pytest.mark.parametrize(
    ("error", "out_of_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shape mismatch"), False),
    ],
)
def test_only_running_out_of_memory_is_the_fault_of_a_clip(error: Exception, out_of_memory: bool) -> None:
    with (
        pytest.raises(
            RecognitionError if out_of_memory else RuntimeError,
            match="out of memory on 1 clips" if out_of_memory else "shape",
        ),
        memory_errors([tone(1.0)]),
    ):
        raise error
