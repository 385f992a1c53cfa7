#!/usr/bin/env python3
"""Hours of `redline serve` at 80 % of its load, with hostile files among the good ones: does anything grow?

scripts/soak_serve.py speech.flac --hours 24
scripts/soak_serve.py speech.flac --hours 0.5 --clips-per-s 0.5 --hostile cases/ --log soak.jsonl

For the first part of the time clients send as fast as they are answered, which is the load that is possible; then clips
come at random moments, at 80 % of that. One in twenty is a file that is cut, lies, or is none, one of --hostile, or a
client that drops.
The text of a good clip must be the same each time. Every ten seconds memory (what processes share counted once), open
files, threads and processes of the server are noted. The last line is JSON: outcomes, good clips that failed or differ,
and over the second half of the time MB of memory an hour, and the least and the most open files.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from load_serve import cut, server

ROUTE = "/v1/audio/transcriptions"
EVERY_S, SHARE, HOSTILE = 10.0, 0.8, 0.05
SPOILED: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    lambda data, chance: b"",
    lambda data, chance: chance.randbytes(10_000),
    lambda data, chance: data[: chance.randrange(len(data))],
    lambda data, chance: data[:24] + chance.randbytes(20) + data[44:],  # rate, width, size
    lambda data, chance: data[:22] + b"\xff\xff" + data[24:],  # 65,535 channels
    lambda data, chance: b"fLaC" + data[4:],
    lambda data, chance: b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f" + data,
    lambda data, chance: b"#EXTM3U\nhttp://169.254.169.254/\n",
    lambda data, chance: b"PK\x03\x04" + data,
)


class Soak:
    """What was sent, and what came of it."""

    def __init__(self, url: str, clips: list[bytes], hostile: list[bytes]) -> None:
        self.url, self.clips, self.files = url, clips, hostile
        self.texts: dict[int, str] = {}
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._client = httpx.Client(base_url=url, timeout=600, limits=httpx.Limits(max_connections=None))

    def good(self, number: int) -> None:
        """Send a clip that has a text."""
        try:
            reply = self._client.post(ROUTE, files={"file": ("clip.wav", self.clips[number])})
            outcome = str(reply.status_code)
            if reply.status_code == 200:
                with self._lock:
                    same = self.texts.setdefault(number, reply.json()["text"]) == reply.json()["text"]
                outcome = "good" if same else "differs"
        except httpx.HTTPError as error:
            outcome = type(error).__name__
        with self._lock:
            self.counts[outcome] += 1

    def hostile(self, seed: int) -> None:
        """Send what has none, or drop in the middle."""
        chance = random.Random(seed)
        data = self.clips[seed % len(self.clips)]
        if chance.random() < 0.2:
            host, _, port = self.url.removeprefix("http://").partition(":")
            with socket.create_connection((host, int(port)), timeout=60) as link:
                head = f"POST {ROUTE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
                link.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n".encode() + data[:9999])
            outcome = "hostile: dropped"
        else:
            is_given = self.files and chance.random() < 0.5
            data = chance.choice(self.files) if is_given else chance.choice(SPOILED)(data, chance)
            reply = self._client.post(ROUTE, files={"file": ("x", data)})
            outcome = f"hostile: {reply.status_code}"
        with self._lock:
            self.counts[outcome] += 1


def sample(pid: int) -> dict[str, float]:
    """Memory in MB, open files, threads and processes of a server."""
    pids, memory_kb = [pid], 0
    for each in pids:
        try:
            pids += [
                int(child)
                for path in Path(f"/proc/{each}/task").glob("*/children")
                for child in path.read_text().split()
            ]
            rollup = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
            memory_kb += sum(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
        except (FileNotFoundError, ProcessLookupError):
            continue
    files, threads = (len(list(Path(f"/proc/{pid}/{name}").iterdir())) for name in ("fd", "task"))
    return {"memory_mb": round(memory_kb / 1024, 1), "files": files, "threads": threads, "processes": len(pids)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path, nargs="+")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--clip-s", type=float, default=10.0)
    parser.add_argument("--clips-per-s", type=float, help="in place of that 80 %%, where others use the machine, too")
    parser.add_argument("--hostile", type=Path, nargs="*", default=[], help="files, or folders of such")
    parser.add_argument("--log", type=Path, help="JSON lines of all samples")
    chosen = parser.parse_args()
    chance, samples = random.Random(0), []
    with tempfile.TemporaryDirectory() as folder, server(chosen.model, Path(folder) / "data") as (url, pid):
        clips = [path.read_bytes() for path in cut(chosen.recordings, 32, chosen.clip_s, Path(folder))]
        paths = [path for each in chosen.hostile for path in (each.rglob("*") if each.is_dir() else [each])]
        hostile = [path.read_bytes() for path in paths if path.is_file()]
        soak, began = Soak(url, clips, hostile), time.monotonic()
        until, measured_until = began + 3600 * chosen.hours, began + min(300.0, 360 * chosen.hours)

        def note() -> None:
            while time.monotonic() < until:
                seen = {"s": round(time.monotonic() - began), **sample(pid), **soak.counts}
                samples.append(seen)
                if chosen.log is not None:
                    with chosen.log.open("a") as file:
                        file.write(json.dumps(seen) + "\n")
                time.sleep(EVERY_S)

        threading.Thread(target=note, daemon=True).start()

        def fast(client: int) -> None:
            number = client
            while time.monotonic() < measured_until:
                soak.good(number % len(clips))
                number += 1

        with ThreadPoolExecutor(64) as pool:
            if chosen.clips_per_s is None:
                list(pool.map(fast, range(8)))
            rate = chosen.clips_per_s or SHARE * soak.counts.total() / (time.monotonic() - began)
            sent = 0
            while time.monotonic() < until:
                time.sleep(chance.expovariate(rate))
                sent += 1
                if chance.random() < HOSTILE:
                    pool.submit(soak.hostile, sent)
                else:
                    pool.submit(soak.good, chance.randrange(len(clips)))
    late = samples[len(samples) // 2 :]
    hours = [each["s"] / 3600 for each in late]
    slope = statistics.linear_regression(hours, [each["memory_mb"] for each in late]).slope if len(late) > 1 else 0.0
    bad = sum(n for name, n in soak.counts.items() if name != "good" and not name.startswith("hostile"))
    result = {
        "hours": chosen.hours, "clips_per_s": round(rate, 3), "outcomes": dict(soak.counts), "good_that_failed": bad,
        "memory_mb": [late[0]["memory_mb"], late[-1]["memory_mb"]], "mb_per_hour": round(slope, 2),
        "files": [min(each["files"] for each in late), max(each["files"] for each in late)],
        "threads": max(each["threads"] for each in late), "processes": max(each["processes"] for each in late),
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
