"""Where things are read from and written to, by their addresses: folders of this machine, buckets, web servers.

Writes are whole or not there: in a folder a temporary file is synced and renamed, in a bucket an object appears by one
put. Nothing needs locks, so nothing is left to repair when a machine is killed.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from redline import files
from redline.errors import DataError, RedlineError, packages_of

_log = logging.getLogger(__name__)
SCHEMES = {"file": None, "s3": "redline[s3]", "gs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
"""What an address may begin with, and what has to be installed for it beside `redline[cluster]`."""
_OPTIONS: dict[str, dict[str, Any]] = {
    # With more, an object's size is asked for before it is read, and of one that is not there its folder too.
    "s3": {"max_concurrency": 1, "config_kwargs": {"max_pool_connections": 32}},
}
TRIES = 5
"""Of one operation of a bucket or web server, with longer and longer pauses: some 10 s in all."""
_PAUSE_S = 0.5
BLOCK_S = 120.0
"""The longest that one operation, or a block of a file, may take."""
_BLOCK_BYTES = 8 << 20  # read at once from a bucket
_T = TypeVar("_T")


class StoreError(RedlineError):
    """A bucket, a web server or a disk failed, and went on failing; the input is not to blame."""


class UnreadableError(StoreError):
    """A recording could not be read, now; another time it may be."""


def scheme_of(address: str) -> str:
    """file, s3, gs, http or https; raises `DataError` for any other."""
    scheme = address.split("://", 1)[0].lower() if "://" in address else "file"
    if scheme not in SCHEMES:
        allowed = ", ".join(f"{each}://" for each in SCHEMES)
        raise DataError(f"{address}: {scheme}:// is not read here; allowed are paths and {allowed}")
    return scheme


def filesystem_of(address: str, *, is_new: bool = False) -> Any:
    """The fsspec file system of an address, the process's or a new one; `RedlineError` names what is not installed."""
    scheme = scheme_of(address)
    with packages_of("cluster", f"{scheme}://"):
        import fsspec
    try:
        options = _OPTIONS.get(scheme, {})
        return fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=is_new, **options)
    except ImportError as error:
        raise RedlineError(f"{address}: {scheme}:// needs a package more: pip install '{SCHEMES[scheme]}'") from error


def local_path(address: str) -> Path | None:
    """The path that an address of this machine names; None for others."""
    if scheme_of(address) != "file":
        return None
    return Path(address.removeprefix("file://")) if "://" in address else Path(address)


def address_in(address: str, name: str) -> str:
    """The address of a name relative to the folder that an address names; what is an address or absolute stays."""
    if "://" in name or name.startswith("/"):
        return name
    return f"{address.rstrip('/')}/{name}" if address else name


def patiently(what: str, operation: Callable[[], _T]) -> _T:
    """An operation of a remote store, tried again when it fails; raises `StoreError`.

    `FileNotFoundError` and its like are raised at once.
    """
    for attempt in range(1, TRIES + 1):
        try:
            return operation()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise
        except Exception as error:  # libraries of stores raise many kinds, and their own
            if attempt == TRIES or isinstance(error, PermissionError):
                text = " ".join(str(error).split()) or type(error).__name__
                raise StoreError(
                    f"{what}: failed {attempt} times ({text:.300}); check it, and give the same command"
                ) from error
            _log.debug("%s failed, attempt %d", what, attempt, exc_info=error)
            time.sleep(_PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))
    raise AssertionError


