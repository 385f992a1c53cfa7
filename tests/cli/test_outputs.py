"""The files of `redline transcribe`: nothing replaced, nothing lost, names of any bytes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from redline import formats
from redline.cli.main import app
from redline.cli.outputs import output_names
from redline.types import Waveform
from tests.cli.commands import Run, recording


def test_files_are_written_in_every_format_and_none_over_another(run: Run, recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    result = run(recordings, "--output-dir", out, "--format", "txt,json,srt,vtt,tsv")
    assert result.exit_code == 1 and result.stdout == ""
    names = {f"{stem}.{format}" for stem in ("Talk", "talk-2") for format in ("txt", "json", "srt", "vtt", "tsv")}
    assert {path.name for path in out.iterdir()} == names
    assert "talk-2.*" in result.stderr and "written to" in result.stderr
    assert json.loads((out / "talk-2.json").read_text(encoding="utf-8"))["text"] == "heard"


def test_output_that_cannot_be_written_is_a_failure_of_that_recording(run: Run, tmp_path: Path, jfk: Path) -> None:
    (tmp_path / "jfk.txt").mkdir()
    result = run(jfk, "--output-dir", tmp_path, "--overwrite")
    assert result.exit_code == 2 and "cannot be written" in result.stderr and "is a folder" in result.stderr


def test_names_of_outputs_never_collide() -> None:
    assert output_names(["a", "b", "a", "A", "a-2"]) == ["a", "b", "a-3", "A-4", "a-2"]


def test_a_later_run_never_replaces_another_recordings_transcript(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(recording(tmp_path / "a.wav"), "--output-dir", out, respond=lambda clip: "the first")
    others = [recording(tmp_path / "a.mp3"), recording(tmp_path / "b.wav")]
    result = run(*others, "--output-dir", out, respond=lambda clip: "another")
    assert result.exit_code == 1 and (out / "a.txt").read_text() == "the first\n"
    assert (
        f"a.mp3: {out / 'a.txt'} is there already; --overwrite replaces it, --skip-existing leaves it" in result.stderr
    )
    assert (out / "b.txt").read_text() == "another\n"
    assert run(others[0], "--output-dir", out, respond=lambda clip: pytest.fail("worked")).exit_code == 2
    assert run(others[0], "--output-dir", out, "--overwrite", respond=lambda clip: "another").exit_code == 0
    assert (out / "a.txt").read_text() == "another\n"


def test_skip_existing_does_what_is_missing_and_says_how_much_it_skips(run: Run, tmp_path: Path) -> None:
    out, both = tmp_path / "out", [recording(tmp_path / name) for name in ("a.wav", "b.wav")]
    run(both[0], "--output-dir", out)
    result = run(*both, "--output-dir", out, "--skip-existing", respond=lambda clip: "new")
    assert result.exit_code == 0 and "1 recording, " in result.stderr and "1 skipped" in result.stderr
    assert [(out / name).read_text() for name in ("a.txt", "b.txt")] == ["heard\n", "new\n"]
    result = run(*both, "--output-dir", out, "--skip-existing", "--format", "txt,json", respond=lambda clip: "newer")
    assert (out / "a.txt").read_text() == "heard\n" and json.loads((out / "a.json").read_text())["text"] == "newer"
    result = run(*both, "--output-dir", out, "--skip-existing", respond=lambda clip: pytest.fail("worked"))
    assert result.exit_code == 0 and "0 recordings, 2 skipped" in result.stderr
    assert run(*both, "--overwrite", "--skip-existing").exit_code == 2


def test_a_file_that_appears_during_the_work_is_not_replaced(run: Run, tmp_path: Path) -> None:
    def respond(clip: Waveform) -> str:
        (tmp_path / "a.txt").write_text("another run's")
        return "heard"

    result = run(recording(tmp_path / "a.wav"), "--output-dir", tmp_path, respond=respond)
    assert result.exit_code == 2 and "is there now" in result.stderr
    assert (tmp_path / "a.txt").read_text() == "another run's"


def test_what_a_killed_run_left_is_cleaned_by_the_next(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".redline-0123abcd.part").write_text("half")
    run(recording(tmp_path / "a.wav"), "--output-dir", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.txt"]


def test_an_output_dir_that_cannot_be_one_is_told_in_words(run: Run, tmp_path: Path, jfk: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder, message in ((tmp_path / "file", "is no folder"), (tmp_path / "file" / "x", "not a folder")):
        result = run(jfk, "--output-dir", folder, respond=lambda clip: pytest.fail("worked"))
        assert result.exit_code == 2 and message in result.stderr
        assert "Errno" not in result.stderr and "Traceback" not in result.stderr and result.stderr.count("\n") == 1


def test_format_all_is_what_can_be_filled(run: Run, tmp_path: Path) -> None:
    result = run(recording(tmp_path / "a.wav"), "--output-dir", tmp_path / "out", "--format", "all")
    assert result.exit_code == 0
    assert {path.suffix[1:] for path in (tmp_path / "out").iterdir()} == set(formats.TRANSCRIPT_FORMATS) - {"rttm"}
    run(tmp_path / "a.wav", "--output-dir", tmp_path / "two", "--format", "all", "--speakers")
    assert {path.suffix[1:] for path in (tmp_path / "two").iterdir()} == set(formats.TRANSCRIPT_FORMATS)


@pytest.mark.parametrize("name", [b"caf\xe9", b"n" * 246, b"n" * 251, b"\xc3\xa4" * 125, b"\x1b[31mred", b"two\nlines"])
def test_a_name_of_any_bytes_stops_nothing(run: Run, tmp_path: Path, name: bytes) -> None:
    (tmp_path / "in").mkdir()
    recording(tmp_path / "in" / os.fsdecode(name + b".wav"))
    recording(tmp_path / "in" / "other.wav")
    recording(tmp_path / "in" / "bad.wav").write_bytes(b"no sound")
    result = run(tmp_path / "in")
    assert result.exit_code == 1 and result.stdout.count("heard") == 2
    result = run(tmp_path / "in", "--output-dir", tmp_path / "out", "--format", "all")
    assert result.exit_code == 1 and len(list((tmp_path / "out").glob("*.txt"))) == 2
    for path in (tmp_path / "out").iterdir():
        assert path.suffix == ".docx" or path.read_text(encoding="utf-8") is not None
        assert os.fsencode(path.stem) in (name, b"other") or len(os.fsencode(path.name)) >= 240
    assert "\x1b" not in result.output and "\udce9" not in result.output


def test_a_name_that_is_too_long_with_its_ending_is_shortened_and_told(run: Run, tmp_path: Path) -> None:
    recording(tmp_path / ("n" * 251 + ".wav"))
    result = run(tmp_path, "--output-dir", tmp_path / "out", "--format", "json")
    assert result.exit_code == 0 and f"is written to {'n' * 250}.*" in result.stderr
    assert output_names(["ä" * 9, "ä" * 8, "ä" * 9], 16) == ["ä" * 8, "ä" * 7 + "-2", "ä" * 7 + "-3"]


def test_no_transcript_replaces_a_recording(run: Run, tmp_path: Path) -> None:
    misnamed = recording(tmp_path / "talk.txt")
    other = recording(tmp_path / "other.wav")
    before = misnamed.read_bytes()
    result = run(misnamed, other, "--output-dir", tmp_path, "--overwrite")
    assert result.exit_code == 1 and "talk.txt is a recording, and is not replaced" in result.stderr
    assert misnamed.read_bytes() == before and (tmp_path / "other.txt").is_file()


@pytest.mark.parametrize(
    "command", [["train", "tiny"], ["finetune", "--model", "tiny"], ["prepare"], ["evaluate", "--model", "tiny"]]
)
def test_a_command_that_is_refused_leaves_no_folder_behind(command: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    data = [str(tmp_path / "missing.jsonl")] if command[0] == "prepare" else ["--data", str(tmp_path / "missing.jsonl")]
    target = ["--json", str(out / "report.json")] if command[0] == "evaluate" else ["--out", str(out)]
    result = CliRunner().invoke(app, [*command, *data, *target])
    assert result.exit_code == 2 and "missing.jsonl" in result.stderr
    assert list(tmp_path.iterdir()) == []
