"""Effort "auto": where the draft is certain it is the text, and the language model reads only the other clips."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from redline import load_model
from redline.cli.main import app
from redline.decoding import speculative
from redline.errors import AudioError, RecognitionError, RedlineError
from redline.manifest import write_manifest
from redline.models.draft_head import DraftHead
from redline.recognizer import ArRecognizer, CtcRecognizer, NarRecognizer
from redline.testing import silence
from redline.types import Hypothesis, Request, Task, Waveform
from tests.builders import tiny_ar_checkpoint, tiny_checkpoint
from tests.recognizer.test_requests import DEMO, requests

IN_BFLOAT16 = pytest.param("tiny, bfloat16", marks=pytest.mark.laws)  # slow where it is emulated


def is_unread(answer: object) -> bool:
    return isinstance(answer, Hypothesis) and answer.accepted == 1.0 and answer.confidence is None


@lru_cache
def loaded(name: Path | str, effort: str) -> NarRecognizer | CtcRecognizer:
    """A recognizer without punctuation; ", bfloat16" behind a name is the precision."""
    name, _, dtype = str(name).partition(", ")
    return load_model(name, effort=effort, punctuate=False, dtype=dtype or None).recognizer  # type: ignore[arg-type, return-value]


@pytest.fixture(scope="module", params=["tiny", IN_BFLOAT16, "random"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path | str:
    is_random = request.param == "random"
    return tiny_checkpoint(tmp_path_factory.mktemp("random") / "model") if is_random else request.param


@pytest.fixture
def auto(model: Path | str) -> NarRecognizer:
    recognizer = loaded(model, "auto")
    assert isinstance(recognizer, NarRecognizer)
    return recognizer


def greatest_entropies(recognizer: NarRecognizer, wanted: Sequence[Request]) -> list[float]:
    head, found = recognizer.model.draft_head, []
    for request in wanted:
        with torch.inference_mode():
            logits, _ = head(recognizer.encode([recognizer.prepare(request)]))
            found.append(float(speculative.frame_entropy(logits).max()))
    return found


def test_some_certain_and_some_not_are_answered_together_as_each_alone(auto: NarRecognizer, model: Path | str) -> None:
    wanted = requests()
    auto.tau_ctc = sorted(greatest_entropies(auto, wanted))[len(wanted) // 2]
    together = auto.recognize(wanted)
    assert together == [auto.recognize([request])[0] for request in wanted]
    assert auto.recognize(wanted[::-1]) == together[::-1]
    assert len({is_unread(answer) for answer in together}) == 2, "else nothing is decided"
    full = loaded(model, "full").recognize(wanted)
    for answer, edited in zip(together, full, strict=True):
        assert isinstance(answer, Hypothesis) and isinstance(edited, Hypothesis)
        assert answer.draft == edited.draft
        assert is_unread(answer) or answer == edited


def test_a_threshold_of_nothing_is_full_effort_and_an_infinite_one_the_draft(
    auto: NarRecognizer, model: Path | str
) -> None:
    wanted = [Request(request.clip) for request in requests()]
    for tau_ctc, effort in ((0.0, "full"), (math.inf, "draft")):
        auto.tau_ctc = tau_ctc
        answers, expected = auto.recognize(wanted), loaded(model, effort).recognize(wanted)
        assert [is_unread(answer) for answer in answers] == [effort == "draft"] * len(wanted)
        for answer, other in zip(answers, expected, strict=True):
            assert isinstance(answer, Hypothesis) and isinstance(other, Hypothesis)
            assert answer == other if effort == "full" else (answer.text, answer.draft) == (other.text, other.draft)


def test_what_is_certain_costs_no_pass_of_the_language_model(
    auto: NarRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = list[int]()
    networks, wanted = type(auto.networks), [Request(request.clip) for request in requests()]
    read = networks.read
    monkeypatch.setattr(
        networks, "read", lambda self, audio, *rest: rows.append(len(audio)) or read(self, audio, *rest)
    )
    auto.tau_ctc = math.inf
    auto.recognize(wanted)
    assert rows == []
    auto.tau_ctc = sorted(greatest_entropies(auto, wanted))[2]
    auto.recognize(wanted)
    assert rows == [len(wanted) - 2]


def test_a_clip_that_is_no_number_or_leaves_the_numbers_harms_only_itself(
    auto: NarRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = requests()[:3]
    auto.tau_ctc = math.inf
    alone = [auto.recognize([request])[0] for request in good]
    answers = auto.recognize([good[0], Request(Waveform(np.full(9000, np.nan, np.float32))), *good[1:]])
    assert isinstance(answers[1], AudioError) and [answers[0], *answers[2:]] == alone
    logits = DraftHead.logits
    nan_row = torch.tensor([1])
    monkeypatch.setattr(DraftHead, "logits", lambda self, part: logits(self, part).index_fill(0, nan_row, torch.nan))
    answers = auto.recognize(good)
    assert isinstance(answers[1], RecognitionError) and "beyond the numbers" in str(answers[1])
    assert [answers[0], answers[2]] == [alone[0], alone[2]]


def test_a_keyword_that_changes_a_draft_has_it_read() -> None:
    auto = loaded("tiny", "auto")
    assert isinstance(auto, NarRecognizer)
    auto.tau_ctc = math.inf
    clip = requests()[-1].clip
    plain, drawn, unsaid = auto.recognize(
        [Request(clip, Task(keywords=words)) for words in ((), ("fella americans",), ("Priya",))]
    )
    assert is_unread(plain) and plain == unsaid
    full = loaded("tiny", "full").recognize([Request(clip, Task(keywords=("fella americans",)))])[0]
    assert drawn == full or is_unread(drawn), "read like with full effort, or not drawn at all"


def test_silence_has_no_text() -> None:
    auto = loaded("tiny", "auto")
    (answer,) = auto.recognize([Request(silence(2.0))])
    assert isinstance(answer, Hypothesis) and answer.text == ""
    assert load_model("tiny", effort="auto", punctuate=False).transcribe(silence(2.0)).text == ""


def test_marks_that_the_language_model_makes_would_come_and_go() -> None:
    with pytest.raises(RedlineError, match=r"tiny: effort is 'auto', but .* capitals and marks .*--no-punctuation"):
        load_model("tiny", effort="auto")
    result = CliRunner().invoke(app, ["transcribe", str(DEMO), "--effort", "auto", "--quiet"])
    assert result.exit_code == 2 and "--no-punctuation" in result.output


def test_of_a_model_that_answers_prompts_auto_is_fast(tmp_path: Path) -> None:
    folder = tiny_ar_checkpoint(tmp_path / "drafts", drafts=True)
    recognizer = load_model(folder, effort="auto").recognizer
    assert isinstance(recognizer, ArRecognizer) and recognizer.drafts == speculative.SpeculativeOptions("fast", 0.7)
    assert load_model(folder, effort="auto", drafts="fast").recognizer.drafts == recognizer.drafts  # type: ignore[attr-defined]
    for options, message in (
        ({"drafts": "exact"}, "effort is 'auto', which is drafts='fast', and drafts is 'exact'"),
        ({"drafts": "none"}, "drafts is 'none'"),
        ({"beams": 2}, "effort is 'auto', .*, beams 2"),
    ):
        with pytest.raises(RedlineError, match=message):
            load_model(folder, effort="auto", **options)  # type: ignore[arg-type]
    with pytest.raises(RedlineError, match=r"effort is 'auto', .* it has no out_llm"):
        load_model(tiny_ar_checkpoint(tmp_path / "plain"), effort="auto")


def test_the_threshold_is_the_checkpoints_own(tmp_path: Path) -> None:
    for build in (tiny_checkpoint, lambda folder: tiny_ar_checkpoint(folder, drafts=True)):
        folder = build(tmp_path / build.__name__.strip("<>"))
        path = folder / "config.json"
        config = json.loads(path.read_text())
        assert config["encoder_config"]["tau_ctc"] == 0.7, "the default, which published files do not state"
        config["encoder_config"]["tau_ctc"] = 2.5
        path.write_text(json.dumps(config))
        recognizer = load_model(folder, effort="auto").recognizer
        held = recognizer.tau_ctc if isinstance(recognizer, NarRecognizer) else recognizer.drafts.tau_ctc  # type: ignore[attr-defined]
        assert held == 2.5


def test_evaluate_says_how_much_was_read(tmp_path: Path) -> None:
    rows = [{"audio": str(DEMO), "text": "ask not", "language": "en", "start": a, "end": a + 3.0} for a in (0.0, 5.0)]
    manifest, scores = write_manifest(tmp_path / "rows.jsonl", rows), tmp_path / "scores.json"
    command = ["evaluate", "--data", str(manifest), "--json", str(scores), "--no-punctuation", "--effort"]
    for effort in ("auto", "full"):
        result = CliRunner().invoke(app, [*command, effort])
        assert result.exit_code == 0, result.output
        values = json.loads(scores.read_text())
        unread = sum(row["unread"][0] for row in values["utterances"])
        said = values["facts"].get("effort")
        assert said == (f"auto: the language model read {2 - unread} of 2 segments" if effort == "auto" else None)
        assert effort == "auto" or unread == 0
