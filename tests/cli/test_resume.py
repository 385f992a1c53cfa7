"""`redline transcribe --resume`: a run that was killed anywhere goes on, and ends as an undisturbed one."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import redline
from redline import files
from redline.cli.journal import JOURNAL, Identity, Journal
from redline.types import Hypothesis, Notice, Span, SpeakerEmbedding, Turn, Waveform, Word
from tests.cli.commands import EDITED, Run, recording

COMMAND = """
import sys, time
from redline import load
from redline.cli.main import main
from redline.engine.scheduler import BatchOptions
from redline.testing import FakeRecognizer
from redline.transcriber import Transcriber
from redline.types import Hypothesis, Word

def hear(clip):
    open("heard", "a").write(f"{clip.source} {len(clip.samples)}\\n")
    time.sleep(PAUSE_S)
    sum = round(float(abs(clip.samples).sum()), 2)
    words = (Word(0.1, 0.5, "it", 0.25), Word(0.5, 1.0 / 3.0, f"{sum}", None))
    return Hypothesis(f"it {sum}", draft="it", confidence=1 / 3, timing=lambda: words)

model = Transcriber(FakeRecognizer(hear), batch=BatchOptions(1.0))
load.load_model = lambda *args, **kwargs: model
main()
"""


def noises(folder: Path, count: int, seconds: float = 0.5) -> None:
    """Different noises in short files, and one of them in a folder below under the same name."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(count)
    for number in range(count):
        place = folder / "below" if number == 1 else folder
        place.mkdir(exist_ok=True)
        samples = 0.1 * random.standard_normal(round(16_000 * seconds))
        soundfile.write(place / f"n{0 if number == 1 else number:03}.wav", samples, 16_000)


