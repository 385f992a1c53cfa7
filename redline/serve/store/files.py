"""Recordings in the server's folder of data: uploads that grow, and the audio of jobs and transcripts."""

from __future__ import annotations

import errno
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from redline.files import settle, sha256_of

_ID = re.compile(r"[a-z]+_[0-9a-f]{24}")


def new_id(kind: str) -> str:
    """An id that nobody guesses: `job_` and 24 digits."""
    return f"{kind}_{secrets.token_hex(12)}"


class RecordingFolder:
    """`audio/` has a file for each recording, named by the job; `uploads/` those that are not complete."""

    def __init__(self, data_dir: Path) -> None:
        self._audio, self._uploads = data_dir / "audio", data_dir / "uploads"
        for folder in (self._audio, self._uploads):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def audio(self, id: str) -> Path:
        """Where the recording of a job is."""
        return self._audio / _checked(id)

    def upload(self, id: str) -> Path:
        """Where an upload grows."""
        return self._uploads / _checked(id)

    @contextmanager
    def incoming(self) -> Iterator[Path]:
        """A file for a recording that comes in; it is gone afterwards, unless it was kept."""
        path = self.upload(new_id("in"))
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def keep(self, path: Path, id: str) -> None:
        """Make a file the recording of a job; it is on disk when this returns."""
        settle(path, self.audio(id))

    def keep_upload(self, upload_id: str, id: str) -> None:
        """Make an upload the recording of a job too; it stays an upload, until that is forgotten."""
        with self.incoming() as path:
            try:
                path.hardlink_to(self.upload(upload_id))
            except OSError as error:  # a file system without links
                if not self.upload(upload_id).is_file():
                    raise
                assert error.errno != errno.EEXIST
                shutil.copyfile(self.upload(upload_id), path)
            self.keep(path, id)

    def drop_audio(self, id: str) -> None:
        self.audio(id).unlink(missing_ok=True)

    def sweep(self, is_needed: Callable[[str], bool], older_than_s: float) -> int:
        """Remove what killed processes left: files that nobody needs and that have not changed lately; their number."""
        removed = 0
        for path in (*self._audio.iterdir(), *self._uploads.iterdir()):
            try:
                if path.is_file() and time.time() - path.stat().st_mtime > older_than_s and not is_needed(path.name):
                    path.unlink()
                    removed += 1
            except FileNotFoundError:  # somebody else was faster
                continue
        return removed


def plain_name(given: str | None) -> str:
    """The name of a recording as a client tells it, without folders."""
    return (given or "").replace("\\", "/").rsplit("/", 1)[-1][:200] or "recording"


def copy_hashed(source: BinaryIO, path: Path) -> str:
    """Copy an open file to a new one; returns the SHA-256 of what it holds."""
    with path.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    return sha256_of(path)


def _checked(id: str) -> str:
    assert _ID.fullmatch(id), id  # ids in paths are ours, or were found in the database
    return id
