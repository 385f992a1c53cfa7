"""Files that are whole or not there, and pipes that nobody writes to."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from redline import audio, files
from redline.cli.main import app
from redline.errors import AudioError, DataError
from redline.manifest import read_manifest, write_manifest


def test_a_file_is_written_with_the_longest_name_there_is(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".txt")
    assert files.write_text(path, "text").read_text() == "text"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_text_is_synced_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced, fsync = tmp_path / "a.txt", [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(path.exists()), fsync(handle)))
    files.write_text(path, "text")
    assert synced == [False, True], "the file, then its folder"


def test_what_a_killed_run_left_is_swept_and_what_another_writes_is_not(tmp_path: Path) -> None:
    left, locked, other = (tmp_path / f".redline-{name}.part" for name in ("left", "mine", "other"))
    for path in (left, locked, other, tmp_path / "a.part"):
        path.write_text("half")
    with locked.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # which the system lifts when a process is killed
        assert files.sweep(tmp_path) == 2
    assert {path.name for path in tmp_path.iterdir()} == {locked.name, "a.part"}
    assert files.sweep(tmp_path / "none") == 0


def test_a_file_that_is_swept_before_it_is_locked_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept, flock = [], fcntl.flock

    def meet(handle: int, how: int) -> None:
        if not swept and not how & fcntl.LOCK_NB:
            swept.append(files.sweep(tmp_path))
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", meet)
    assert files.write_text(tmp_path / "a.txt", "text").read_text() == "text" and swept == [1]


def test_a_file_that_is_there_is_not_replaced_unasked(tmp_path: Path) -> None:
    path = files.write_text(tmp_path / "a.txt", "first", replace=False)
    with pytest.raises(FileExistsError):
        files.write_text(path, "second", replace=False)
    assert path.read_text() == "first" and len(list(tmp_path.iterdir())) == 1
    assert files.write_text(path, "second").read_text() == "second"


def test_names_that_are_not_utf8_are_written_as_escapes(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    assert files.write_text(tmp_path / f"{name}.txt", f"{name} é").read_text(encoding="utf-8") == "caf\\udce9 é"


def test_a_pipe_without_a_writer_times_out(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TimeoutError, match=r"nobody has written for 0\.05 s"):
        files.open_binary(tmp_path / "pipe", wait_s=0.05)


def test_a_recording_that_is_a_pipe_without_a_writer_times_out(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(AudioError, match=r"pipe\.wav: a pipe to which nobody has written for 0\.05 s; .*max_wait_s"):
        audio.load(tmp_path / "pipe.wav", options=audio.AudioOptions(max_wait_s=0.05))


def test_a_recording_is_read_from_a_pipe(tmp_path: Path, jfk: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe.wav").write_bytes(jfk.read_bytes()))
    writer.start()
    assert audio.load(tmp_path / "pipe.wav").duration == 11.0
    writer.join()


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_text("\ufeffüber"))
    writer.start()
    assert files.read_utf8(tmp_path / "pipe") == "über"
    writer.join()


def test_a_device_is_no_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.open_binary, "__defaults__", (0.05,))
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/zero"), tmp_path / "pipe"):
        with pytest.raises(DataError, match="manifest"):
            read_manifest(path)


def test_languages_of_a_manifest_have_many_names(tmp_path: Path) -> None:
    names = ("English", "en-US", "ENG", "en", "auto", None)
    rows = [{"audio": "a.wav", "text": "a", "language": name} for name in names]
    path = write_manifest(tmp_path / "m.jsonl", rows)
    assert [row.language for row in read_manifest(path)] == ["en"] * 4 + ["", ""]
    assert len(read_manifest(path, language="English")) == 4
    write_manifest(path, [{"audio": "a.wav", "language": "Elvish tongue"}])
    with pytest.raises(DataError, match=r"m\.jsonl:1: no language is called 'Elvish tongue'"):
        read_manifest(path)


def test_every_error_of_the_system_says_what_to_do() -> None:
    for number in (2, 13, 17, 20, 21, 28, 36):
        message = files.describe_os_error(OSError(number, os.strerror(number), "out"))
        assert message.startswith("out: ") and "Errno" not in message and ("; " in message)
    assert files.describe_os_error(OSError("broken")) == "broken"


def test_what_training_saves_is_synced_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partial, path, synced, fsync = tmp_path / "partial", tmp_path / "step-1", [], os.fsync
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(path.exists()), fsync(handle)))
    files.settle(partial, path)
    assert synced == [False, False, True], "the file, its folder, the folder of that"
    assert (path / "model.safetensors").read_bytes() == b"weights"


def test_a_folder_that_a_killed_run_was_making_goes_when_the_next_has_made_it(tmp_path: Path) -> None:
    left, held = tmp_path / ".redline-model-left.part", tmp_path / ".redline-model-held.part"
    left.mkdir()
    held.mkdir()
    handle = os.open(held, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(KeyError), files.folder_beside(tmp_path / "model"):
        raise KeyError
    assert left.exists(), "it may hold the only copy until there is another"
    with files.folder_beside(tmp_path / "model") as folder:
        files.settle(folder, tmp_path / "model")
        folder.mkdir()
    os.close(handle)
    assert {path.name for path in tmp_path.iterdir()} == {"model", held.name}


def test_a_full_disk_is_told_in_words_whichever_library_met_it() -> None:
    rust = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert files.advice(rust) == files.advice(OSError(28, "No space left on device"))


def test_a_folder_that_cannot_be_read_is_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("b/x.wav", "a/y/z.wav", "c.txt", "closed/w.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = [str(file.relative_to(tmp_path)) for file in files.files_under(tmp_path)]
    assert names == ["a/y/z.wav", "b/x.wav", "c.txt", "closed/w.wav"]
    scan = os.scandir

    def closed(path: str) -> Iterator[os.DirEntry[str]]:  # root may read everything, so it is not left to permissions
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(PermissionError, match="closed"):
        files.files_under(tmp_path)
    for arguments in (("evaluate", "--data", tmp_path), ("prepare", tmp_path, "--out", tmp_path / "m.jsonl")):
        done = CliRunner().invoke(app, list(map(str, arguments)))
        assert done.exit_code == 2 and "closed: not permitted; check whose it is" in done.output
