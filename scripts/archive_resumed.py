"""What going on with an archive costs that is all done: reading its manifest, and the manifests of its shards.

    python scripts/archive_resumed.py --shards 10000
    python scripts/archive_resumed.py --shards 2000 --s3 --delay-ms 50

Rows have an address, a reference and a duration. With `--s3` DEST is a bucket of a server on this machine that
answers each request so much later, as one does that is far away. Prints seconds, CPU time and memory as JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from redline.cluster.ledger import Ledger, RowResult, RunSettings
from redline.cluster.progress import ShardShare, Tally, unfinished
from redline.cluster.source import Source
from redline.cluster.store import open_store

ROWS = 64


class Bucket(BaseHTTPRequestHandler):
    """The part of S3 that reads objects, files below a folder, and finds folders empty; it answers late."""

    protocol_version = "HTTP/1.1"
    folder: Path
    delay_s: float

    def do_GET(self) -> None:
        time.sleep(self.delay_s)
        if "list-type" in self.path:
            self.answer(b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>")
        else:
            self.answer((self.folder / self.path.lstrip("/")).read_bytes())

    def answer(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", '"0"')
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def serve_bucket(port: int, folder: Path, delay_s: float) -> None:
    Bucket.folder, Bucket.delay_s = folder, delay_s
    ThreadingHTTPServer(("127.0.0.1", port), Bucket).serve_forever()


@contextmanager
def bucket(folder: Path, delay_s: float) -> Iterator[str]:
    """The address of a folder's files on such a server, which is a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = multiprocessing.get_context("spawn").Process(
        target=serve_bucket, args=(port, folder, delay_s), daemon=True
    )
    server.start()
    access = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= access | dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "test")
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            break
        time.sleep(0.1)
    yield "s3://out"
    server.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=10_000, help=f"of {ROWS} recordings each")
    parser.add_argument("--s3", action="store_true")
    parser.add_argument("--delay-ms", type=float, default=50.0, help="of each answer of the bucket")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "manifest.jsonl").open("w") as file:
            for row in range(given.shards * ROWS):
                values = {"audio": f"s3://recordings/{row // 1000}/{row}.flac", "text": "so it is", "duration": 600.5}
                file.write(json.dumps(values) + "\n")
        source, settings = Source(str(folder / "manifest.jsonl")), RunSettings("fake", "0", {}, ROWS)
        filled = Ledger(open_store(str(folder / "out")), settings)
        filled.open()
        for shard in source.shards(ROWS):
            results = [
                RowResult(each.row, each.audio, f"{each.row:032x}", 600.5, words=3, errors=0)
                for each in shard.recordings
            ]
            filled.finish(shard, results)
        if not given.s3:
            resume(filled, source)
            return
        with bucket(folder, given.delay_ms / 1000) as address:
            resume(Ledger(open_store(address), settings), source)


def resume(ledger: Ledger, source: Source) -> None:
    tally = Tally()
    wall_s, cpu_s = time.monotonic(), time.process_time()
    ledger.open()
    tally.recordings = source.count()
    assert not list(unfinished(ledger, source, ShardShare(), tally, retry_failed=False))
    assert tally.done == tally.recordings
    wall_s, cpu_s = time.monotonic() - wall_s, time.process_time() - cpu_s
    told = {"recordings": tally.done, "wall_s": round(wall_s, 2), "cpu_us_each": round(1e6 * cpu_s / tally.done, 1)}
    print(json.dumps(told | {"memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))


if __name__ == "__main__":
    main()
