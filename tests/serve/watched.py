"""What a server in another process takes, and how soon it says that it lives, while others keep it busy."""

from __future__ import annotations

import http.client
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

MB = 1 << 20
_MEMORY_S = 0.5


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    try:
        return [pid, *(each for path in children for child in path.read_text().split() for each in family(int(child)))]
    except FileNotFoundError:  # one has just ended
        return [pid]


def memory_bytes(pid: int) -> int:
    """Memory of a process and all that it started; what they share is counted once (proportional set sizes)."""
    total = 0
    for each in family(pid):
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return total


def cpu_s(pid: int) -> float:
    """Processor time that a process and all that it started have taken."""
    ticks = 0
    for each in family(pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            ticks += sum(map(int, Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def percentile(seconds: list[float], percent: int) -> float:
    return sorted(seconds)[percent * len(seconds) // 100]


class Watch:
    """Context manager: asks for `/health` all the time, on a connection of its own, and looks at the memory."""

    def __init__(self, url: str, pid: int, every_s: float = 0.02) -> None:
        self._address, self._pid, self._every_s = url.removeprefix("http://"), pid, every_s
        self.seconds: list[float] = []
        """Until each answer."""
        self.busy_s: list[float] = []
        """Of them, what the server computed: all of it for one that has one processor, and that to itself."""
        self.base_bytes = self.most_bytes = 0
        self._stops = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self.base_bytes = memory_bytes(self._pid)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stops.set()
        self._thread.join(60)

    def _run(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=60)
        looked_at = 0.0
        while not self._stops.wait(self._every_s):
            if time.monotonic() > looked_at + _MEMORY_S:
                self.most_bytes = max(self.most_bytes, memory_bytes(self._pid))
                looked_at = time.monotonic()
            began, before_s = time.perf_counter(), cpu_s(self._pid)
            connection.request("GET", "/health")
            reply = connection.getresponse()
            reply.read()
            assert reply.status == 200
            self.seconds.append(time.perf_counter() - began)
            self.busy_s.append(cpu_s(self._pid) - before_s)
        connection.close()
