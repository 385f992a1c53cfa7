"""What `redline transcribe` writes and prints: nothing replaced, nothing lost, any name, any encoding."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

import redline
from redline import files, formats
from redline import load as model_module
from redline.cli import console
from redline.cli.inputs import expand, output_names
from redline.cli.main import VERBS, app
from redline.engine.scheduler import BatchOptions
from redline.testing import FakeRecognizer
from redline.transcriber import Model
from redline.types import Edit, Hypothesis, Waveform
from tests.audio.test_containers import two_tracks

JFK = Path(__file__).parents[1] / "data" / "jfk.flac"
Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `redline transcribe` with a recognizer that hears the same in every window, and no speech detection."""

    def invoke(
        *arguments: object,
        hear: Callable[[Waveform], str | Hypothesis] = lambda clip: "heard",
        charset: str = "utf-8",
        batch_s: float = 120.0,
    ) -> Result:
        model = Model(FakeRecognizer(hear), batch=BatchOptions(batch_s))
        monkeypatch.setattr(model_module, "load_model", lambda *args, **kwargs: model)
        return CliRunner(charset=charset).invoke(app, ["transcribe", *map(str, arguments), "--no-vad"])

    return invoke


def recording(path: Path, seconds: float = 1.0) -> Path:
    with path.open("wb") as file:
        soundfile.write(file, np.zeros(round(16_000 * seconds)), 16_000, format="WAV")
    return path


# ------------------------------------------------------------------------------------------------- files that are there


