"""`redline_recipes.tiny.synthesize` with a made-up voice: what it picks, drops, writes and takes up again."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

from redline_recipes.tiny import synthesize as script

# Speaks 15 characters a second; what it does with three words of the text is told below.
FAKE_VOICE = """
import array, math, sys, wave
text, path = open(sys.argv[1]).read().strip(), sys.argv[2]
if "broken" in text:
    sys.exit(3)
seconds = 1.0 if "hurried" in text else len(text) / 15
level = 0 if "silent" in text else 9000
samples = array.array("h", [int(level * math.sin(n / 10)) for n in range(int(seconds * 11025))])
with wave.open(path, "wb") as out:
    out.setparams((1, 2, 11025, 0, "NONE", ""))
    out.writeframes(samples.tobytes())
"""
PARAGRAPHS = [
    f"The {word} ship sailed slowly out of the old harbour in the {time}."
    for word in ("white", "green", "little", "great", "broken", "silent", "hurried")
    for time in ("morning", "evening")
]


@pytest.fixture
def call(tmp_path: Path) -> Callable[..., int]:
    (tmp_path / "voice.py").write_text(FAKE_VOICE, encoding="utf-8")
    (tmp_path / "book.txt").write_text("\n".join(PARAGRAPHS), encoding="utf-8")
    command = f"{sys.executable} {tmp_path / 'voice.py'} {{text}} {{wav}}"

    def run(out: Path, hours: float, *more: str) -> int:
        options = ["--text", str(tmp_path / "book.txt"), "--out", str(out), "--hours", str(hours)]
        code: int = script.main([*options, "--command", command, *more])
        return code

    return run


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


def test_manifest_tells_the_truth_about_its_clips(call: Callable[..., int], tmp_path: Path) -> None:
    assert call(tmp_path / "out", 20 / 3600) == 0
    clips = rows(tmp_path / "out")
    assert sum(row["duration"] for row in clips) >= 20
    for row in clips:
        info = soundfile.info(str(tmp_path / "out" / row["audio"]))
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "OPUS")
        assert info.duration == pytest.approx(row["duration"], abs=0.01)
        assert row["duration"] == pytest.approx(len(row["text"]) / 15, abs=0.01)
        assert row["text"] in PARAGRAPHS
        assert (row["language"], row["source"], row["split"]) == ("en", "synthetic", "train")


def test_a_part_of_a_second_that_is_missing_is_made(call: Callable[..., int], tmp_path: Path) -> None:
    assert call(tmp_path / "out", 8 / 3600) == 0
    seconds = sum(row["duration"] for row in rows(tmp_path / "out"))
    assert call(tmp_path / "out", (seconds + 0.01) / 3600) == 0
    assert len(rows(tmp_path / "out")) == 3


def test_bad_clips_are_dropped_and_counted(
    call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(tmp_path / "out", 1.0) == 1, "the text runs out"
    assert len(rows(tmp_path / "out")) == 8
    assert not any(word in row["text"] for row in rows(tmp_path / "out") for word in ("broken", "silent", "hurried"))
    message = capsys.readouterr().err
    assert "6 dropped" in message
    for reason in ("2 voice failed", "2 silent", "2 too short", "the text ran out"):
        assert reason in message


def test_resumed_equals_uninterrupted(call: Callable[..., int], tmp_path: Path) -> None:
    call(tmp_path / "whole", 30 / 3600)
    call(tmp_path / "parts", 10 / 3600)
    first = rows(tmp_path / "parts")
    with (tmp_path / "parts" / "manifest.jsonl").open("a", encoding="utf-8") as manifest:
        manifest.write('{"id": "cut off by a cra')
    call(tmp_path / "parts", 30 / 3600)
    assert rows(tmp_path / "parts")[: len(first)] == first
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_seed_decides_and_workers_do_not(call: Callable[..., int], tmp_path: Path) -> None:
    call(tmp_path / "one", 15 / 3600, "--jobs", "1", "--format", "flac")
    call(tmp_path / "three", 15 / 3600, "--jobs", "3", "--format", "flac")
    call(tmp_path / "other", 15 / 3600, "--seed", "7", "--format", "flac")
    assert rows(tmp_path / "one") == rows(tmp_path / "three")
    assert [row["text"] for row in rows(tmp_path / "one")] != [row["text"] for row in rows(tmp_path / "other")]
    assert all(row["audio"].endswith(".flac") for row in rows(tmp_path / "one"))


def test_only_sentences_that_are_read_as_written_are_kept() -> None:
    paragraph = (
        'Mr. Holmes and Mrs. Hudson walked slowly home. "I have had enough of this," she said to him at last. '
        "In 1884 there was a very great fire in the town. See the notes of Mr. J. Smith about all of it. "
        "He was a fine law- yer and a friend to me. Short one. It was late--too late to turn back again."
    )
    assert list(script.sentences(paragraph, "en")) == [
        "Mister Holmes and Missus Hudson walked slowly home.",
        "I have had enough of this, she said to him at last.",
        "It was late, too late to turn back again.",
    ]
    assert list(script.sentences("CHAPTER THE FIRST OF THE WHOLE BOOK", "en")) == []
    assert list(script.sentences("Der Ärger über die Fähre war groß, sagte er.", "de"))


def test_same_draw_gives_the_same_voice() -> None:
    import random

    for language in script.ESPEAK_ACCENTS:
        voices = [script.draw_voice("espeak-ng", language, random.Random(n)) for n in (1, 1, 2)]
        assert voices[0] == voices[1] != voices[2]
        assert "{text}" in voices[0].command and "{wav}" in voices[0].command


def test_no_synthesiser_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "book.txt").write_text(PARAGRAPHS[0], encoding="utf-8")
    monkeypatch.setattr(script.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match=re.escape("apt-get install espeak-ng flite festival")):
        script.main(["--text", str(tmp_path / "book.txt"), "--out", str(tmp_path / "out"), "--hours", "1"])


def test_command_without_places_is_refused(
    call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        call(tmp_path / "out", 1.0, "--command", "say-it")
    assert "needs both {text} and {wav}" in capsys.readouterr().err
