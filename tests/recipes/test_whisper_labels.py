"""Labels of a teacher: what it is sure of trains, what was labelled is not labelled again."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from redline.manifest import read_manifest
from redline_recipes.distillation.whisper_labels import Label, label, main


class Whisper:
    """A teacher that is less sure the longer a clip is; counts what it was asked."""

    asked = 0

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def transcribe(self, samples: np.ndarray, **_: object) -> tuple[Iterator[Any], None]:
        Whisper.asked += 1
        seconds = len(samples) / 16_000 - 3.0
        return iter(
            [SimpleNamespace(text=" Hello.", tokens=[1, 2], avg_logprob=-seconds / 3, no_speech_prob=0.1)]
        ), None


def run(monkeypatch: pytest.MonkeyPatch, corpus: Path, out: Path, *more: str) -> int:
    fake = ModuleType("faster_whisper")
    fake.WhisperModel = Whisper  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "faster_whisper", fake)
    asked = ["--weights", "w", "--data", str(corpus), "--split", "dev", "--language", "en", "--out", str(out)]
    return main([*asked, *more])


def test_what_is_sure_trains(monkeypatch: pytest.MonkeyPatch, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.jsonl"
    assert run(monkeypatch, corpus, out) == 0
    rows = read_manifest(out)
    assert {row.text for row in rows} == {"Hello."} and all(row.audio.is_file() for row in rows)
    assert {row.split for row in rows} == {"train" if row.duration <= 0.9 else "unsure" for row in rows}


def test_the_same_command_goes_on(monkeypatch: pytest.MonkeyPatch, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.jsonl"
    run(monkeypatch, corpus, out)
    whole = out.read_text()
    out.write_text(whole[: len(whole) - 20])  # the last line was cut
    before = Whisper.asked
    run(monkeypatch, corpus, out)
    assert Whisper.asked == before + 1 and out.read_text() == whole
    run(monkeypatch, corpus, out, "--least", "-9")
    assert Whisper.asked == before + 1 and {row.split for row in read_manifest(out)} == {"train"}


def test_segments_are_joined_and_silence_is_not_sure() -> None:
    parts = [
        SimpleNamespace(text=" One", tokens=[1], avg_logprob=-0.1, no_speech_prob=0.0),
        SimpleNamespace(text=" two three.", tokens=[1, 2, 3], avg_logprob=-0.5, no_speech_prob=0.2),
    ]
    teacher = SimpleNamespace(transcribe=lambda *_, **__: (iter(parts), None))
    result = label(teacher, np.zeros(100, np.float32), "en")
    assert result.text == "One two three." and result.log_prob == pytest.approx(-0.4) and result.no_speech == 0.2
    assert not result.is_sure(-0.3) and result.is_sure(-0.5)
    assert not Label("", 0.0, 0.0).is_sure(-1.0) and not Label("Hm.", -0.1, 0.9).is_sure(-1.0)


def test_a_package_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    out = tmp_path / "out.jsonl"
    assert main(["--weights", "w", "--data", str(corpus), "--language", "en", "--out", str(out)]) == 2
    assert "pip install faster-whisper" in capsys.readouterr().err
    assert not json.loads(f"[{out.read_text()}]" if out.exists() else "[]")
