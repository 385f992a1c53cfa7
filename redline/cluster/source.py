"""Sources of an archive: a manifest, a folder, a bucket or a list of addresses -> recordings in a stable order.

Rows are read when they are asked for, so a million of them need no more memory than a thousand; of folders and buckets
the names of one folder are held at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from redline import files
from redline.audio.containers import SUFFIXES
from redline.cluster.store import address_in, filesystem_of, local_path, scheme_of
from redline.errors import DataError, packages_of
from redline.manifest import json_row, utterance_of

MANIFESTS = (".jsonl", ".ndjson", ".json")
ADDRESS_LISTS = (".txt", ".lst")
_BATCH_ROWS = 1024  # of a parquet file that are in memory at once


@dataclass(frozen=True)
class SourceRecording:
    """One recording of a source: its address, which part of it, and what the source tells about it."""

    row: int
    audio: str
    start: float = 0.0
    end: float | None = None
    language: str | None = None
    text: str | None = None
    """The reference, where the source has one."""
    duration: float | None = None
    size: int | None = None
    """Bytes, where listing tells them."""
    problem: str | None = None
    """Why the row cannot be used."""

    @property
    def is_part(self) -> bool:
        return self.start > 0 or self.end is not None

    @property
    def identity(self) -> str:
        """What decides about its transcript, but for its content: a text to compare."""
        return json.dumps([self.audio, self.start, self.end, self.language, self.text, self.problem])


@dataclass(frozen=True)
class Shard:
    """Recordings that follow each other in a source, written and taken for done together."""

    number: int
    recordings: tuple[SourceRecording, ...]

    @cached_property
    def digest(self) -> str:
        """Of its rows: another one where the source has changed."""
        lines = "\n".join(each.identity for each in self.recordings)
        return hashlib.sha256(lines.encode("utf-8", "backslashreplace")).hexdigest()[:32]


@dataclass(frozen=True)
class Source:
    """What `redline batch SOURCE` names; each `recordings()` reads it anew, in the same order."""

    address: str

    def __post_init__(self) -> None:
        scheme_of(self.address)

    def recordings(self) -> Iterator[SourceRecording]:
        """Raises `DataError` where there is no such source, `StoreError` where it cannot be read."""
        for row, recording in enumerate(self._unnumbered()):
            yield replace(recording, row=row)

    def count(self) -> int:
        """How many recordings there are; rows of a JSON manifest are not parsed for that."""
        recordings, path = self._unnumbered(), local_path(self.address)
        if self._suffix in MANIFESTS and not (path is not None and path.is_dir()):
            return sum(bool(line.strip()) for line in _lines(self.address))
        return sum(1 for _ in recordings)

    def shards(self, size: int) -> Iterator[Shard]:
        """The recordings in shards of so many, but the last."""
        recordings = self.recordings()
        number = 0
        while rows := tuple(islice(recordings, size)):
            yield Shard(number, rows)
            number += 1

    @property
    def _suffix(self) -> str:
        return PurePosixPath(self.address.split("?", 1)[0]).suffix.lower()

    def _unnumbered(self) -> Iterator[SourceRecording]:
        suffix, path = self._suffix, local_path(self.address)
        if path is not None and not path.exists():
            raise DataError(f"{self.address}: no such file or folder; check the spelling")
        if path is not None and path.is_dir():
            return _in_folder(path)
        if suffix in MANIFESTS:
            return _of_rows(self.address, _json_rows(self.address))
        if suffix == ".parquet":
            return _of_rows(self.address, _parquet_rows(self.address))
        if suffix in ADDRESS_LISTS:
            return _of_list(self.address)
        if suffix in SUFFIXES:
            return iter((SourceRecording(0, self.address),))
        if path is None and scheme_of(self.address) not in ("http", "https"):
            return _in_bucket(self.address)
        known = " ".join((*MANIFESTS, ".parquet", *ADDRESS_LISTS))
        raise DataError(
            f"{self.address}: is no folder, bucket or recording; allowed are these, manifests and lists of addresses "
            f"({known})"
        )


def _folder_of(address: str) -> str:
    """The folder that names in a file are relative to."""
    if (path := local_path(address)) is not None:
        return str(path.parent.resolve())
    return address.rsplit("/", 1)[0]


def _lines(address: str) -> Iterator[str]:
    """The lines of a text in UTF-8."""
    path = local_path(address)
    try:
        opened: Any = files.open_binary(path) if path is not None else filesystem_of(address).open(address, "rb")
        with opened:
            for line in opened:
                yield line.decode("utf-8-sig").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{address}: cannot be read ({files.advice(error)})") from error


def _json_rows(address: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(_lines(address), start=1):
        if line.strip():
            where = f"{address}:{number}"
            try:
                yield where, json_row(where, line)
            except DataError as error:
                yield where, error


def _parquet_rows(address: str) -> Iterator[tuple[str, Any]]:
    with packages_of("cluster", "a parquet manifest"):
        from pyarrow import ArrowException, parquet

    path = local_path(address)
    try:
        file = parquet.ParquetFile(filesystem_of(address).open(address, "rb") if path is None else path)
        if "audio" not in file.schema_arrow.names:
            there = ", ".join(file.schema_arrow.names)
            raise DataError(f"{address}: no column 'audio'; it has {there}")
        number = 0
        for batch in file.iter_batches(_BATCH_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield f"{address}:{number}", {key: value for key, value in row.items() if value is not None}
    except (OSError, ArrowException) as error:
        raise DataError(f"{address}: cannot be read as parquet ({' '.join(str(error).split())})") from error


def _of_rows(address: str, rows: Iterable[tuple[str, Any]]) -> Iterator[SourceRecording]:
    """The rows of a manifest; one that cannot be used is a recording with a problem."""
    folder = _folder_of(address)
    for where, row in rows:
        try:
            if isinstance(row, DataError):
                raise row
            utterance = utterance_of(where, row, None)
        except DataError as error:
            yield SourceRecording(0, where, problem=str(error))
            continue
        yield SourceRecording(
            0,
            address_in(folder, row["audio"]),
            utterance.start,
            utterance.end,
            utterance.language or None,
            utterance.text or None,
            utterance.duration or None,
        )


def _of_list(address: str) -> Iterator[SourceRecording]:
    """A text with an address or a path a line; what begins with # is none."""
    folder = _folder_of(address)
    for line in _lines(address):
        name = line.strip()
        if name and not name.startswith("#"):
            try:
                scheme_of(name)
            except DataError as error:
                yield SourceRecording(0, name, problem=str(error))
            else:
                yield SourceRecording(0, address_in(folder, name))


