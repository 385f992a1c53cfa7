#!/usr/bin/env python3
"""Throughput and latency of `redline serve` under load, beside the same clips offline, by turns in one run.

scripts/load_serve.py speech.flac                            # 128 clips of 10 s, 32 clients, the bundled model
scripts/load_serve.py a.flac b.mp3 --clients 1 8 32 --rounds 3 --chart load.png

The recordings are joined and cut into clips, written as WAV files. Offline, one `Transcriber.transcribe_each` reads
them all; each number of clients sends them to a server, each client its next clip when it has the text of the last.
Both run in processes of their own, which are up and warm before the clock starts. Every text of the server must be the
offline one.
The last line is JSON: times real time, their ratio, latencies, seconds of CPU; of the last round the clips of a batch,
and the share of the time in which the scheduler was at work.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import re
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import wave
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from redline.audio import load
from redline.types import SAMPLE_RATE

OFFLINE = """
import json, sys, time
import redline
model = redline.load_model(sys.argv[1])
paths = sys.argv[2:]
model.transcribe(paths[0])
print("ready", flush=True)
for _ in sys.stdin:
    began = time.perf_counter()
    texts = [result.text for result in model.transcribe_each(paths)]
    print(json.dumps([time.perf_counter() - began, texts]), flush=True)
"""


def cut(recordings: Sequence[Path], count: int, clip_s: float, folder: Path) -> list[Path]:
    """Clips of joined recordings, the same sound again where there is too little."""
    speech = np.concatenate([load(path).samples for path in recordings])
    size = round(clip_s * SAMPLE_RATE)
    paths = []
    for number in range(count):
        at = number * size % max(1, len(speech) - size)
        paths.append(folder / f"{number:04d}.wav")
        with wave.open(str(paths[-1]), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE)
            file.writeframes((np.clip(speech[at : at + size], -1, 1) * 32767).astype("<i2").tobytes())
    return paths


class Offline:
    """A process with the model, which transcribes all clips again and again."""

    def __init__(self, model: str, paths: Sequence[Path]) -> None:
        command = [sys.executable, "-c", OFFLINE, model, *map(str, paths)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._line()

    def run(self) -> tuple[float, list[str]]:
        """Seconds, and the texts."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        seconds, texts = json.loads(self._line())
        return seconds, texts

    def _line(self) -> str:
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            raise SystemExit("the offline process ended")
        return line


