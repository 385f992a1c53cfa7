"""The command `redline`, as a person at a terminal or a script meets it."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

import redline
from redline import load as model_module
from redline.cli import show
from redline.cli.inputs import expand, output_names
from redline.cli.main import VERBS, app
from redline.engine.scheduler import BatchOptions
from redline.errors import RecognitionError, RedlineError
from redline.testing import FakeRecognizer, tiny_checkpoint
from redline.transcriber import Model
from redline.types import Edit, Hypothesis, Notice, Waveform

JFK = Path(__file__).parents[1] / "data" / "jfk.flac"
EDITED = Hypothesis(
    text="And so, my fellow Americans",
    draft="and so my fello um americans",
    edits=(
        Edit("replace", " and", " And", 0),
        Edit("keep", " so", " so", 1),
        Edit("insert", "", ",", 2),
        Edit("keep", " my", " my", 2),
        Edit("keep", " fell", " fell", 3),
        Edit("replace", "o", "ow", 4),
        Edit("delete", " um", "", 5),
        Edit("replace", " americans", " Americans", 6),
    ),
)


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """A folder with two good recordings of one name and a bad one."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    shutil.copy(JFK, tmp_path / "in" / "talk.flac")
    shutil.copy(JFK, tmp_path / "in" / "sub" / "Talk.flac")
    (tmp_path / "in" / "bad.wav").write_bytes(b"not a recording")
    (tmp_path / "in" / "notes.txt").write_text("not for us")
    (tmp_path / "in" / ".hidden.wav").write_bytes(b"")
    return tmp_path / "in"


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `redline transcribe` with a recognizer that hears the same in every window."""

    def invoke(
        *arguments: object, hear: Callable[[Waveform], str | Hypothesis] = lambda clip: "heard", stdin: bytes = b""
    ) -> Result:
        model = Model(FakeRecognizer(hear), batch=BatchOptions(1.0))  # so that an interruption falls between windows
        monkeypatch.setattr(model_module, "load_model", lambda *args, **kwargs: model)
        return CliRunner().invoke(app, ["transcribe", *map(str, arguments)], input=stdin)

    return invoke


def on_terminal(arguments: list[str]) -> str:
    """Everything a command writes to a terminal of 80 columns, as the terminal gets it."""
    parent, child = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24", "OMP_NUM_THREADS": "1"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(arguments, stdin=child, stdout=child, stderr=child, env=environment) as process:
        os.close(child)
        seen, deadline = b"", time.monotonic() + 120
        while time.monotonic() < deadline:
            if select.select([parent], [], [], 1)[0]:
                try:
                    chunk = os.read(parent, 65536)
                except OSError:  # how Linux says that the other end is closed
                    break
                if not chunk:
                    break
                seen += chunk
        assert process.wait(timeout=10) == 0, seen
    os.close(parent)
    return seen.decode()


# ------------------------------------------------------------------------------------------------------ what is printed


def test_text_goes_to_stdout_and_messages_to_stderr(run: Run) -> None:
    result = run(JFK)
    assert result.exit_code == 0
    assert result.stdout == "heard\nheard\nheard\n"
    assert re.fullmatch(r"redline: 1 recording, 11\.0 s of audio in .* \(.* x real time\)\n", result.stderr)
    assert run(JFK, "--quiet").stderr == ""


def test_several_recordings_are_told_apart(run: Run, recordings: Path) -> None:
    result = run(recordings)
    assert result.exit_code == 1
    text = "heard\nheard\nheard\n"
    small, large = recordings / "sub" / "Talk.flac", recordings / "talk.flac"
    assert result.stdout == f"==> {small} <==\n{text}\n==> {large} <==\n{text}"
    assert f"redline: {recordings / 'bad.wav'}: " in result.stderr and "1 failed" in result.stderr


def test_warnings_are_told_with_their_times(run: Run) -> None:
    def hear(clip: Waveform) -> str:
        if clip.duration < 2:
            raise RecognitionError("no luck")
        return "heard"

    result = run(JFK, hear=hear)
    assert result.exit_code == 0 and result.stdout == "heard\nheard\n"
    assert re.search(rf"{re.escape(str(JFK))}: 0:02\.\d to 0:04\.\d: .*RecognitionError: no luck\n", result.stderr)


def test_silence_is_told(run: Run, tmp_path: Path) -> None:
    import soundfile

    soundfile.write(tmp_path / "silence.wav", [0.0] * 16_000, 16_000)
    result = run(tmp_path / "silence.wav")
    assert result.exit_code == 0 and result.stdout == ""
    assert "no speech; the recording is silent" in result.stderr


def test_standard_input_is_a_recording(run: Run) -> None:
    assert run("-").exit_code == 2
    result = run("-", "--format", "srt", stdin=JFK.read_bytes())
    assert result.exit_code == 0 and result.stdout.startswith("1\n00:00:00,")


def test_markup_in_a_transcript_is_printed_as_it_is(run: Run) -> None:
    text = "[red]not a style[/red] :smile: " + 20 * "a long line that no console may fold "
    assert run(JFK, hear=lambda clip: text).stdout.splitlines()[0] == text.strip()
    edits = (Edit("keep", text, text, 0),)
    result = run(JFK, "--show-edits", hear=lambda clip: Hypothesis(text, text, edits))
    assert result.stdout.splitlines()[0] == text.strip()


# ------------------------------------------------------------------------------------------------------ tracked changes


def test_edits_are_marked_where_there_is_no_color(run: Run) -> None:
    result = run(JFK, "--show-edits", hear=lambda clip: EDITED)
    line = "[-and-]{+And+} [-so-]{+so,+} my [-fello-]{+fellow+} [-um-] [-americans-]{+Americans+}"
    assert result.stdout == f"{line}\n" * 3


def test_edits_are_struck_red_and_green_on_a_terminal() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="standard", width=200)
    console.print(show.edited_line(EDITED.edits[:3], color=True))
    assert out.getvalue() == "\x1b[9;31mand\x1b[0m \x1b[32mAnd\x1b[0m \x1b[9;31mso\x1b[0m \x1b[32mso,\x1b[0m\n"


def test_a_model_without_drafts_says_so(run: Run) -> None:
    result = run(JFK, "--show-edits")
    assert result.stdout == "heard\nheard\nheard\n" and "writes no draft" in result.stderr


# --------------------------------------------------------------------------------------------------------- output files


def test_files_are_written_in_every_format_and_none_over_another(run: Run, recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    result = run(recordings, "--output-dir", out, "--format", "txt,json,srt,vtt,tsv")
    assert result.exit_code == 1 and result.stdout == ""
    names = {f"{stem}.{format}" for stem in ("Talk", "talk-2") for format in ("txt", "json", "srt", "vtt", "tsv")}
    assert {path.name for path in out.iterdir()} == names
    assert "talk-2.*" in result.stderr and "written to" in result.stderr
    assert json.loads((out / "talk-2.json").read_text(encoding="utf-8"))["text"] == "heard heard heard"


def test_output_that_cannot_be_written_is_a_failure_of_that_recording(run: Run, tmp_path: Path) -> None:
    (tmp_path / "jfk.txt").mkdir()
    result = run(JFK, "--output-dir", tmp_path, "--overwrite")
    assert result.exit_code == 2 and "cannot be written" in result.stderr and "is a folder" in result.stderr


def test_names_of_outputs_never_collide() -> None:
    assert output_names(["a", "b", "a", "A", "a-2"]) == ["a", "b", "a-3", "A-4", "a-2"]


# ---------------------------------------------------------------------------------------------------------- exit status


def test_nothing_produced_is_exit_2(run: Run, recordings: Path, tmp_path: Path) -> None:
    assert run(recordings / "bad.wav").exit_code == 2
    assert run(tmp_path / "missing.wav").exit_code == 2
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "empty", tmp_path / "*.mp3"):
        result = run(nothing)
        assert result.exit_code == 2 and "no " in result.stderr


def test_one_bad_argument_is_exit_1(run: Run, tmp_path: Path) -> None:
    assert run(JFK, tmp_path / "missing.wav").exit_code == 1
    assert run(JFK, tmp_path / "*.mp3").exit_code == 1


@pytest.mark.parametrize(
    "arguments",
    [("--format", "pdf"), ("--format", ","), ("--format", "txt,srt"), ("--format", "srt", "--show-edits")],
)
def test_wrong_options_are_refused_before_any_work(run: Run, arguments: tuple[str, ...]) -> None:
    result = run(JFK, *arguments, hear=lambda clip: pytest.fail("worked"))
    assert result.exit_code == 2 and "--format" in result.stderr


def test_several_recordings_on_stdout_are_text_only(run: Run, recordings: Path) -> None:
    result = run(recordings, "--format", "json")
    assert result.exit_code == 2 and "--output-dir" in result.stderr


def test_what_the_model_cannot_do_is_one_line(tmp_path: Path) -> None:
    folder = str(tiny_checkpoint(tmp_path / "model"))
    for arguments in (["--language", "fr"], ["--device", "abacus"], ["--model", "no-such-model"]):
        result = CliRunner().invoke(app, ["transcribe", str(JFK), "--model", folder, *arguments])
        assert result.exit_code == 2 and result.stdout == ""
        assert result.stderr.startswith("redline: ") and result.stderr.count("\n") == 1


def test_interrupted_work_says_what_is_done(run: Run, recordings: Path, tmp_path: Path) -> None:
    def hear(clip: Waveform) -> str:
        if list((tmp_path / "out").glob("*.txt")):
            raise KeyboardInterrupt
        return "heard"

    files = [recordings / "talk.flac", recordings / "sub" / "Talk.flac"]
    result = run(*files, "--output-dir", tmp_path / "out", hear=hear)
    assert result.exit_code == 130
    assert "interrupted; 1 of 2 recordings are done" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["talk.txt"]


# --------------------------------------------------------------------------------------------------------------- inputs


def test_folders_patterns_and_files_each_give_a_recording_once(recordings: Path) -> None:
    talk, other = recordings / "talk.flac", recordings / "sub" / "Talk.flac"
    inputs, problems, _ = expand(
        [str(recordings), str(talk), str(recordings / "*.flac"), str(recordings / "**" / "*.wav")]
    )
    assert problems == []
    assert [one.path for one in inputs] == [recordings / "bad.wav", other, talk]
    assert expand([str(recordings / "s*")])[0][0].path == other


def test_a_name_with_brackets_is_a_file_first(tmp_path: Path) -> None:
    path = tmp_path / "talk [1].wav"
    path.write_bytes(b"")
    assert [one.path for one in expand([str(path)])[0]] == [path]


# ------------------------------------------------------------------------------------------------------- times in words


def test_times_read_well() -> None:
    assert [show.clock(s) for s in (0, 7.4, 59.6, 725, 3600)] == ["0:00", "0:07", "1:00", "12:05", "1:00:00"]
    assert [show.clock(s, tenths=True) for s in (0.04, 59.96)] == ["0:00.0", "1:00.0"]
    assert [show.length(s) for s in (0.31, 59.94, 59.96)] == ["0.3 s", "59.9 s", "1:00"]
    assert [show.speed(a, w) for a, w in ((11, 2), (110, 1), (1, 0))] == [
        *("5.5 x real time", "110 x real time", "1000 x real time")
    ]
    assert show.notice_line("a.wav", Notice("c", "a.wav: torn", 1.0, 62.5)) == "redline: a.wav: 0:01.0 to 1:02.5: torn"


# ------------------------------------------------------------------------------------------------------- the real thing


def test_on_a_terminal_there_is_progress_and_then_only_the_text(tmp_path: Path) -> None:
    folder = str(tiny_checkpoint(tmp_path / "model"))
    seen = on_terminal([sys.executable, "-m", "redline", "transcribe", str(JFK), "--model", folder, "--show-edits"])
    assert "transcribing" in seen and "of audio" in seen
    lines = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in seen.replace("\r", "\n").split("\n")]
    assert all(len(line) <= 80 for line in lines if "of audio" in line)
    assert "\x1b[9;31m" in seen and "\x1b[32m" in seen
    assert seen.rstrip().endswith("real time)\x1b[0m")


def test_a_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    command = [sys.executable, "-m", "redline", "transcribe", str(JFK), "--model", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()


def test_help_is_fast_and_needs_no_torch() -> None:
    code = (
        "import sys\nfrom redline.cli.main import app\n"
        "try:\n    app(['transcribe', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'av', 'soxr', 'redline.cli.evaluate') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "--show-edits" in run.stdout and run.stdout.rstrip().endswith("[]")


def test_version_and_info(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"redline {redline.__version__}\n"
    folder = tiny_checkpoint(tmp_path / "model")
    facts = CliRunner().invoke(app, ["info", "--model", str(folder)]).stdout
    for fact in (redline.__version__, "granite_speech_nar", "0.2 million", "en", str(folder)):
        assert fact in facts
    assert CliRunner().invoke(app, ["info", "--model", str(tmp_path / "none")]).exit_code == 2


def test_bundled_models_are_listed() -> None:
    from redline.checkpoints.folder import bundled_names

    assert CliRunner().invoke(app, ["models", "list"]).stdout.split() == bundled_names()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str) -> None:
    result = CliRunner().invoke(app, [verb, "--help"])
    assert result.exit_code == 0 and f"redline {verb}" in result.stdout.replace("root", "redline")


def test_keywords_come_from_a_file_or_a_list(tmp_path: Path) -> None:
    from redline.cli.transcribe import _keywords

    (tmp_path / "terms.txt").write_text("oat milk\n\n cortado \n", encoding="utf-8")
    assert _keywords(str(tmp_path / "terms.txt")) == ["oat milk", "cortado"]
    assert _keywords("oat milk, cortado,") == ["oat milk", "cortado"] and _keywords("Priya") == ["Priya"]
    assert len(_keywords(", ".join(f"word{number}" for number in range(100)))) == 100  # longer than a file's name
    for missing in ("terms.txt", str(tmp_path / "none")):
        with pytest.raises(RedlineError, match="no such file"):
            _keywords(missing)
