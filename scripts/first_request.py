#!/usr/bin/env python3
"""Seconds from the start of `redline serve` to the answer to its first request, each time a new process.

scripts/first_request.py speech.flac                 # 5 starts; the bundled model, a recording of a few seconds
scripts/first_request.py speech.flac --model tiny-multi --starts 10

A client asks again and again from the moment that the process is started, as a program does that starts a server for
itself. The last line is JSON: seconds until the port answers, and until the text is there.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def first_request(model: str, recording: Path, data: Path) -> tuple[float, float]:
    """Seconds until the server is ready, and until it has given a text."""
    port = free_port()
    command = [sys.executable, "-m", "redline", "serve", "--model", model, "--port", str(port), "--data", str(data)]
    began = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            while True:
                if process.poll() is not None:
                    raise SystemExit("the server did not start")
                try:
                    client.get("/ready").raise_for_status()
                    break
                except httpx.HTTPError:
                    time.sleep(0.02)
            ready_s = time.perf_counter() - began
            reply = client.post("/v1/audio/transcriptions", files={"file": recording.read_bytes()})
            reply.raise_for_status()
            if not reply.json()["text"]:
                raise SystemExit(f"{recording}: no text; give a recording of speech")
            return ready_s, time.perf_counter() - began
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--starts", type=int, default=5)
    chosen = parser.parse_args()
    times = []
    for number in range(chosen.starts):
        with tempfile.TemporaryDirectory() as folder:
            times.append(first_request(chosen.model, chosen.recording, Path(folder)))
        print(f"start {number + 1}: ready {times[-1][0]:.2f} s, text {times[-1][1]:.2f} s", file=sys.stderr)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    ready, text = zip(*times, strict=True)
    result = {
        "ready_s": round(statistics.median(ready), 2),
        "text_s": round(statistics.median(text), 2),
        "slowest_text_s": round(max(text), 2),
        "cpu_of_a_start_s": round((used.ru_utime + used.ru_stime) / chosen.starts, 2),
    }
    print(json.dumps({"model": chosen.model, "starts": chosen.starts, **result}))


if __name__ == "__main__":
    main()