class ArchiveStore(Protocol):
    """A folder or a prefix of a bucket; names are relative to it, with slashes. Raises `StoreError`."""

    address: str

    def read(self, name: str) -> bytes | None:
        """All of a file; None where there is none."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """A file, whole or not at all, in place of what is there."""
        ...

    def create(self, name: str, data: bytes) -> bytes:
        """`write` where there is none yet; returns what is there then."""
        ...

    def exists(self, name: str) -> bool:
        """Whether there is a file."""
        ...

    def remove(self, name: str) -> None:
        """A file is not there any more."""
        ...

    def names(self, folder: str) -> list[str]:
        """The names of the files in a folder, sorted; none where there is no folder."""
        ...


class FolderStore:
    """A folder of this machine, or one that several machines have mounted."""

    def __init__(self, path: Path) -> None:
        self.address, self._path = str(path), path
        self._made: set[Path] = set()

    def read(self, name: str) -> bytes | None:
        try:
            return (self._path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(files.describe_os_error(error)) from error

    def write(self, name: str, data: bytes) -> None:
        self._write(name, data, replace=True)

    def create(self, name: str, data: bytes) -> bytes:
        try:
            self._write(name, data, replace=False)
        except FileExistsError:
            return self.read(name) or b""
        return data

    def exists(self, name: str) -> bool:
        return (self._path / name).is_file()

    def remove(self, name: str) -> None:
        try:
            (self._path / name).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(files.describe_os_error(error)) from error

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(each.name for each in (self._path / folder).iterdir() if each.is_file())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(files.describe_os_error(error)) from error

    def _write(self, name: str, data: bytes, *, replace: bool) -> None:
        path = self._path / name
        try:
            if path.parent not in self._made:
                path.parent.mkdir(parents=True, exist_ok=True)
                files.sweep(path.parent)
                self._made.add(path.parent)
            files.write_bytes(path, data, replace=replace)
        except FileExistsError:
            raise
        except OSError as error:
            raise StoreError(f"{files.describe_os_error(error)}; then the same command goes on") from error


class BucketStore:
    """A prefix of a bucket: an object appears whole, by one put."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._system = filesystem_of(address)
        self._root = str(self._system._strip_protocol(self.address))

    def read(self, name: str) -> bytes | None:
        try:
            return bytes(self._ask(name, lambda system, path: system.cat_file(path)))
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        self._ask(name, lambda system, path: system.pipe_file(path, data))

    def create(self, name: str, data: bytes) -> bytes:
        if (there := self.read(name)) is None:
            self.write(name, data)
            there = self.read(name)  # of whoever wrote last, so that all go on with the same
        return there or b""

    def exists(self, name: str) -> bool:
        return bool(self._ask(name, lambda system, path: system.exists(path)))

    def remove(self, name: str) -> None:
        try:
            self._ask(name, lambda system, path: system.rm_file(path))
        except FileNotFoundError:
            return

    def names(self, folder: str) -> list[str]:
        try:
            found = self._ask(folder, lambda system, path: system.ls(path, detail=False))
        except FileNotFoundError:
            return []
        return sorted(str(each).rsplit("/", 1)[1] for each in found if not str(each).endswith("/"))

    def _ask(self, name: str, operation: Callable[[Any, str], Any]) -> Any:
        """What an operation on the file system and a path gives, patiently; one that stands still is another's then."""

        def ask() -> Any:
            try:
                return in_time(BLOCK_S, partial(operation, self._system, f"{self._root}/{name}"))
            except TimeoutError:
                self._system = filesystem_of(self.address, is_new=True)
                raise

        return patiently(f"{self.address}/{name}", ask)


def open_store(address: str) -> ArchiveStore:
    """The folder or bucket of an address, which may be written to; raises `DataError` for a web server."""
    scheme = scheme_of(address)
    if scheme in ("http", "https"):
        raise DataError(f"{address}: nothing can be written there; give a folder, s3:// or gs://")
    path = local_path(address)
    return BucketStore(address) if path is None else FolderStore(path)


def in_time(seconds: float, operation: Callable[[], _T]) -> _T:
    """What an operation gives; `TimeoutError` where it gives nothing in time, and then it is left to itself.

    Clients of stores have timeouts of their own for what a server does not answer, not for what they wait for inside.
    """
    result: Future[_T] = Future()

    def run() -> None:
        try:
            result.set_result(operation())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, name="redline-store", daemon=True).start()
    try:
        return result.result(seconds)
    except FutureTimeoutError:
        if result.done():  # it is the operation's own
            raise
        raise TimeoutError(f"nothing came within {seconds:.0f} s") from None


class RemoteFile:
    """A file of a bucket or a web server, read from front to back once; where that breaks off it goes on there."""

    def __init__(self, address: str) -> None:
        self.name = address
        self.problem: UnreadableError | None = None
        """Why it could not be read."""
        self._system = filesystem_of(address)
        self._connection: _Connection | None = None
        self._read_bytes = 0

    def read(self, size: int = -1) -> bytes:
        """Up to so many bytes; raises `UnreadableError`, and `FileNotFoundError`."""
        try:
            data: bytes = patiently(self.name, lambda: self._read(size))
        except StoreError as error:
            self.problem = UnreadableError(str(error))
            raise self.problem from error
        self._read_bytes += len(data)
        return data

    def _read(self, size: int) -> bytes:
        self._connection = self._connection or _Connection(self._system, self.name, self._read_bytes)
        try:
            return in_time(BLOCK_S, partial(self._connection.read, size))
        except TimeoutError:
            self._connection, self._system = None, filesystem_of(self.name, is_new=True)
            raise
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Whoever reads on begins with a new connection."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()


class _Connection:
    """An open file of a store, from some byte on."""

    def __init__(self, system: Any, name: str, first_byte: int) -> None:
        self._system, self._name, self._first_byte = system, name, first_byte
        self._file: Any = None

    def read(self, size: int) -> bytes:
        if self._file is None:
            self._file = self._system.open(self._name, "rb", block_size=_BLOCK_BYTES)
            if self._first_byte:
                self._skip()
        return bytes(self._file.read(size))

    def _skip(self) -> None:
        """Get to the first byte: by seeking, or by reading again where the server knows no ranges."""
        try:
            self._file.seek(self._first_byte)
        except (ValueError, OSError):
            left = self._first_byte
            while left:
                data = self._file.read(min(left, _BLOCK_BYTES))
                if not data:
                    raise OSError(f"{self._name}: is shorter than it was") from None
                left -= len(data)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
