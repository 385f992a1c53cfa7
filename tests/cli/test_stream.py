"""`redline transcribe --stream`: the text of a run that goes on is that of the finished one."""

from __future__ import annotations

from pathlib import Path

import pytest

from redline.cli.outputs import Printer
from redline.types import Hypothesis, Transcript, Turn, Waveform
from tests.cli.commands import EDITED, Run, recording


@pytest.fixture
def long(tmp_path: Path) -> Path:
    return recording(tmp_path / "long.wav", 300.0)


def counting() -> tuple[list[float], object]:
    clips: list[float] = []

    def respond(clip: Waveform) -> str:
        clips.append(clip.duration)
        return f"window {len(clips)}"

    return clips, respond


def test_text_appears_before_the_recording_ends(run: Run, long: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[int] = []
    clips, respond = counting()
    plain = Printer.print

    def noted(self: Printer, transcript: Transcript, label: str, name: str, format: str) -> None:
        printed.append(len(clips))
        plain(self, transcript, label, name, format)

    monkeypatch.setattr(Printer, "print", noted)
    result = run(long, "--stream", respond=respond, batch_s=30.0)
    assert result.exit_code == 0 and printed[0] <= 4 < len(clips), "the first windows are printed before the last"
    assert result.stdout == "".join(f"window {n}\n" for n in range(1, len(clips) + 1))


def test_streamed_text_is_the_text(run: Run, tmp_path: Path, long: Path) -> None:
    paths = [recording(tmp_path / "a.wav", 40.0), long, recording(tmp_path / "b.wav", 1.0)]

    def respond(clip: Waveform) -> str | Hypothesis:
        if clip.duration > 21:
            return Hypothesis("hi ho", turns=(Turn("1", 0.0, 1.0, "hi"), Turn("2", 1.0, 2.0, "ho")))
        return f"{clip.duration}"

    for options in ([], ["--speakers", "--speaker-names", "1=Ana"]):
        plain, streamed = (run(*paths, *options, *more, respond=respond) for more in ([], ["--stream"]))
        assert streamed.exit_code == 0 and streamed.stdout == plain.stdout and "hi" in plain.stdout
    assert "Ana: hi" in plain.stdout
    out = tmp_path / "out"
    result = run(*paths, "--stream", "--output-dir", out, "--format", "json,txt", respond=respond)
    assert result.stdout.count("==>") == 3 and (out / "long.txt").read_text() in result.stdout
    assert {path.name for path in out.iterdir()} == {f"{n}.{f}" for n in ("a", "long", "b") for f in ("json", "txt")}


def test_edits_are_streamed(run: Run, long: Path) -> None:
    plain, streamed = (run(long, "--show-edits", *more, respond=lambda clip: EDITED) for more in ([], ["--stream"]))
    assert streamed.stdout == plain.stdout and "[-um-]" in plain.stdout


def test_what_was_printed_before_an_interruption_is_not_printed_again(run: Run, long: Path) -> None:
    clips, respond = counting()

    def stopped(clip: Waveform) -> str:
        if len(clips) == 5:
            raise KeyboardInterrupt
        return respond(clip)  # type: ignore[operator, no-any-return]

    result = run(long, "--stream", respond=stopped, batch_s=1.0)
    assert result.exit_code == 130 and result.stdout == "".join(f"window {n}\n" for n in range(1, 6))


def test_formats_that_cannot_be_streamed_need_a_folder(run: Run, long: Path) -> None:
    result = run(long, "--stream", "--format", "json", respond=lambda clip: pytest.fail("worked"))
    assert result.exit_code == 2 and "--stream" in result.stderr and "--output-dir" in result.stderr


def test_a_silent_recording_streams_nothing_and_says_why(run_vad: Run, tmp_path: Path) -> None:
    result = run_vad(recording(tmp_path / "a.wav"), "--stream")
    assert result.exit_code == 0 and result.stdout == "" and "silent" in result.stderr
