"""What `redline transcribe` prints: text on standard output, messages on standard error, tracked changes."""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console

from redline.cli import show
from redline.errors import RecognitionError
from redline.types import Edit, Hypothesis, Notice, Waveform, Word
from tests.cli.commands import EDITED, Run


def test_text_goes_to_stdout_and_messages_to_stderr(run_vad: Run, jfk: Path) -> None:
    result = run_vad(jfk)
    assert result.exit_code == 0
    assert result.stdout == "heard\nheard\nheard\n"
    assert re.fullmatch(r"redline: 1 recording, 11\.0 s of audio in .* \(.* x real time\)\n", result.stderr)
    assert run_vad(jfk, "--quiet").stderr == ""


def test_several_recordings_are_told_apart(run_vad: Run, recordings: Path) -> None:
    result = run_vad(recordings)
    assert result.exit_code == 1
    text = "heard\nheard\nheard\n"
    small, large = recordings / "sub" / "Talk.flac", recordings / "talk.flac"
    assert result.stdout == f"==> {small} <==\n{text}\n==> {large} <==\n{text}"
    assert f"redline: {recordings / 'bad.wav'}: " in result.stderr and "1 failed" in result.stderr


def test_warnings_are_told_with_their_times(run_vad: Run, jfk: Path) -> None:
    def respond(clip: Waveform) -> str:
        if clip.duration < 2:
            raise RecognitionError("no luck")
        return "heard"

    result = run_vad(jfk, respond=respond)
    assert result.exit_code == 0 and result.stdout == "heard\nheard\n"
    assert re.search(rf"{re.escape(str(jfk))}: 0:03\.\d to 0:04\.\d: .*RecognitionError: no luck\n", result.stderr)


def test_silence_is_told(run_vad: Run, tmp_path: Path) -> None:
    import soundfile

    soundfile.write(tmp_path / "silence.wav", [0.0] * 16_000, 16_000)
    result = run_vad(tmp_path / "silence.wav")
    assert result.exit_code == 0 and result.stdout == ""
    assert "no speech; the recording is silent" in result.stderr


def test_standard_input_is_a_recording(run_vad: Run, jfk: Path) -> None:
    assert run_vad("-").exit_code == 2
    result = run_vad("-", "--format", "srt", stdin=jfk.read_bytes())
    assert result.exit_code == 0 and result.stdout.startswith("1\n00:00:00,")


def test_markup_in_a_transcript_is_printed_as_it_is(run_vad: Run, jfk: Path) -> None:
    text = "[red]not a style[/red] :smile: " + 20 * "a long line that no console may fold "
    assert run_vad(jfk, respond=lambda clip: text).stdout.splitlines()[0] == text.strip()
    edits = (Edit("keep", text, text, 0),)
    result = run_vad(jfk, "--show-edits", respond=lambda clip: Hypothesis(text, text, edits))
    assert result.stdout.splitlines()[0] == text.strip()


def test_edits_are_marked_where_there_is_no_color(run_vad: Run, jfk: Path) -> None:
    result = run_vad(jfk, "--show-edits", respond=lambda clip: EDITED)
    line = "[-and-]{+And+} [-so-]{+so,+} my [-fello-]{+fellow+} [-um-] [-americans-]{+Americans+}"
    assert result.stdout == f"{line}\n" * 3


def test_edits_are_struck_red_and_green_on_a_terminal() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="standard", width=200)
    console.print(show.edited_line(EDITED.edits[:3], color=True))
    assert out.getvalue() == "\x1b[9;31mand\x1b[0m \x1b[32mAnd\x1b[0m \x1b[9;31mso\x1b[0m \x1b[32mso,\x1b[0m\n"


def test_words_that_are_likely_wrong_are_marked() -> None:
    words = [Word(0.0, 1.0, text, confidence) for text, confidence in (("And", 0.9), ("so,", 0.4), ("my", 0.2))]
    edits = EDITED.edits[:3]
    count = len("".join(edit.text for edit in edits).split())
    plain = show.edited_line(edits, False, words[:count]).plain
    assert (
        plain == "[-and-]{+And+} [-so-]{+so,(?)+} my(?)"[: len(plain)] and "so,(?)" in plain and "And(?)" not in plain
    )
    out = io.StringIO()
    Console(file=out, force_terminal=True, color_system="standard", width=200).print(
        show.edited_line(edits, True, words[:count])
    )
    assert "\x1b[4;32mso,\x1b[0m" in out.getvalue() and "\x1b[32mAnd\x1b[0m" in out.getvalue()
    assert show.edited_line(edits, False, words[:1]).plain == show.edited_line(edits, False).plain, "of another text"


def test_a_model_without_drafts_says_so(run_vad: Run, jfk: Path) -> None:
    result = run_vad(jfk, "--show-edits")
    assert result.stdout == "heard\nheard\nheard\n" and "writes no draft" in result.stderr


def test_edits_are_shown_in_the_files_that_can_hold_them_and_in_md_on_stdout(
    run: Run, tmp_path: Path, jfk: Path
) -> None:
    shown = "**[0:00:00]** ~~and~~ **And** ~~so~~ **so,** my ~~fello~~ **fellow** ~~um~~ ~~americans~~ **Americans**\n"
    result = run(jfk, "--format", "md", "--show-edits", respond=lambda clip: EDITED)
    assert result.stdout.startswith("# jfk\n") and result.stdout.endswith(shown) and "no draft" not in result.stderr
    assert "writes no draft" in run(jfk, "--format", "md", "--show-edits").stderr
    result = run(jfk, "--show-edits", "--output-dir", tmp_path, "--format", "md,docx", respond=lambda clip: EDITED)
    assert result.stdout.startswith("[-and-]{+And+}") and (tmp_path / "jfk.md").read_text().endswith(shown)
    assert b'<w:ins w:id="2"' in (tmp_path / "jfk.docx").read_bytes()


def test_times_read_well() -> None:
    assert [show.clock(s) for s in (0, 7.4, 59.6, 725, 3600)] == ["0:00", "0:07", "1:00", "12:05", "1:00:00"]
    assert [show.clock(s, tenths=True) for s in (0.04, 59.96)] == ["0:00.0", "1:00.0"]
    assert [show.length(s) for s in (0.31, 59.94, 59.96)] == ["0.3 s", "59.9 s", "1:00"]
    assert [show.speed(a, w) for a, w in ((11, 2), (110, 1), (1, 0))] == [
        *("5.5 x real time", "110 x real time", "1000 x real time")
    ]
    assert show.notice_line("a.wav", Notice("c", "a.wav: torn", 1.0, 62.5)) == "a.wav: 0:01.0 to 1:02.5: torn"
