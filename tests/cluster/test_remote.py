"""Buckets and web servers: the same bytes as from a folder, also where they fail now and then."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from redline.cluster import store as stores
from redline.cluster.store import FolderStore, RemoteFile, UnreadableError, open_store
from redline.errors import DataError
from tests.cluster.archives import MemoryStore, archive, contents, rows, run
from tests.cluster.unkind_s3 import unkind_s3

moto_server = pytest.importorskip("moto.server")
s3fs = pytest.importorskip("s3fs")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "_PAUSE_S", 0.001)


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """The file system of an S3 server with a bucket `archive`."""
    server = moto_server.ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    patch = pytest.MonkeyPatch()
    patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY":
        patch.setenv(name, "test")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    system = stores.filesystem_of("s3://archive")
    system.mkdir("archive")
    yield system
    s3fs.S3FileSystem.clear_instance_cache()
    patch.undo()
    server.stop()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server that knows no ranges, for the folder `web`; the first answer to each name is 503."""
    seen: set[str] = set()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path not in seen:
                seen.add(self.path)
                self.send_error(503)
            else:
                super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "web").mkdir()
    handler = functools.partial(Handler, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_bucket_holds_what_a_folder_holds(tmp_path: Path, s3: Any) -> None:
    source = archive(tmp_path / "in", 3)
    run(source, FolderStore(tmp_path / "out"))
    s3.put(f"{source}/", "archive/in/", recursive=True)
    report = run("s3://archive/in", open_store("s3://archive/out"))
    assert (report.done, report.rates.read_bytes) == (3, sum(path.stat().st_size for path in source.iterdir()))
    found = {name.removeprefix("archive/out/"): s3.cat_file(name) for name in s3.find("archive/out")}
    local = contents(tmp_path / "out")
    assert found.keys() == local.keys()
    assert all(found[name] == data for name, data in local.items() if name.startswith("json"))
    again = run("s3://archive/in", open_store("s3://archive/out"))
    assert (again.done, again.recognized) == (3, 0)


def test_a_bucket_that_refuses_every_third_request_loses_nothing(tmp_path: Path) -> None:
    source = archive(tmp_path / "in", 3)
    run(source, FolderStore(tmp_path / "out"))
    with unkind_s3() as server:
        for path in source.iterdir():
            server.put(f"unkind/in/{path.name}", path.read_bytes())
        before = len(server.refused)
        assert run("s3://unkind/in", open_store("s3://unkind/out")).done == 3 and len(server.refused) > before
        for name, data in contents(tmp_path / "out").items():
            if name.startswith("json"):
                assert open_store("s3://unkind/out").read(name) == data


def test_a_store_of_a_bucket_does_what_one_of_a_folder_does(tmp_path: Path, s3: Any) -> None:
    for store in FolderStore(tmp_path), open_store("s3://archive/store"):
        assert store.read("a/b") is None and not store.exists("a/b") and store.names("a") == []
        store.write("a/b", b"1")
        store.write("a/b", b"2")
        assert store.read("a/b") == b"2" and store.exists("a/b") and store.names("a") == ["b"]
        assert store.create("a/b", b"3") == b"2" and store.create("a/c", b"4") == b"4"
        store.remove("a/b")
        store.remove("a/b")
        assert store.names("a") == ["c"]


def test_an_object_is_one_request_whether_it_is_there_or_not(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store, requests, real = open_store("s3://archive/one"), list[str](), s3fs.S3FileSystem._call_s3

    async def counted(self: Any, method: str, *arguments: Any, **options: Any) -> Any:
        requests.append(method)
        return await real(self, method, *arguments, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    assert store.read("a") is None
    store.write("a", b"1")
    assert store.read("a") == b"1" and requests == ["get_object", "put_object", "get_object"]


def test_recordings_of_a_web_server_are_read_though_it_fails_at_first(tmp_path: Path, web: str) -> None:
    archive(tmp_path / "web", 2)
    (tmp_path / "list.txt").write_text(f"{web}/000.wav\n{web}/001.wav\n{web}/none.wav\n")
    store, folder = MemoryStore(), MemoryStore()
    report = run(tmp_path / "list.txt", store)
    assert (report.done, report.failed) == (2, 1) and f"{web}/none.wav" in report.failures[0].audio
    run(tmp_path / "web", folder)
    assert [row["id"] for row in rows(store)][:2] == [row["id"] for row in rows(folder)]


class Breaking:
    """A file that breaks off after every few bytes."""

    def __init__(self, data: bytes, opened: list[int], seekable: bool) -> None:
        self._data, self._at, self._seekable, self._reads = data, 0, seekable, 0
        opened.append(0)

    def seek(self, place: int) -> None:
        if not self._seekable:
            raise ValueError("cannot seek")
        self._at = place

    def read(self, size: int) -> bytes:
        self._reads += 1
        if self._reads > 4:
            raise ConnectionError("reset")
        data = self._data[self._at : self._at + min(size, 400)]
        self._at += len(data)
        return data

    def close(self) -> None:
        pass


@pytest.mark.parametrize("seekable", [True, False])
def test_a_connection_that_breaks_off_is_gone_on_with(monkeypatch: pytest.MonkeyPatch, seekable: bool) -> None:
    data, opened = bytes(range(256)) * 3, list[int]()

    class System:
        def open(self, *_: object, **__: object) -> Breaking:
            return Breaking(data, opened, seekable)

    monkeypatch.setattr(stores, "filesystem_of", lambda address, **_: System())
    file, read = RemoteFile("s3://a/b"), b""
    while piece := file.read(100):
        read += piece
    assert read == data and len(opened) > 1


def test_a_client_that_waits_for_ever_is_left_and_another_one_reads_on(monkeypatch: pytest.MonkeyPatch) -> None:
    data, opened, stuck = bytes(range(256)) * 3, list[int](), threading.Event()

    class Stuck(Breaking):
        def read(self, size: int) -> bytes:
            if self._reads == 2:
                stuck.wait()
            return super().read(size)

    class System:
        def __init__(self, is_new: bool = False) -> None:
            self.kind = Breaking if is_new else Stuck

        def open(self, *_: object, **__: object) -> Breaking:
            return self.kind(data, opened, True)

    monkeypatch.setattr(stores, "filesystem_of", lambda address, is_new=False: System(is_new))
    monkeypatch.setattr(stores, "BLOCK_S", 0.2)
    file, read = RemoteFile("s3://a/b"), b""
    while piece := file.read(100):
        read += piece
    stuck.set()
    assert read == data and len(opened) > 1


def test_what_cannot_be_read_now_is_not_the_fault_of_the_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    class System:
        def open(self, *_: object, **__: object) -> None:
            raise ConnectionError("503 slow down")

    monkeypatch.setattr(stores, "filesystem_of", lambda address, **_: System())
    file = RemoteFile("s3://a/b")
    with pytest.raises(UnreadableError, match=r"failed 5 times \(503 slow down"):
        file.read(1)
    assert file.problem is not None


def test_nothing_is_written_to_a_web_server() -> None:
    with pytest.raises(DataError, match="nothing can be written there; give a folder, s3:// or gs://"):
        open_store("https://example.org/out")


@pytest.mark.parametrize(
    "ask",
    [
        lambda store: store.read("a") == b"1",
        lambda store: store.write("b", b"2") is None,
        lambda store: store.exists("a"),
        lambda store: store.remove("a") is None,
        lambda store: store.names("folder") == ["a"],
    ],
    ids=["read", "write", "exists", "remove", "names"],
)
def test_no_operation_of_a_bucket_waits_for_ever(monkeypatch: pytest.MonkeyPatch, ask: Any) -> None:
    stuck, asked = threading.Event(), list[bool]()

    class System:
        def __init__(self, is_new: bool) -> None:
            self.is_new = is_new

        def _strip_protocol(self, address: str) -> str:
            return address

        def _answer(self, value: Any) -> Any:
            asked.append(self.is_new)
            if not self.is_new:
                stuck.wait()
            return value

        def cat_file(self, path: str) -> Any:
            return self._answer(b"1")

        def pipe_file(self, path: str, data: bytes) -> Any:
            return self._answer(None)

        def exists(self, path: str) -> Any:
            return self._answer(True)

        def rm_file(self, path: str) -> Any:
            return self._answer(None)

        def ls(self, path: str, detail: bool) -> Any:
            return self._answer([f"{path}/a"])

    monkeypatch.setattr(stores, "filesystem_of", lambda address, is_new=False: System(is_new))
    monkeypatch.setattr(stores, "BLOCK_S", 0.2)
    assert ask(open_store("s3://bucket/out")) and asked == [False, True]
    stuck.set()
