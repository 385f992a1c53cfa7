"""What `scripts/cue_times.py` counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from redline.testing import silence
from redline.types import Segment, Transcript, Waveform, Word
from tests.scripts.loading import SCRIPTS, script


def test_each_cue_is_compared_with_its_own_first_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    cues = script("cue_times")
    srt = (
        "1\n00:00:01,000 --> 00:00:02,000\nOne two,\nthree.\n\n"
        "2\n00:00:03,500 --> 00:00:04,000\nFor it\n\n"
        "3\n00:01:00,000 --> 00:01:01,000\nfive\n"
    )
    words = [Word(at, at + 0.2, text) for at, text in enumerate(["zero", "one", "two", "three", "four", "it", "five"])]
    assert cues.misses(srt, words) == pytest.approx([0.0, 54.0]), "the second begins with a word that nobody said"


def test_each_preset_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    cues = script("cue_times")
    segments = tuple(Segment(at, 5.0 * at, 5.0 * at + 4.0, "so many words in so little time") for at in range(4))
    transcript = Transcript(" ".join(each.text for each in segments), segments, "en", 20.0, "fake", "transcribe")
    cues.draw(Waveform(silence(20.0).samples), transcript, tmp_path / "cues.png")
    assert (tmp_path / "cues.png").read_bytes().startswith(b"\x89PNG")
