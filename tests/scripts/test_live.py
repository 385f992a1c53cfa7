"""What `scripts/live.py` measures, on a clock that the test moves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from redline import audio
from redline.engine.live import LiveOptions
from redline.testing import FakeRecognizer
from redline.transcriber import Transcriber
from redline.types import SAMPLE_RATE, Hypothesis, Waveform, Word
from tests.scripts.loading import script


class Clock:
    """Time that only recognizing takes: half a second for each clip."""

    def __init__(self, takes_s: float) -> None:
        self.now_s, self.takes_s = 0.0, takes_s

    def respond(self, clip: Waveform) -> Hypothesis:
        self.now_s += self.takes_s
        text = f"{clip.duration:.2f}"
        return Hypothesis(text, words=(Word(0.0, clip.duration, text),))


def measured(jfk: Path, takes_s: float, streams: int) -> dict[str, float]:
    clock = Clock(takes_s)
    sounds = [audio.load(jfk).samples[: 6 * SAMPLE_RATE]]
    result: dict[str, float] = script("live").measure(
        Transcriber(FakeRecognizer(clock.respond)), sounds, streams, 5.0, LiveOptions(), lambda: clock.now_s
    )
    return result


def test_what_a_recognizer_needs_is_in_latencies_and_load(jfk: Path) -> None:
    quick, slow, many = measured(jfk, 0.0, 1), measured(jfk, 0.05, 1), measured(jfk, 0.4, 5)
    assert quick["real_time_factor"] == 0 and quick["behind_p95_ms"] == 0 and quick["partials"] > 4
    assert 0 < quick["final_p50_ms"] < 700 and quick["partial_p95_ms"] < 300
    assert slow["final_p50_ms"] > quick["final_p50_ms"] and 0 < slow["real_time_factor"] < 0.3
    assert many["real_time_factor"] > 1 and many["behind_p95_ms"] > 500, "five people are too many for it"


def test_word_errors_of_files_and_streams_stand_side_by_side(
    jfk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"id": "a", "audio": str(jfk), "text": "heard heard", "duration": 11.0, "language": "en", "split": "dev"}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    live = script("live")
    monkeypatch.setattr(live.redline, "load_model", lambda *_, **__: Transcriber(FakeRecognizer(lambda clip: "heard")))
    live.main([str(tmp_path / "manifest.jsonl"), "--wer"])
    file, stream = map(json.loads, capsys.readouterr().out.splitlines())
    assert (file["what"], stream["what"]) == ("file", "live") and stream["windows"] > file["windows"]
    assert file["wer"] == 50.0 * abs(2 - file["windows"]) and np.isfinite(stream["wer"])


def test_the_picture_is_a_picture(jfk: Path, tmp_path: Path) -> None:
    model = Transcriber(FakeRecognizer(lambda clip: f"{clip.duration:.1f} s"))
    script("live").draw(model, audio.load(jfk).samples[: 4 * SAMPLE_RATE], LiveOptions(), tmp_path / "live.png")
    assert (tmp_path / "live.png").read_bytes().startswith(b"\x89PNG")
