"""The file that calibrates the word confidences of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from redline import audio, load_model
from redline.checkpoints.word_confidence import WORD_CONFIDENCE, find_word_confidence, save_word_confidence
from redline.decoding.word_confidence import (
    NOTHING_KNOWN,
    ConfidenceMaps,
    DraftTokens,
    LogisticMap,
    TextEvidence,
    WordEvidence,
    calibrated,
)
from redline.errors import CheckpointError
from redline.recognizer.ar_batch import ArRow
from redline.testing import tone
from redline.types import Request, Task, Word
from tests.builders import recognize_clips, tiny_ar_checkpoint, tiny_checkpoint

JFK = Path(__file__).parents[1] / "data" / "jfk.flac"
MAPS = ConfidenceMaps(LogisticMap(0.5, (1.0, -0.25, 0.125)), LogisticMap(-0.5, (0.5, 0.25, 0.0, 2.0)))
ALL_MAPS = replace(MAPS, drafted=LogisticMap(0.0, (1.0,) * 4), edited=LogisticMap(0.0, (1.0,) * 5))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert find_word_confidence(tmp_path) is None, "a published checkpoint has none"
    path = save_word_confidence(MAPS, tmp_path, {"split": "dev"})
    assert find_word_confidence(tmp_path) == MAPS and json.loads(path.read_text())["fitted_on"] == {"split": "dev"}
    for maps in (ConfidenceMaps(MAPS.aligned), ALL_MAPS):
        save_word_confidence(maps, tmp_path, {})
        assert find_word_confidence(tmp_path) == maps


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda values: values.update(format="other"), "'other'"),
        (lambda values: values.pop("aligned"), "letters, length, pace"),
        (lambda values: values["decided"]["weights"].pop("tokens"), "letters, length, pace, tokens"),
        (lambda values: values["aligned"]["weights"].update(more=1.0), "letters, length, pace"),
        (lambda values: values["aligned"].update(bias=float("nan")), "nan"),
        (lambda values: values["aligned"].update(bias=True), "True"),
        (lambda values: values["aligned"].update(bias=1e9), "1000000000.0"),
        (lambda values: values.update(decided=[]), "letters, length, pace, tokens"),
        (lambda values: values.update(drafted=values["decided"]), "letters, length, pace, draft"),
        (lambda values: values.update(edited={}), "letters, length, pace, tokens, draft"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], Any], told: str) -> None:
    path = save_word_confidence(MAPS, tmp_path, {})
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=WORD_CONFIDENCE) as caught:
        find_word_confidence(tmp_path)
    assert told in str(caught.value)


@pytest.mark.parametrize("build", [tiny_checkpoint, tiny_ar_checkpoint])
def test_a_checkpoint_with_it_has_calibrated_words_now_and_later(tmp_path: Path, build: Callable[..., Path]) -> None:
    folder = build(tmp_path / "model")
    plain = load_model(folder).recognizer
    save_word_confidence(ConfidenceMaps(LogisticMap(0.3, (0.7, 0.1, 0.2))), folder, {})
    maps = find_word_confidence(folder)
    for effort in ("full", "draft"):
        recognizer = load_model(folder, effort=effort).recognizer
        clip = tone(2.0)
        before = recognize_clips(load_model(folder, effort=effort).recognizer, [clip], Task(words=True))
        (now,) = recognize_clips(recognizer, [clip], Task(words=True))
        (later,) = recognize_clips(recognizer, [clip], Task())
        assert [now] == before
        if later.timing is not None and (timed := later.timing()):
            assert timed == now.words
        recognizer.word_confidence = None  # type: ignore[attr-defined]
        (raw,) = recognize_clips(recognizer, [clip], Task(words=True))
        assert now.words == calibrated(raw.words, maps) and now.text == raw.text
    assert plain.word_confidence is None  # type: ignore[attr-defined]


def test_the_bundled_model_is_calibrated_and_batches_change_nothing() -> None:
    recognizer = load_model("tiny").recognizer
    clips = [tone(1.0), audio.load(JFK), tone(2.0)]
    requests = [Request(clip, Task(words=True)) for clip in clips]
    together, alone = recognizer.recognize(requests), [recognizer.recognize([request])[0] for request in requests]
    assert together == alone and recognizer.word_confidence is not None  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "options"), [("tiny", {"effort": "draft"}), ("tiny-plus", {})])
def test_words_of_a_draft_are_judged_by_the_head_that_drafted_them(name: str, options: dict[str, Any]) -> None:
    recognizer: Any = load_model(name, **options).recognizer
    clip = audio.load(JFK)
    seen: list[WordEvidence] = []

    class Recording(ConfidenceMaps):
        def confidence(self, word: Word, evidence: WordEvidence) -> float:
            seen.append(evidence)
            return super().confidence(word, evidence)

    recognizer.word_confidence = Recording(MAPS.aligned, drafted=LogisticMap(0.0, (0.0, 0.0, 0.0, 1.0)))
    (now,) = recognize_clips(recognizer, [clip], Task(words=True))
    (later,) = recognize_clips(recognizer, [clip], Task())
    assert len(seen) == len(now.words) > 10 and all(each.draft is not None and each.tokens is None for each in seen)
    assert later.timing is not None and later.timing() == now.words
    del seen[:]
    (drawn,) = recognize_clips(recognizer, [clip], Task(words=True, keywords=("can dew for you :6", "zebra")))
    assert "dew" in drawn.text and len(seen) == len(drawn.words) and all(each.draft is not None for each in seen)


def test_words_that_the_language_model_wrote_are_not_judged_by_a_draft_of_others() -> None:
    evidence = TextEvidence(None, DraftTokens(np.zeros((1, 1), int), np.zeros((1, 1), np.float32), 0.1, [[0], [0]]))
    row = ArRow(tone(1.0), Any, torch.zeros(0), transcript="two words", evidence=evidence)  # type: ignore[arg-type]
    assert row.evidence_of(" two words") is evidence
    assert row.evidence_of("other words") is row.evidence_of("of two words") is NOTHING_KNOWN
