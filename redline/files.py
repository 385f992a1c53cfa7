"""Atomic writes, named pipes with a time limit, and errors of the file system in words.

A text is written under a temporary name in its folder, synced and renamed. Whoever writes a temporary holds a lock on
it, which the system lifts with the process: what nobody locks is left of a run that was killed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import select
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

FIFO_WAIT_S = 60.0
"""Seconds that the first byte of a named pipe is waited for."""
NAME_BYTES = 255
"""Bytes of the longest name of a file, where the file system does not tell."""
_START, _END = ".redline-", ".part"  # short: a temporary name is never longer than the name it stands for may be


def encoded(text: str) -> bytes:
    """UTF-8; half characters, as in names of files that are not UTF-8, become escapes (`\\udcff`), which JSON reads."""
    return text.encode("utf-8", "backslashreplace")


def write_text(path: Path, text: str, *, replace: bool = True) -> Path:
    """`write_bytes` of a text that is `encoded`."""
    return write_bytes(path, encoded(text), replace=replace)


def write_bytes(path: Path, data: bytes, *, replace: bool = True) -> Path:
    """Write a file, complete or not at all; returns the path.

    Raises `FileExistsError` without `replace`, where there is such a file. Pipes and devices are written to directly.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return path
    with _temporary(path.parent) as (file, name):
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        if replace:
            name.replace(path)
        else:
            _rename_to_new(name, path)
    _sync_folder(path.parent)
    return path


def settle(partial: Path, path: Path) -> Path:
    """Give a finished file or folder its name, where there is no other folder, once all of it is on the disk."""
    for file in partial.rglob("*") if partial.is_dir() else [partial]:
        if file.is_file():
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
    if partial.is_dir():
        _sync_folder(partial)
    partial.replace(path)
    _sync_folder(path.parent)
    return path


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """A temporary folder in which something is made that gets the name `path`.

    When that went well, the folders of runs that were killed over it go too; before, one may hold the only copy.
    """
    start = f"{_START}{path.name[:60]}-"
    with (
        tempfile.TemporaryDirectory(prefix=start, suffix=_END, dir=path.parent) as name,
        _opened(name, os.O_RDONLY) as handle,
    ):
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield Path(name)
        for left in path.parent.iterdir():
            if left.name.startswith(start) and left.name.endswith(_END) and left.is_dir() and left != Path(name):
                _remove_unlocked(left)


def sweep(folder: Path) -> int:
    """Remove the temporary files that killed runs left in a folder; returns their number."""
    removed = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(_START) and entry.name.endswith(_END) and entry.is_file(follow_symlinks=False):
                removed += _remove_unlocked(Path(entry.path))
    return removed


def _remove_unlocked(path: Path) -> bool:
    try:
        with _opened(path, os.O_NOFOLLOW | (os.O_RDONLY if path.is_dir() else os.O_RDWR)) as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    except OSError:  # somebody writes it, or has just finished
        return False
    return True


@contextmanager
def _opened(path: str | Path, flags: int) -> Iterator[int]:
    handle = os.open(path, flags)
    try:
        yield handle
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError), _opened(folder, os.O_RDONLY) as handle:  # not every file system syncs folders
        os.fsync(handle)


def _rename_to_new(name: Path, path: Path) -> None:
    try:
        path.hardlink_to(name)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        name.replace(path)


@contextmanager
def _temporary(folder: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new locked file in a folder, and its name; it is gone afterwards unless it was renamed."""
    while True:
        name = folder / f"{_START}{secrets.token_hex(4)}{_END}"
        try:
            handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            continue
        with os.fdopen(handle, "wb") as file:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            if not _is_at(handle, name):  # swept in the moment before it was locked
                continue
            try:
                yield file, name
            finally:
                name.unlink(missing_ok=True)
            return


def _is_at(handle: int, name: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), name.stat())
    except FileNotFoundError:
        return False


def longest_name(folder: Path) -> int:
    """Bytes that a name may have in a folder."""
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (OSError, ValueError):
        return NAME_BYTES


def open_binary(path: str | Path, wait_s: float = FIFO_WAIT_S) -> BinaryIO:
    """Open a file or a named pipe for reading; raises `OSError`, and `TimeoutError` where nobody writes to a pipe."""
    mode = Path(path).stat().st_mode
    if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
        raise OSError(errno.ENODEV, "is a device; give a file, or pipe it in", str(path))
    if not stat.S_ISFIFO(mode):
        return Path(path).open("rb")
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # else opening waits for a writer
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if not poll.poll(min(wait_s * 1000, 2**31 - 1)):
            raise TimeoutError(f"a pipe to which nobody has written for {wait_s:g} s; start what writes to it first")
        os.set_blocking(handle, True)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_utf8(path: str | Path) -> str:
    """The text of a UTF-8 file or a named pipe; raises `OSError` and `UnicodeDecodeError`."""
    with open_binary(path) as file:
        return file.read().decode("utf-8-sig")


_ADVICE = {
    errno.ENOENT: "no such file or folder; check the spelling",
    errno.EACCES: "not permitted; check whose it is and its permissions",
    errno.EPERM: "not permitted; check whose it is and its permissions",
    errno.EROFS: "cannot be written, the disk is read-only; choose another folder",
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "your quota of the disk is used up; free some space or choose another folder",
    errno.EEXIST: "is there already, and is no folder; choose another name",
    errno.ENOTDIR: "a part of this path is a file, not a folder; choose another folder",
    errno.EISDIR: "is a folder; name a file",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
    errno.EIO: "the disk or the connection failed; check it",
}


def advice(error: BaseException) -> str:
    """What the system refused and what to do about it, in words; of any other error its message."""
    if isinstance(error, OSError):
        return _ADVICE.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__
    number = re.search(r"\(os error (\d+)\)", str(error))  # as libraries written in Rust write it, such as safetensors
    return (_ADVICE.get(int(number[1])) if number else None) or str(error) or type(error).__name__


def describe_os_error(error: OSError) -> str:
    """`advice` behind the name of the file, where the system tells it."""
    name = error.filename if error.filename2 is None else error.filename2
    return advice(error) if name is None else f"{os.fsdecode(name)}: {advice(error)}"


def check_writable(path: Path) -> None:
    """Raise the `OSError` that writing a file would end in: a temporary file is made beside it, and removed."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():  # a pipe or a device
        return
    try:
        with _temporary(path.parent):
            sweep(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path.parent)) from None


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex; raises `OSError`."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def file_hash(path: Path) -> str | None:
    """The SHA-256 of a file; None where it cannot be read."""
    try:
        return sha256_of(path)
    except OSError:
        return None


def folder_hash(folder: Path) -> str:
    """The SHA-256 of the names and contents of all files under a folder."""
    whole = hashlib.sha256()
    for path in files_under(folder):
        whole.update(f"{path.relative_to(folder).as_posix()!a} {file_hash(path)}\n".encode())
    return whole.hexdigest()


def files_under(folder: Path) -> list[Path]:
    """The files of a folder and of those in it, sorted; raises the `OSError` of a folder that cannot be read."""

    def refuse(error: OSError) -> None:
        raise error

    return sorted(Path(place, name) for place, _, names in os.walk(folder, onerror=refuse) for name in names)


def identities(paths: Iterable[Path]) -> set[tuple[int, int]]:
    """What tells files from others, however they are named; of those that are there."""
    known = set()
    for path in paths:
        with suppress(OSError, ValueError):  # ValueError: a name with a zero byte
            status = path.stat()
            known.add((status.st_dev, status.st_ino))
    return known