def test_a_later_run_never_replaces_another_recordings_transcript(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(recording(tmp_path / "a.wav"), "--output-dir", out, hear=lambda clip: "the first")
    others = [recording(tmp_path / "a.mp3"), recording(tmp_path / "b.wav")]
    result = run(*others, "--output-dir", out, hear=lambda clip: "another")
    assert result.exit_code == 1 and (out / "a.txt").read_text() == "the first\n"
    assert (
        f"a.mp3: {out / 'a.txt'} is there already; --overwrite replaces it, --skip-existing leaves it" in result.stderr
    )
    assert (out / "b.txt").read_text() == "another\n"
    assert run(others[0], "--output-dir", out, hear=lambda clip: pytest.fail("worked")).exit_code == 2
    assert run(others[0], "--output-dir", out, "--overwrite", hear=lambda clip: "another").exit_code == 0
    assert (out / "a.txt").read_text() == "another\n"


def test_skip_existing_does_what_is_missing_and_says_how_much_it_skips(run: Run, tmp_path: Path) -> None:
    out, both = tmp_path / "out", [recording(tmp_path / name) for name in ("a.wav", "b.wav")]
    run(both[0], "--output-dir", out)
    result = run(*both, "--output-dir", out, "--skip-existing", hear=lambda clip: "new")
    assert result.exit_code == 0 and "1 recording, " in result.stderr and "1 skipped" in result.stderr
    assert [(out / name).read_text() for name in ("a.txt", "b.txt")] == ["heard\n", "new\n"]
    result = run(*both, "--output-dir", out, "--skip-existing", "--format", "txt,json", hear=lambda clip: "newer")
    assert (out / "a.txt").read_text() == "heard\n" and json.loads((out / "a.json").read_text())["text"] == "newer"
    result = run(*both, "--output-dir", out, "--skip-existing", hear=lambda clip: pytest.fail("worked"))
    assert result.exit_code == 0 and "0 recordings, 2 skipped" in result.stderr
    assert run(*both, "--overwrite", "--skip-existing").exit_code == 2


def test_a_file_that_appears_during_the_work_is_not_replaced(run: Run, tmp_path: Path) -> None:
    def hear(clip: Waveform) -> str:
        (tmp_path / "a.txt").write_text("another run's")
        return "heard"

    result = run(recording(tmp_path / "a.wav"), "--output-dir", tmp_path, hear=hear)
    assert result.exit_code == 2 and "is there now" in result.stderr
    assert (tmp_path / "a.txt").read_text() == "another run's"


def test_what_a_killed_run_left_is_cleaned_by_the_next(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".redline-0123abcd.part").write_text("half")
    run(recording(tmp_path / "a.wav"), "--output-dir", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.txt"]


def test_an_output_dir_that_cannot_be_one_is_told_in_words(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder, told in ((tmp_path / "file", "is a file; name a folder"), (tmp_path / "file" / "x", "not a folder")):
        result = run(JFK, "--output-dir", folder, hear=lambda clip: pytest.fail("worked"))
        assert result.exit_code == 2 and told in result.stderr
        assert "Errno" not in result.stderr and "Traceback" not in result.stderr and result.stderr.count("\n") == 1


def test_format_all_is_what_can_be_filled(run: Run, tmp_path: Path) -> None:
    result = run(recording(tmp_path / "a.wav"), "--output-dir", tmp_path / "out", "--format", "all")
    assert result.exit_code == 0
    assert {path.suffix[1:] for path in (tmp_path / "out").iterdir()} == set(formats.FORMATS) - {"rttm"}
    run(tmp_path / "a.wav", "--output-dir", tmp_path / "two", "--format", "all", "--speakers")
    assert {path.suffix[1:] for path in (tmp_path / "two").iterdir()} == set(formats.FORMATS)


def test_a_track_is_chosen_by_its_number_and_one_that_is_not_there_is_told(run: Run, tmp_path: Path) -> None:
    film = tmp_path / "film.mkv"
    film.write_bytes(two_tracks())

    def pitch(clip: Waveform) -> str:
        return f"{np.abs(np.fft.rfft(clip.samples)).argmax() / clip.duration:.0f}"

    for track, hertz in (("0", 440), ("1", 1000)):
        heard = run(film, "--track", track, hear=pitch)
        assert heard.exit_code == 0 and abs(int(heard.stdout) - hertz) < 5
    absent = run(film, "--track", "7", hear=lambda clip: pytest.fail("worked"))
    assert absent.exit_code == 2 and "film.mkv" in absent.stderr and "track" in absent.stderr


# ---------------------------------------------------------------------------------------------------------------- names


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
        path.read_text(encoding="utf-8")
        assert os.fsencode(path.stem) in (name, b"other") or len(os.fsencode(path.name)) >= 240
    assert "\x1b" not in result.output and "\udce9" not in result.output


def test_a_name_that_is_too_long_with_its_ending_is_shortened_and_told(run: Run, tmp_path: Path) -> None:
    recording(tmp_path / ("n" * 251 + ".wav"))
    result = run(tmp_path, "--output-dir", tmp_path / "out", "--format", "json")
    assert result.exit_code == 0 and f"is written to {'n' * 250}.*" in result.stderr
    assert output_names(["ä" * 9, "ä" * 8, "ä" * 9], 16) == ["ä" * 8, "ä" * 7 + "-2", "ä" * 7 + "-3"]


def test_a_file_that_begins_with_a_dash_is_read_behind_two_dashes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recording(tmp_path / "-x.wav")
    monkeypatch.setattr(model_module, "load_model", lambda *args, **kwargs: Model(FakeRecognizer(lambda clip: "heard")))
    result = CliRunner().invoke(app, ["transcribe", "--no-vad", "--", "-x.wav"])
    assert result.exit_code == 0 and result.stdout == "heard\n"
    result = CliRunner().invoke(app, ["transcribe", "-x.wav"], env={"COLUMNS": "200"})
    assert result.exit_code == 2 and "redline transcribe [OPTIONS] -- -x.wav" in result.stderr


def test_an_option_of_whispers_command_is_refused_with_ours() -> None:
    result = CliRunner().invoke(app, ["transcribe", "a.wav", "--word_timestamps", "True"], env={"COLUMNS": "200"})
    assert result.exit_code == 2 and "No such option: --word_timestamps; here it is --word-timestamps" in result.stderr


# -------------------------------------------------------------------------------------------------------------- folders


def test_what_is_left_out_of_a_folder_is_told(run: Run, tmp_path: Path) -> None:
    recording(tmp_path / "a.WAV")
    for name in ("b.doc", "c.doc", "notes", ".hidden.doc"):
        (tmp_path / name).write_text("")
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere")
    (tmp_path / "round").symlink_to(tmp_path)
    inputs, problems, left_out = expand([str(tmp_path)])
    assert [one.path.name for one in inputs if one.path] == ["a.WAV"] and problems == []
    (line,) = left_out
    for kind in ("2 .doc", "1 without an ending", "1 pipe or device", "1 broken link", "1 linked folder"):
        assert kind in line
    result = run(tmp_path)
    assert result.exit_code == 0 and line in result.stderr


def test_a_folder_that_cannot_be_read_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def closed(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    _, problems, _ = expand([str(tmp_path)])
    assert any("closed: not permitted" in problem for problem in problems)


# ------------------------------------------------------------------------------------------------------------- encoding

GERMAN = "Grüße"


@pytest.mark.parametrize("charset", ["ascii", "latin-1", "utf-8"])
def test_a_text_is_printed_in_any_encoding(run: Run, tmp_path: Path, charset: str) -> None:
    path = recording(tmp_path / "straße ☃.wav")
    can = charset != "ascii"
    result = run(path, hear=lambda clip: GERMAN, charset=charset)
    assert result.exit_code == 0, result.exception
    assert result.stdout_bytes.decode(charset) == (f"{GERMAN}\n" if can else "Gr\\xfc\\xdfe\n")
    assert ("PYTHONIOENCODING" in result.stderr) is not can
    found = json.loads(run(path, "--format", "json", hear=lambda clip: GERMAN, charset=charset).stdout_bytes)
    assert found["text"] == GERMAN, "json is valid in any encoding"
    result = run(path, "--output-dir", tmp_path / charset, hear=lambda clip: GERMAN, charset=charset)
    assert result.exit_code == 0 and (tmp_path / charset / "straße ☃.txt").read_text(encoding="utf-8") == f"{GERMAN}\n"
    edits = (Edit("replace", " Grusse", f" {GERMAN}", 0),)
    result = run(path, "--show-edits", hear=lambda clip: Hypothesis(GERMAN, "Grusse", edits), charset=charset)
    assert result.exit_code == 0 and b"[-Grusse-]{+Gr" in result.stdout_bytes
    assert run(tmp_path / "weiß ☃.wav", charset=charset).exit_code == 2, "errors are printed, too"


@pytest.mark.parametrize(
    "arguments",
    [
        ("transcribe", "{name}"),
        ("info", "--model", "{name}"),
        ("evaluate", "--data", "{name}"),
        ("prepare", "{name}", "--out", "x.jsonl"),
        ("check", "{name}"),
        ("train", "{name}", "--data", "x"),
        ("finetune", "--data", "{name}", "--out", "x"),
    ],
)
def test_every_verb_complains_in_one_line_that_a_terminal_does_not_obey(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [one.format(name="no\x1b[31m\nsuch.jsonl") for one in arguments])
    assert result.exit_code == 2 and result.stderr.startswith("redline: ")
    assert "\x1b" not in result.stderr and result.stderr.count("\n") == 1 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_prints_what_an_encoding_does_not_have(verb: str) -> None:
    result = CliRunner(charset="ascii").invoke(app, [verb, "--ümlaut☃"])
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit) and "mlaut" in result.stderr


# --------------------------------------------------------------------------------------------------- faults and --debug


def test_a_fault_of_the_program_is_not_taken_for_a_bad_recording(run: Run, tmp_path: Path) -> None:
    def hear(clip: Waveform) -> str:
        raise IndexError("list index out of range")

    result = run(recording(tmp_path / "a.wav"), recording(tmp_path / "b.wav"), hear=hear)
    assert result.exit_code == console.INTERNAL_ERROR and result.stderr.count("\n") == 1
    assert "internal error" in result.stderr and "IndexError: list index out of range" in result.stderr
    assert "--debug" in result.stderr and "Traceback" not in result.stderr


def test_debug_prints_the_traceback(run: Run, tmp_path: Path) -> None:
    import logging

    def hear(clip: Waveform) -> str:
        raise IndexError("list index out of range")

    try:
        result = run(recording(tmp_path / "a.wav"), "--debug", hear=hear)
    finally:
        logging.getLogger("redline").setLevel(logging.NOTSET)
    assert result.exit_code == console.INTERNAL_ERROR and "Traceback" in result.stderr and "in hear" in result.stderr


# ---------------------------------------------------------------------------------------------------------- interrupted


def stop_after(count: int) -> Callable[[Waveform], str]:
    heard: list[float] = []

    def hear(clip: Waveform) -> str:
        if len(heard) == count:
            raise KeyboardInterrupt
        heard.append(clip.duration)
        return f"window {len(heard)}"

    return hear


def test_interruption_keeps_the_windows_that_are_finished(run: Run, tmp_path: Path) -> None:
    path, out = recording(tmp_path / "long.wav", 100.0), tmp_path / "out"
    result = run(path, "--output-dir", out, "--format", "txt,json", hear=stop_after(2), batch_s=1.0)
    assert result.exit_code == 130
    assert {file.name for file in out.iterdir()} == {"long.txt.partial", "long.json.partial"}
    assert (out / "long.txt.partial").read_text() == "window 1\nwindow 2\n"
    made = json.loads((out / "long.json.partial").read_text())
    (notice,) = made["warnings"]
    assert notice["code"] == "interrupted" and notice["start"] == made["segments"][-1]["end"]
    assert notice["end"] == made["duration"] == 100.0
    assert str(out / "long.txt.partial") in result.stderr and "of 1:40 are missing" in result.stderr
    run(path, "--output-dir", out, hear=stop_after(2), batch_s=1.0)
    assert (out / "long.2.txt.partial").read_text() == "window 1\nwindow 2\n", "and never over what is there"
    assert run(path, hear=stop_after(2), batch_s=1.0).stdout == "window 1\nwindow 2\n", "without a folder it is printed"


def test_interruption_delivers_the_recordings_that_are_done(run: Run, tmp_path: Path) -> None:
    paths = [recording(tmp_path / "a.wav"), recording(tmp_path / "b.wav", 80.0), recording(tmp_path / "c.wav", 80.0)]
    result = run(*paths, "--output-dir", tmp_path / "out", hear=stop_after(2), batch_s=1.0)
    assert result.exit_code == 130 and "interrupted; 1 of 3 recordings are done" in result.stderr
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"a.txt", "b.txt.partial"}


def test_a_signal_during_writing_loses_nothing_that_is_done(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = files.write_text

    def signalled(path: Path, text: str, **options: bool) -> Path:
        if path.name == "a.txt":
            os.kill(os.getpid(), signal.SIGTERM)
        return write(path, text, **options)

    monkeypatch.setattr(files, "write_text", signalled)
    paths = [recording(tmp_path / f"{name}.wav") for name in "abc"]
    before = signal.getsignal(signal.SIGTERM)
    result = run(*paths, "--output-dir", tmp_path / "out")
    assert result.exit_code == 143 and "3 of 3 recordings are done" in result.stderr
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"a.txt", "b.txt", "c.txt"}
    assert signal.getsignal(signal.SIGTERM) == before


def test_ctrl_c_pressed_twice_in_a_row_loses_nothing_that_is_done(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = 0

    def hear(clip: Waveform) -> str:
        nonlocal done
        done += 1
        if done == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return f"window {done}"

    write, signalled = files.write_text, list[Path]()

    def writing(path: Path, text: str, **options: bool) -> Path:
        signalled.append(path)
        os.kill(os.getpid(), signal.SIGTERM)
        return write(path, text, **options)

    monkeypatch.setattr(files, "write_text", writing)
    result = run(recording(tmp_path / "long.wav", 100.0), "--output-dir", tmp_path / "out", hear=hear, batch_s=1.0)
    assert result.exit_code == 143 and len(signalled) == 1
    assert (tmp_path / "out" / "long.txt.partial").read_text() == "window 1\nwindow 2\n"
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["long.txt.partial"]


def test_ctrl_c_while_the_program_ends_shows_no_traceback() -> None:
    code = (
        "import atexit, os, signal\nfrom redline.cli.main import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests run under\n"
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))\nmain()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGINT and ended.stderr == "" and ended.stdout.startswith("redline ")


def test_ctrl_c_in_a_long_recording_keeps_what_is_done(tmp_path: Path) -> None:
    recording(tmp_path / "long.wav", 200.0)
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests run under\n"
        "from redline import load\nfrom redline.transcriber import Transcriber\n"
        "from redline.engine.scheduler import BatchOptions\n"
        "from redline.testing import FakeRecognizer\nfrom redline.cli.main import main\n"
        "calls = 0\n"
        "def hear(clip):\n"
        "    global calls\n    calls += 1\n"
        "    if calls == 5: open('started', 'w').close()\n"
        "    if calls >= 5: time.sleep(60)\n"
        "    return 'heard'\n"
        "load.load_model = lambda *args, **kwargs: Transcriber(FakeRecognizer(hear), batch=BatchOptions(1.0))\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, "transcribe", "long.wav", "--no-vad", "--output-dir", "out"]
    environment = os.environ | {"PYTHONPATH": str(Path(redline.__file__).parents[1])}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "started").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["long.txt.partial"], told
    assert (tmp_path / "out" / "long.txt.partial").read_text().count("heard") >= 3
    assert "out/long.txt.partial" in told and "Traceback" not in told
