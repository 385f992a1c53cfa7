"""An S3 server of this machine that refuses every third request, as buckets do under load."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from redline.cluster import store as stores


@dataclass
class UnkindS3:
    """Its file system, and the requests that it has refused."""

    system: Any = None
    refused: list[int] = field(default_factory=list)

    def put(self, name: str, data: bytes) -> None:
        stores.patiently("put", functools.partial(self.system.pipe_file, name, data))


@contextmanager
def unkind_s3() -> Iterator[UnkindS3]:
    """A server with a bucket `unkind`; this process, and those that it starts, find it by their environment."""
    pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    inner, count, found = DomainDispatcherApplication(create_backend_app), itertools.count(1), UnkindS3()

    def application(environment: Any, start_response: Any) -> Any:
        if (number := next(count)) % 3 == 0:
            found.refused.append(number)
            start_response("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        return inner(environment, start_response)

    server = make_server("127.0.0.1", 0, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
            for name in "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY":
                patch.setenv(name, "test")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            s3fs.S3FileSystem.clear_instance_cache()
            found.system = stores.filesystem_of("s3://unkind")
            stores.patiently("mkdir", lambda: found.system.mkdir("unkind"))
            yield found
            s3fs.S3FileSystem.clear_instance_cache()
    finally:
        server.shutdown()
        thread.join()