@contextmanager
def server(model: str, data: Path) -> Iterator[tuple[str, int]]:
    """A server on a free port: its address and its process."""
    command = [sys.executable, "-m", "redline", "serve", "--model", model, "--port", "0", "--data", str(data)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.search(r"http://\S+:[1-9]\d*", line):
                break
        else:
            raise SystemExit("the server did not start")
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield found[0], process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def load_with(url: str, paths: Sequence[Path], clients: int, expected: Sequence[str]) -> tuple[float, list[float]]:
    """Seconds for all clips, and of each request; raises where a text differs."""
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(paths)):
        waiting.put(number)
    latencies: list[float] = []
    wrong: list[str] = []

    def work() -> None:
        with httpx.Client(base_url=url, timeout=600) as client:
            while True:
                try:
                    number = waiting.get_nowait()
                except queue.Empty:
                    return
                began = time.perf_counter()
                reply = client.post("/v1/audio/transcriptions", files={"file": paths[number].read_bytes()})
                latencies.append(time.perf_counter() - began)
                if reply.status_code != 200 or reply.json()["text"] != expected[number]:
                    wrong.append(f"{paths[number].name}: {reply.text[:200]}")

    threads = [threading.Thread(target=work) for _ in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise SystemExit(f"{len(wrong)} texts are not those of the offline engine, such as {wrong[0]}")
    return time.perf_counter() - began, latencies


def cpu_s(pid: int) -> float:
    """Seconds of CPU of a process and of all that it has started, whether they live or not."""
    seconds, children = 0.0, dict[int, list[int]]()
    of: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
            of[int(entry.name)] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    waiting = [pid]
    while waiting:
        seconds += of.get(each := waiting.pop(), 0.0)
        waiting += children.get(each, [])
    return seconds


def scheduler_metrics(url: str) -> dict[str, float]:
    """What the server's scheduler has done so far: its batches, their clips, and the seconds it was at work."""
    names = {"batch_answers_count": "batches", "batch_answers_sum": "clips", "recognition_busy_seconds_total": "busy_s"}
    found = dict(re.findall(r"^redline_(\w+) (\S+)$", httpx.get(f"{url}/metrics").text, re.MULTILINE))
    return {short: float(found[name]) for name, short in names.items()}


def draw(path: Path, rows: Sequence[dict[str, Any]], offline_rtfx: float) -> None:
    """Throughput and latency over the number of clients."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    clients = [row["clients"] for row in rows]
    left.plot(clients, [row["rtfx"] for row in rows], marker="o", color="#0b6e4f")
    left.axhline(offline_rtfx, color="#888888", linestyle="--", label="offline")
    left.set(title="throughput", xlabel="clients", ylabel="x real time", ylim=(0, None))
    left.legend(frameon=False)
    for key, shade in (("p50_s", "#9ad1bb"), ("p95_s", "#0b6e4f")):
        right.plot(clients, [row[key] for row in rows], marker="o", color=shade, label=key[:3])
    right.set(title="latency of a clip", xlabel="clients", ylabel="seconds", ylim=(0, None))
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="+", type=Path)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--clips", type=int, default=128)
    parser.add_argument("--clip-s", type=float, default=10.0)
    parser.add_argument("--clients", type=int, nargs="+", default=[32])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--chart", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = cut(chosen.recordings, chosen.clips, chosen.clip_s, Path(folder))
        sound_s = chosen.clips * chosen.clip_s
        offline = Offline(chosen.model, paths)
        offline_s: list[float] = []
        offline_cpu: list[float] = []
        rows: list[dict[str, Any]] = [{"clients": count, "times": [], "cpu": [], "all": []} for count in chosen.clients]
        with server(chosen.model, Path(folder) / "data") as (url, pid):
            expected = offline.run()[1]
            load_with(url, paths[:8], 4, expected)
            for _ in range(chosen.rounds):
                before = cpu_s(offline.process.pid)
                offline_s.append(offline.run()[0])
                offline_cpu.append(cpu_s(offline.process.pid) - before)
                for row in rows:
                    before, steps = cpu_s(pid), scheduler_metrics(url)
                    seconds, latencies = load_with(url, paths, row["clients"], expected)
                    row["times"].append(seconds)
                    row["cpu"].append(cpu_s(pid) - before)
                    done = {name: value - steps[name] for name, value in scheduler_metrics(url).items()}
                    row["clips_a_batch"] = round(done["clips"] / done["batches"], 1)
                    row["busy"] = round(done["busy_s"] / seconds, 2)
                    row["all"] += latencies
        offline.process.stdin.close()  # type: ignore[union-attr]
        offline.process.wait()
        best = min(offline_s)
        for row in rows:
            latencies = sorted(row.pop("all"))
            seconds, cpu = min(row.pop("times")), min(row.pop("cpu"))
            row |= {
                "rtfx": round(sound_s / seconds, 1),
                "of_offline": round(best / seconds, 3),
                "p50_s": round(statistics.median(latencies), 3),
                "p95_s": round(latencies[round(0.95 * (len(latencies) - 1))], 3),
                "cpu_s": round(cpu, 2),
            }
            print(
                f"{row['clients']:4d} clients: {row['rtfx']} x real time, {row['of_offline']:.0%} of offline",
                file=sys.stderr,
            )
        rtfx = round(sound_s / best, 1)
        if chosen.chart:
            draw(chosen.chart, rows, rtfx)
        client_cpu = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        result = {"clips": chosen.clips, "clip_s": chosen.clip_s, "rounds": chosen.rounds, "served": rows}
        result["offline"] = {"rtfx": rtfx, "cpu_s": round(min(offline_cpu), 2)}
        print(json.dumps(result | {"cpu_of_clients_s": round(client_cpu, 2)}))


if __name__ == "__main__":
    main()