def _is_recording(name: str) -> bool:
    return not name.startswith(".") and PurePosixPath(name).suffix.lower() in SUFFIXES


def _in_folder(folder: Path) -> Iterator[SourceRecording]:
    """Files with the ending of a recording, in a folder and those in it; what is hidden is not looked at."""

    def refuse(error: OSError) -> None:
        raise DataError(files.describe_os_error(error)) from error

    for place, folders, names in os.walk(folder.resolve(), onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(filter(_is_recording, names)):
            path = Path(place, name)
            if path.is_file():
                yield SourceRecording(0, str(path), size=path.stat().st_size)


def _in_bucket(address: str) -> Iterator[SourceRecording]:
    scheme, system = scheme_of(address), filesystem_of(address)

    def refuse(error: Exception) -> None:
        raise error

    found = False
    try:
        for place, folders, names in system.walk(address, detail=True, on_error=refuse):
            kept = {name: folders[name] for name in sorted(folders) if not name.startswith(".")}
            folders.clear()
            folders.update(kept)
            for name in sorted(filter(_is_recording, names)):
                found = True
                yield SourceRecording(0, f"{scheme}://{place}/{name}", size=names[name].get("size"))
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise DataError(f"{address}: cannot be listed ({' '.join(str(error).split()):.300})") from error
    if not found:
        raise DataError(f"{address}: no recordings are there; known are {' '.join(SUFFIXES)}")
