"""A server in a process of its own, with a recognizer that takes its time, to be killed at any moment."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path

from redline.errors import RedlineError
from redline.testing import FakeRecognizer
from redline.types import Hypothesis, Request

WINDOW_S = 5.0


class SlowRecognizer(FakeRecognizer):
    """Notes each window in a file before it answers, and stops for good in front of one of its number."""

    def __init__(self, log: Path | None = None, batch_s: float = 0.0, stops_at: int | None = None) -> None:
        super().__init__(max_clip_s=WINDOW_S)
        self.log, self.batch_s, self.stops_at, self.heard = log, batch_s, stops_at, 0

    def recognize(self, requests: Sequence[Request]) -> list[Hypothesis | RedlineError]:
        time.sleep(self.batch_s)
        self.heard += len(requests)
        if self.stops_at is not None and self.heard > self.stops_at:
            time.sleep(60)
        if self.log is not None:
            with self.log.open("a", encoding="ascii") as file:
                file.writelines(f"{request.id}\n" for request in requests)
        return super().recognize(requests)


def _serve(
    ready: Path, data: Path, recognizer: dict[str, object], options: dict[str, object], cpus: Sequence[int]
) -> None:
    import uvicorn

    from redline import Transcriber
    from redline.engine.scheduler import BatchOptions
    from redline.longform.session import SessionOptions
    from redline.serve.app import create_app
    from redline.serve.http_protocol import open_many_files, uvicorn_config
    from redline.serve.options import ServeOptions

    os.sched_setaffinity(0, cpus or os.sched_getaffinity(0))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, most), most))  # as a login gives it
    open_many_files()
    model = Transcriber(SlowRecognizer(**recognizer), SessionOptions(vad=None), BatchOptions(batch_s=WINDOW_S))  # type: ignore[arg-type]
    settings = ServeOptions(data_dir=data, **options)  # type: ignore[arg-type]
    app = create_app(model, settings)

    class Server(uvicorn.Server):
        async def startup(self, sockets: object = None) -> None:
            await super().startup()
            port = self.servers[0].sockets[0].getsockname()[1]
            partial = ready.with_suffix(".part")
            partial.write_text(f"http://127.0.0.1:{port}", encoding="ascii")
            partial.rename(ready)

    Server(uvicorn_config(app, settings, port=0, log_level="critical")).run()


class KilledServer:
    """Context manager: a server that answers; it is killed (SIGKILL) at the end, or ended by `stop` (SIGTERM)."""

    def __init__(
        self, folder: Path, recognizer: dict[str, object], *, cpus: Sequence[int] = (), **options: object
    ) -> None:
        """`recognizer` are the arguments of `SlowRecognizer`, `options` those of `ServeOptions`; `cpus` it may use."""
        self._ready = folder / "ready"
        self._ready.unlink(missing_ok=True)
        context = multiprocessing.get_context("forkserver")  # imports once, then forks
        context.set_forkserver_preload(["redline.serve.app"])
        self._process = context.Process(target=_serve, args=(self._ready, folder / "data", recognizer, options, cpus))

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def __enter__(self) -> str:
        """Its URL."""
        self._process.start()
        while not self._ready.exists():
            assert self._process.is_alive(), "the server did not start"
            time.sleep(0.005)
        return self._ready.read_text(encoding="ascii")

    def stop(self) -> None:
        self._process.terminate()
        self._process.join(30)
        assert self._process.exitcode is not None, "the server does not stop"

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
