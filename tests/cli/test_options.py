"""Options of `redline transcribe`: handed over by name, refused before any work."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from redline import load as load_module
from redline.audio import AudioOptions
from redline.cli.main import app
from redline.cli.transcribe import keywords_of
from redline.errors import RedlineError
from redline.longform.session import Session
from redline.testing import FakeRecognizer
from redline.transcriber import Model, Transcriber
from redline.types import ClipLimits, Task, Transcript
from tests.cli.commands import Run


@pytest.mark.parametrize(
    "arguments",
    [
        *(("--format", "pdf"), ("--format", ","), ("--format", "txt,srt"), ("--format", "srt", "--show-edits")),
        *(("--format", "docx"), ("--format", "docx", "--show-edits")),
    ],
)
def test_wrong_options_are_refused_before_any_work(run: Run, arguments: tuple[str, ...], jfk: Path) -> None:
    result = run(jfk, *arguments, respond=lambda clip: pytest.fail("worked"))
    assert result.exit_code == 2 and "--format" in result.stderr


def test_several_recordings_on_stdout_are_text_only(run: Run, recordings: Path) -> None:
    result = run(recordings, "--format", "json")
    assert result.exit_code == 2 and "--output-dir" in result.stderr


def test_what_the_model_cannot_do_is_one_line(random_checkpoint: Path, jfk: Path) -> None:
    for arguments in (["--language", "fr"], ["--device", "abacus"], ["--model", "no-such-model"]):
        result = CliRunner().invoke(app, ["transcribe", str(jfk), "--model", str(random_checkpoint), *arguments])
        assert result.exit_code == 2 and result.stdout == ""
        assert result.stderr.startswith("redline: ") and result.stderr.count("\n") == 1


def test_an_option_of_whispers_command_is_refused_with_ours() -> None:
    result = CliRunner().invoke(app, ["transcribe", "a.wav", "--word_timestamps", "True"], env={"COLUMNS": "200"})
    assert result.exit_code == 2 and "No such option: --word_timestamps; here it is --word-timestamps" in result.stderr


def test_keywords_come_from_a_file_or_a_list(tmp_path: Path) -> None:

    (tmp_path / "terms.txt").write_text("oat milk\n\n cortado \n", encoding="utf-8")
    assert keywords_of(str(tmp_path / "terms.txt")) == ["oat milk", "cortado"]
    assert keywords_of("oat milk, cortado,") == ["oat milk", "cortado"] and keywords_of("Priya") == ["Priya"]
    assert len(keywords_of(", ".join(f"word{number}" for number in range(100)))) == 100  # longer than a file's name
    for missing in ("terms.txt", str(tmp_path / "none")):
        with pytest.raises(RedlineError, match="no such file"):
            keywords_of(missing)


def test_options_are_handed_over_by_name_and_none_is_lost(
    monkeypatch: pytest.MonkeyPatch, jfk: Path, tmp_path: Path
) -> None:
    calls: list[tuple[set[str], dict[str, Any]]] = []

    def recorded(function: Callable[..., Any], result: Callable[[], Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            calls.append((set(inspect.signature(function).parameters), options))
            return result()

        return call

    monkeypatch.setattr(Model, "transcribe_each", recorded(Model.transcribe_each, lambda: iter([Transcript("")])))
    load = recorded(load_module.load_model, lambda: Model(FakeRecognizer()))
    monkeypatch.setattr(load_module, "load_model", load)
    given = {
        "--revision": "r",
        "--beams": "3",
        "--drafts": "none",
        "--draft-lm": "none",
        "--device": "cpu",
        "--effort": "full",
        "--engine": "plain",
        "--dtype": "float32",
    }
    given |= {"--threads": "2", "--language": "en", "--task": "translate", "--to": "de", "--keywords": "a, b"}
    given |= {"--prompt": "p", "--prefix": "so", "--channel": "1", "--track": "2", "--clip": "1-2"}
    flags = ["--speakers", "--no-vad", "--digits", "--no-punctuation", "--word-timestamps", "--format", "txt"]
    result = CliRunner().invoke(app, ["transcribe", str(jfk), *itertools.chain(*given.items()), *flags])
    assert result.exit_code == 0, result.output
    (loading, loaded), (asking, asked) = calls
    assert loaded == {
        **{"revision": "r", "device": "cpu", "draft_lm": "none", "punctuate": False, "beams": 3, "drafts": "none"},
        **{"threads": 2, "effort": "full", "engine": "plain", "dtype": "float32"},
    }
    assert loading - set(loaded) == {"name", "temperature", "seed"}
    del asked["progress"]
    assert asked == {
        **{"language": "en", "task": "translate", "target_language": "de", "words": True, "speakers": True},
        **{"keywords": ["a", "b"], "prompt": "p", "prefix": "so", "vad": False, "digits": True},
        **{"channels": "mix", "speaker_db": None, "speaker_samples": {}},
        "audio_options": AudioOptions(channel=1, track=2, parts=((1.0, 2.0),)),
    }
    assert asking - set(asked) == {
        *("self", "sources", "sample_rate", "progress", "session_options", "on_segment", "answers"),
    }


def test_a_format_of_words_or_of_turns_asks_for_them(monkeypatch: pytest.MonkeyPatch, run: Run, jfk: Path) -> None:
    asked: list[Task] = []

    def limits(recognizer: FakeRecognizer, task: Task) -> ClipLimits:
        asked.append(task)
        return ClipLimits(30.0)

    monkeypatch.setattr(FakeRecognizer, "limits", limits)
    for format, words, speakers in (("ctm", True, False), ("rttm", False, True), ("srt", False, False)):
        asked.clear()
        assert run(jfk, "--format", format).exit_code == 0
        assert {(task.words, task.speakers) for task in asked} == {(words, speakers)}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--vad-threshold", "1.5"], "allowed is 0 < offset <= onset < 1"),
        (["--min-silence", "-1"], "min_silence_s is -1"),
        (["--pad", "-0.1"], "pad_s is -0.1"),
        (["--pad", "0.2", "--no-vad"], "--no-vad"),
    ],
)
def test_detection_that_cannot_be_is_refused_before_anything_is_made(
    options: list[str], said: str, jfk: Path, tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, ["transcribe", str(jfk), "--output-dir", str(tmp_path / "out"), *options])
    assert result.exit_code == 2 and said in " ".join(result.output.split()) and not (tmp_path / "out").exists()


def test_detection_is_what_was_asked_for(jfk: Path, random_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    session = Transcriber.session

    def noted(self: Transcriber, task: Task, **options: Any) -> Session:
        seen.append(options["options"])
        return session(self, task, **options)

    monkeypatch.setattr(Transcriber, "session", noted)
    command = ["transcribe", str(jfk), "--model", str(random_checkpoint), "--quiet"]
    assert CliRunner().invoke(app, command).exit_code == 0
    given = ["--vad-threshold", "0.6", "--min-silence", "1", "--pad", "0.1"]
    assert CliRunner().invoke(app, [*command, *given]).exit_code == 0
    usual, own = seen
    assert usual is None and own.window.pad_s == 0.1 and own.window.join_s == 2.0
    assert own.vad.onset == 0.6 and own.vad.offset == pytest.approx(0.42) and own.vad.min_silence_s == 1.0


def test_speakers_need_no_number_in_front_of_a_file(monkeypatch: pytest.MonkeyPatch, jfk: Path) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(load_module, "load_model", lambda *args, **options: Model(FakeRecognizer()))

    def noted(self: Model, sources: Any, **options: Any) -> Any:
        asked.append(options["speakers"])
        return iter([Transcript("")])

    monkeypatch.setattr(Model, "transcribe_each", noted)
    for given in ([], ["--speakers"], ["--speakers", "2"], ["--speakers", "2-4"], ["--speakers=auto"]):
        assert CliRunner().invoke(app, ["transcribe", *given, str(jfk)]).exit_code == 0
        assert CliRunner().invoke(app, ["transcribe", str(jfk), *given]).exit_code == 0
    assert asked == [False, False, True, True, (2, 2), (2, 2), (2, 4), (2, 4), True, True]
    for wrong in ("0", "4-2", "101"):
        result = CliRunner().invoke(app, ["transcribe", str(jfk), "--speakers", wrong])
        assert result.exit_code == 2 and "allowed is a" in result.output