def start(folder: Path, out: str, pause_s: float, *options: str) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-c", COMMAND.replace("PAUSE_S", str(pause_s))]
    command += ["transcribe", "in", "--no-vad", "--output-dir", out, "--resume", "--format", "txt,srt,json", *options]
    environment = os.environ | {"PYTHONPATH": str(Path(redline.__file__).parents[1])}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def written(folder: Path) -> dict[str, bytes]:
    """The files of transcripts in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != JOURNAL}


def kill_again_and_again(folder: Path, kills: int, pause_s: float, seed: int = 0) -> int:
    """Start the command, kill it after a random time, and so on, then let it end; how often it was killed at work."""
    draw, killed = random.Random(seed), 0
    for _ in range(kills):
        with start(folder, "killed", pause_s) as process:
            begun, heard = time.monotonic(), folder / "heard"
            size = heard.stat().st_size if heard.exists() else 0
            while process.poll() is None and time.monotonic() - begun < 120:  # until the work has begun
                if heard.exists() and heard.stat().st_size != size:
                    break
                time.sleep(0.01)
            time.sleep(draw.uniform(0.0, 12 * pause_s))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            killed += process.returncode == -signal.SIGKILL
    return killed


def check_kills(folder: Path, count: int, kills: int, pause_s: float) -> None:
    """Every file once and to the bit as an undisturbed run writes it, and little was recognized twice."""
    noises(folder / "in", count)
    with start(folder, "calm", 0.0) as process:
        _, stderr = process.communicate(timeout=600)
        assert process.returncode == 0, stderr
    (folder / "heard").unlink()
    killed = kill_again_and_again(folder, kills, pause_s)
    assert killed >= kills / 2, "most runs were killed while they worked"
    with start(folder, "killed", 0.0) as process:
        _, stderr = process.communicate(timeout=600)
        assert process.returncode == 0, stderr
    calm = written(folder / "calm")
    assert len(calm) == 3 * count and written(folder / "killed") == calm
    heard = (folder / "heard").read_text().splitlines()
    assert count <= len(heard) <= count + 2 * killed, "at most one batch of a run is lost: two recordings"
    with start(folder, "killed", 0.0) as process:
        _, stderr = process.communicate(timeout=600)
    assert process.returncode == 0 and len((folder / "heard").read_text().splitlines()) == len(heard)
    assert "skipped" in stderr and str(count) in stderr


def test_killed_runs_end_as_an_undisturbed_one(tmp_path: Path) -> None:
    check_kills(tmp_path, count=8, kills=2, pause_s=0.05)


@pytest.mark.laws
def test_two_hundred_files_and_twenty_five_kills(tmp_path: Path) -> None:
    check_kills(tmp_path, count=200, kills=25, pause_s=0.05)


def test_a_long_recording_goes_on_inside(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    samples = 0.1 * np.random.default_rng(0).standard_normal(16_000 * 300)
    soundfile.write(tmp_path / "in" / "long.wav", samples, 16_000)
    with start(tmp_path, "calm", 0.0) as process:
        assert process.communicate(timeout=300) and process.returncode == 0
    windows = (tmp_path / "heard").read_text().splitlines()
    (tmp_path / "heard").unlink()
    assert len(windows) >= 10
    assert kill_again_and_again(tmp_path, kills=1, pause_s=0.2) == 1  # 2.8 s of work, killed within 2.4
    before = len((tmp_path / "heard").read_text().splitlines())
    with start(tmp_path, "killed", 0.0) as process:
        _, stderr = process.communicate(timeout=300)
    after = len((tmp_path / "heard").read_text().splitlines()) - before
    assert process.returncode == 0 and written(tmp_path / "killed") == written(tmp_path / "calm")
    assert after < len(windows) and before + after <= len(windows) + 3
    assert f"{len(windows) - after} windows of unfinished recordings were there already" in stderr


# ------------------------------------------------------------------------------------------------ what is done again


@pytest.fixture
def heard() -> list[str]:
    return []


def again(run: Run, tmp_path: Path, heard: list[str], *options: str, word: str = "heard") -> Any:
    """Transcribe the folder `in` into `out`; `heard` has the recordings that were recognized."""

    def respond(clip: Waveform) -> str:
        heard.append(Path(clip.source).name)
        return word

    heard.clear()
    return run(tmp_path / "in", "--output-dir", tmp_path / "out", "--resume", *options, respond=respond)


@pytest.fixture
def pair(run: Run, tmp_path: Path, heard: list[str]) -> Path:
    """Two recordings that are done."""
    (tmp_path / "in").mkdir()
    for name in "ab":
        recording(tmp_path / "in" / f"{name}.wav")
    assert again(run, tmp_path, heard).exit_code == 0 and sorted(heard) == ["a.wav", "b.wav"]
    return tmp_path / "out"


def test_what_is_done_is_skipped_and_a_table_says_so(run: Run, tmp_path: Path, heard: list[str], pair: Path) -> None:
    recording(tmp_path / "in" / "c.wav", 3600.0)
    (tmp_path / "in" / "d.wav").write_bytes(b"no recording")
    result = again(run, tmp_path, heard)
    assert result.exit_code == 1 and set(heard) == {"c.wav"}
    rows = {line.split()[0]: line.split()[1:] for line in result.stderr.splitlines() if line[:1] in "dsfa"}
    assert rows["done"][:2] == ["1", "1:00:00"] and float(rows["done"][2]) > 10
    assert rows["skipped"] == ["2", "0:00:02"] and rows["failed"] == ["1"] and rows["all"] == ["4", "1:00:02"]
    assert "failed: " in result.stderr and "d.wav" in result.stderr
    failed = [line for line in map(json.loads, (pair / JOURNAL).read_text().splitlines()) if line["event"] == "failed"]
    assert [Path(line["recording"]).name for line in failed] == ["d.wav"] and "not audio" in failed[0]["error"]


def test_changed_recordings_and_changed_options_are_done_again(
    run: Run, tmp_path: Path, heard: list[str], pair: Path
) -> None:
    recording(tmp_path / "in" / "a.wav", 2.0)
    assert again(run, tmp_path, heard, word="new").exit_code == 0 and heard == ["a.wav"]
    assert (pair / "a.txt").read_text() == "new\n" and (pair / "b.txt").read_text() == "heard\n"
    os.utime(tmp_path / "in" / "b.wav")
    assert again(run, tmp_path, heard).exit_code == 0 and heard == [], "only touched"
    again(run, tmp_path, heard, "--keywords", "cortado", word="other")
    assert sorted(heard) == ["a.wav", "b.wav"] and (pair / "b.txt").read_text() == "other\n"
    again(run, tmp_path, heard, "--keywords", "cortado", "--threads", "1", "--quiet")
    assert heard == [], "these change no text"
    again(run, tmp_path, heard, "--keywords", "cortado", "--model", "tiny-plus")
    assert sorted(heard) == ["a.wav", "b.wav"]
    (pair / "a.txt").unlink()
    again(run, tmp_path, heard, "--keywords", "cortado", "--model", "tiny-plus")
    assert heard == ["a.wav"] and (pair / "a.txt").exists()


def test_what_somebody_edited_or_wrote_is_not_replaced(run: Run, tmp_path: Path, heard: list[str], pair: Path) -> None:
    (pair / "a.txt").write_text("corrected")
    assert again(run, tmp_path, heard).exit_code == 0 and heard == []
    recording(tmp_path / "in" / "a.wav", 2.0)
    recording(tmp_path / "in" / "c.wav")
    (pair / "c.txt").write_text("another program's")
    result = again(run, tmp_path, heard)
    assert result.exit_code == 1 and heard == [] and result.stderr.count("the journal does not know as it is") == 2
    assert (pair / "a.txt").read_text() == "corrected" and (pair / "c.txt").read_text() == "another program's"
    assert again(run, tmp_path, heard, "--overwrite").exit_code == 0 and sorted(heard) == ["a.wav", "c.wav"]
    assert (pair / "c.txt").read_text() == (pair / "a.txt").read_text() == "heard\n"


def test_names_stay_when_recordings_of_the_same_name_come(
    run: Run, tmp_path: Path, heard: list[str], pair: Path
) -> None:
    (tmp_path / "in" / "0").mkdir()
    recording(tmp_path / "in" / "0" / "b.wav", 2.0)
    again(run, tmp_path, heard, word="another b")
    assert heard == ["b.wav"] and (pair / "b-2.txt").read_text() == "another b\n"
    assert (pair / "b.txt").read_text() == "heard\n"
    assert again(run, tmp_path, heard).exit_code == 0 and heard == []


def test_the_project_may_be_moved(run: Run, tmp_path: Path, heard: list[str], pair: Path) -> None:
    (tmp_path / "moved").mkdir()
    for name in ("in", "out"):
        shutil.move(tmp_path / name, tmp_path / "moved" / name)
    assert again(run, tmp_path / "moved", heard).exit_code == 0 and heard == []


def test_a_recording_that_changes_while_it_is_read_fails(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()

    def respond(clip: Waveform) -> str:
        recording(tmp_path / "in" / "a.wav", 2.0)
        return "half"

    recording(tmp_path / "in" / "a.wav")
    result = run(tmp_path / "in", "--output-dir", tmp_path / "out", "--resume", respond=respond)
    assert result.exit_code == 2 and "was changed while it was read" in result.stderr
    assert not (tmp_path / "out" / "a.txt").exists()


def test_a_full_disk_is_told_and_nothing_is_half_written(
    run: Run, tmp_path: Path, heard: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    noises(tmp_path / "in", 3)
    write, room = os.write, 3000

    def full(handle: int, data: bytes) -> int:
        nonlocal room
        if len(data) > room:
            written, room = write(handle, data[:room]) if room else 0, 0
            if not written:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return written
        room -= len(data)
        return write(handle, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        result = again(run, tmp_path, heard)
    assert result.exit_code in (1, 2) and "the disk is full" in result.stderr
    lines = (tmp_path / "out" / JOURNAL).read_bytes().split(b"\n")
    assert lines[-1] == b"" and all(json.loads(line) for line in lines[:-1])
    assert again(run, tmp_path, heard).exit_code == 0
    assert len(list((tmp_path / "out").glob("*.txt"))) == 3 and not list((tmp_path / "out").glob(".redline*"))


def test_a_transcript_that_cannot_be_written_is_tried_again(
    run: Run, tmp_path: Path, heard: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    noises(tmp_path / "in", 2)
    write = files.write_bytes

    def full(path: Path, data: bytes, **options: bool) -> Path:
        if path.name == "n000.txt":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, data, **options)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_bytes", full)
        result = again(run, tmp_path, heard)
    assert result.exit_code == 1 and "the disk is full" in result.stderr
    assert again(run, tmp_path, heard).exit_code == 0 and heard == [], "its windows were kept"
    assert (tmp_path / "out" / "n000.txt").exists() and (tmp_path / "out" / "n000-2.txt").exists()


def test_partial_transcripts_go_with_the_finished_one(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    recording(tmp_path / "in" / "long.wav", 100.0)
    count = 0

    def stopped(clip: Waveform) -> str:
        nonlocal count
        count += 1
        if count in (3, 5):
            raise KeyboardInterrupt
        return f"window {count}"

    for options in (["--resume"], ["--resume"], ["--resume"]):
        result = run(tmp_path / "in", "--output-dir", tmp_path / "out", *options, respond=stopped, batch_s=1.0)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert result.exit_code == 0 and names == {"long.txt", JOURNAL}
    windows = [f"window {number}\n" for number in (1, 2, 4, 6, 7)]
    assert (tmp_path / "out" / "long.txt").read_text() == "".join(windows), "interrupted over the third and the fifth"
    (tmp_path / "plain").mkdir()
    for name in ("long.txt.partial", "long.txt.2.partial", "long.2.txt.partial"):
        (tmp_path / "plain" / name).write_text("half")
    run(tmp_path / "in", "--output-dir", tmp_path / "plain")
    assert {path.name for path in (tmp_path / "plain").iterdir()} == {"long.txt", "long.2.txt.partial"}


# ------------------------------------------------------------------------------------------------------- the journal


def test_a_journal_that_somebody_damaged_costs_work_and_no_more(
    run: Run, tmp_path: Path, heard: list[str], pair: Path
) -> None:
    path = pair / JOURNAL
    text = path.read_text().replace('"event": "done", "recording": "../in/a.wav"', '"event": "done", "recording": 7')
    path.write_text(text + '{"event": "what"}\n[1]\n\x00\n{"event": "window", "recording": "../in/b.wa')
    result = again(run, tmp_path, heard)
    assert "lines cannot be read" in result.stderr and "Traceback" not in result.output
    assert heard == [] and result.exit_code == 0, "a's files are as the line before said they would be"


def test_a_journal_of_another_version_or_in_use_is_refused(
    run: Run, tmp_path: Path, heard: list[str], pair: Path
) -> None:
    journal = Journal(pair)
    result = again(run, tmp_path, heard)
    assert result.exit_code == 2 and "another run is writing into this folder" in result.stderr
    journal.close()
    (pair / JOURNAL).write_text('{"event": "journal", "version": 99}\n')
    result = again(run, tmp_path, heard)
    assert result.exit_code == 2 and "version 99" in result.stderr and heard == []


def test_every_part_of_an_answer_survives(tmp_path: Path) -> None:
    path = recording(tmp_path / "a.wav")
    words = (Word(0.1, 1 / 3, "it", 0.1, "1"),)
    journal, identity = Journal(tmp_path), Identity.of(path, tmp_path)
    assert identity is not None
    answer = replace(
        EDITED,
        **{"confidence": 1 / 3, "words": words, "warnings": (Notice("odd", "it", 0.5),), "language": "en"},
        **{"turns": (Turn("1", 0.0, 0.1, "it"),), "tagged": "[1] it", "accepted": 0.7},
        **{"speaker_embeddings": (SpeakerEmbedding("1", (0.1, 1 / 7), 2.5),), "timing": lambda: words},
    )
    kept: list[Hypothesis | None] = []
    journal.answers(identity, "s", with_timing=True).keep(0, Span(0, 9), answer)
    journal.close()
    journal = Journal(tmp_path)
    store = journal.answers(identity, "s", with_timing=True)
    kept = [store.known(0, Span(0, 9)), store.known(0, Span(0, 8)), store.known(1, Span(0, 9))]
    assert kept == [answer, None, None]
    assert kept[0] is not None and kept[0].timing is not None and kept[0].timing() == words
    assert journal.answers(identity, "other", with_timing=False).known(0, Span(0, 9)) is None
    assert journal.answers(replace(identity, size=1), "s", with_timing=False).known(0, Span(0, 9)) is None
    journal.close()


@pytest.mark.parametrize("options", [[], ["--output-dir", "out", "--skip-existing"]])
def test_what_cannot_be_resumed_is_refused(run: Run, tmp_path: Path, options: list[str]) -> None:
    result = run(recording(tmp_path / "a.wav"), "--resume", *options, respond=lambda clip: pytest.fail("worked"))
    assert result.exit_code == 2 and "--resume" in result.stderr
    assert run("-", "--resume", "--output-dir", tmp_path / "out", stdin=b"x").exit_code == 2
