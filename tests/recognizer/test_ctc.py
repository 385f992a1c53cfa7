"""CTC only: the encoder's draft is the text, for TurboCTC and, with effort "draft", for every other model."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GraniteSpeech5CTCConfig, GraniteSpeech5EncoderConfig, GraniteSpeech5ForCTC
from typer.testing import CliRunner

import redline
from redline.cli.main import app
from redline.errors import RedlineError, UnsupportedTaskError
from redline.load import load_model
from redline.recognizer import CtcRecognizer
from redline.testing import silence, tone
from redline.types import Hypothesis, Request, Task, Waveform
from tests.builders import tiny_ar_checkpoint, tiny_checkpoint
from tests.model_configs import tiny_ctc_config

DEMO = Path(redline.__file__).parent / "assets" / "demo.flac"


@pytest.fixture(scope="module")
def turbo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TurboCTC checkpoint with random weights and a token per letter, as transformers writes it."""
    torch.manual_seed(1)
    rows = 54
    encoder = GraniteSpeech5EncoderConfig(
        vocab_size=rows, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2,
        max_position_embeddings=32, context_size=16, conv_kernel_size=5,
    )  # fmt: skip
    model = GraniteSpeech5ForCTC(GraniteSpeech5CTCConfig(vocab_size=rows, encoder_config=encoder)).eval()
    model.encoder.out.weight.data.mul_(20)
    folder = tmp_path_factory.mktemp("turbo")
    model.save_pretrained(folder)
    shutil.copyfile(tiny_checkpoint(folder / "letters") / "tokenizer.json", folder / "tokenizer.json")
    return folder


def clips() -> list[Waveform]:
    noise = np.random.default_rng(0)
    return [Waveform((noise.standard_normal(n) * 0.1).astype(np.float32)) for n in (16_000, 9_000, 31_001, 24_320)]


def test_six_requests_of_different_tasks_are_answered_as_each_alone(turbo: Path) -> None:
    recognizer = load_model(turbo).recognizer
    assert isinstance(recognizer, CtcRecognizer)
    tasks = [Task(), Task(words=True), Task(keywords=("abc",)), Task(language="en"), Task(speakers=True), Task()]
    sounds = [*clips(), clips()[0], silence(1.0)]
    requests = [Request(clip, task, id) for id, (clip, task) in enumerate(zip(sounds, tasks, strict=True))]
    together = recognizer.recognize(requests)
    for request, answer in zip(requests, together, strict=True):
        (alone,) = recognizer.recognize([request])
        if isinstance(answer, Hypothesis):
            assert alone == answer
            assert isinstance(alone, Hypothesis)
            assert (alone.timing and alone.timing()) == (answer.timing and answer.timing())
        else:
            assert isinstance(answer, UnsupportedTaskError) and request.task.speakers
    texts = [answer.text for answer in together if isinstance(answer, Hypothesis)]
    assert all(texts[:4]) and texts[-1] == "", "silence gives no text"
    words = together[1]
    assert isinstance(words, Hypothesis) and " ".join(word.text for word in words.words) == words.text
    starts = [word.start for word in words.words]
    assert starts == sorted(starts) and words.words[-1].end <= sounds[1].duration + 0.08


def test_a_clip_shorter_than_an_output_frame_has_no_text(turbo: Path) -> None:
    recognizer = load_model(turbo).recognizer
    blip, tasks = Waveform(clips()[0].samples[:320]), (Task(), Task(words=True))
    together = recognizer.recognize([Request(clips()[0]), *(Request(blip, task) for task in tasks)])
    for task, answer in zip(tasks, together[1:], strict=True):
        assert isinstance(answer, Hypothesis) and not (answer.text or answer.words)
        assert recognizer.recognize([Request(blip, task)]) == [answer]


def test_a_window_is_whole_attention_blocks(turbo: Path) -> None:
    limits = load_model(turbo).recognizer.limits(Task())
    blocks = limits.max_s / tiny_ctc_config().block_s
    assert blocks == round(blocks) and 29 < limits.max_s < 31


@pytest.mark.parametrize("name", ["tiny", "tiny-plus", "tiny-multi"])
def test_the_text_of_a_draft_is_the_draft_of_the_text(name: str) -> None:
    fast = load_model(name, effort="draft").transcribe(DEMO, language="en", words=True)
    drafts = {"drafts": "trust"} if name == "tiny-plus" else {}
    full = load_model(name, **drafts).transcribe(DEMO, language="en")  # type: ignore[arg-type]
    assert fast.text == (full.draft if name != "tiny-plus" else full.text)
    assert " ".join(word.text for word in fast.words) == fast.text


def test_an_encoder_without_a_token_head_writes_its_characters(tmp_path: Path) -> None:
    model = load_model(tiny_ar_checkpoint(tmp_path / "ar"), effort="draft")
    assert model.transcribe(tone(2.0), vad=False).text
    with pytest.raises(UnsupportedTaskError, match="writes characters and no tokens"):
        model.transcribe(tone(2.0), keywords=["x"])


def test_what_a_draft_cannot_do_is_refused_with_a_way_out() -> None:
    model = load_model("tiny", effort="draft")
    with pytest.raises(UnsupportedTaskError, match="granite_speech_plus models can with full effort"):
        model.transcribe(tone(1.0), prompt="who speaks?")
    with pytest.raises(RedlineError, match="beams is 3, but here the encoder's draft is the text"):
        load_model("tiny", effort="draft", beams=3)
    with pytest.raises(RedlineError, match="effort is 'half'; allowed are full, auto, and draft"):
        load_model("tiny", effort="half")  # type: ignore[arg-type]


def test_the_command_line_takes_an_effort() -> None:
    result = CliRunner().invoke(app, ["transcribe", str(DEMO), "--effort", "draft", "--quiet"])
    assert result.exit_code == 0, result.output
    assert "fellow" in result.output.lower() or "country" in result.output.lower()


def test_info_names_what_the_model_can(turbo: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["info", "--model", str(turbo)])
    assert "granite_speech5_ctc" in result.output and "transcribe, keywords" in result.output
    shutil.rmtree(tmp_path)
