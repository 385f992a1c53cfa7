#!/usr/bin/env python3
"""Write this machine's section of docs/benchmarks.md anew, every number by a command that the section names.

scripts/benchmarks.py --speech manifest.jsonl                  # half an hour or more, with nothing else running
scripts/benchmarks.py --speech manifest.jsonl --parts clips    # measures some parts; the others stay as they are

The parts: `models` (speed, latency, memory, cold start), `encoder` (beside that of transformers), `clips` (sixty of
10 s, beside an earlier commit), `memory` (of an hour), `hours` (1 to 100), `speakers` (their cost) and `networks` (2B
with random weights beside transformers' own; 6 GB). Processors with more than AVX2 run `models`, `encoder` and `clips`
again with AVX2 instructions alone. Speech is joined from rows of a manifest in the splits dev and test.

What other machines gave stays: each has a section of its own, which only a run on it replaces.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from redline import audio
from redline.files import write_text
from redline.manifest import Utterance, read_manifest
from redline.types import SAMPLE_RATE

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
MODELS = ("tiny", "tiny-plus", "tiny-multi")
BEFORE = "bf98474"
"""The commit before the packed engine."""
CLIPS, CLIP_S, ROUNDS = 60, 10, 5
HOURS = (1, 3, 10, 30, 100)
KNOWN_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
AVX2_ALONE = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}
HEAD = """# Benchmarks

Each machine has a section. Those that begin with `scripts/benchmarks.py` were written by it, with nothing else running:
commands, commits and numbers. Times of different machines, or of different days on one, say little; ratios are of sides
that ran by turns in one run.
"""
PREFACE = f"""`scripts/benchmarks.py --speech manifest.jsonl`. With AVX2 instructions alone:
`{" ".join(f"{name}={value}" for name, value in AVX2_ALONE.items())}`."""
Row = Sequence[str]


@dataclass(frozen=True)
class Bench:
    """Where the parts find what they measure with."""

    folder: Path
    """For what is made and thrown away."""
    speech: Path | None
    """A manifest of labelled utterances."""
    before: str
    """The commit that the clips are measured against."""
    has_more_than_avx2: bool

    def rows(self) -> list[Utterance]:
        assert self.speech is not None
        return [row for row in read_manifest(self.speech, language="en") if row.split in ("dev", "test")]

    @property
    def instructions(self) -> dict[str, Mapping[str, str]]:
        """What a processor is told to use: all that it has and, where that is more, AVX2."""
        return {"": {}, "AVX2 instructions alone": AVX2_ALONE} if self.has_more_than_avx2 else {"": {}}


def cpu_flags() -> list[str]:
    """The instructions that matter here."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(errors="replace") if cpuinfo.exists() else ""
    match = re.search(r"flags\s*:(.*)", text)
    return [flag for flag in KNOWN_FLAGS if match and flag in match[1].split()]


def machine() -> str:
    """The processor with the instructions that matter, and its CPUs."""
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(errors="replace") if cpuinfo.exists() else ""
    match = re.search(r"model name\s*:\s*(.*)", text)
    name = match[1].strip() if match else platform.processor() or platform.machine()
    return f"{torch.get_num_threads()} threads of {name} ({', '.join(cpu_flags()) or 'no vectors known'})"


def table(head: Row, rows: Sequence[Row]) -> str:
    """Markdown, numbers to the right."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def last_json(command: Sequence[str], settings: Mapping[str, str]) -> dict[str, Any]:
    """The last line that a command of this project writes, read as JSON."""
    done = subprocess.run(
        [sys.executable, *command], env=os.environ | settings, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    value: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return value


def bench(*options: str, settings: Mapping[str, str] = {}) -> dict[str, Any]:
    return last_json(["-m", "redline", "bench", *options], settings)


def timed(command: Sequence[str], settings: Mapping[str, str] = {}, code: Path = ROOT) -> tuple[float, float, int]:
    """A transcript by some code: its seconds by the clock and of the CPU, and its peak memory in MB."""
    with tempfile.TemporaryDirectory() as out:
        whole = [sys.executable, "-m", "redline", "transcribe", *command, "--output-dir", out, "--quiet"]
        environment = os.environ | settings | {"PYTHONPATH": str(code)}
        started = time.perf_counter()
        process = subprocess.Popen(whole, env=environment, cwd=code, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)[:300]}: exit status {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - started, used.ru_utime + used.ru_stime, round(used.ru_maxrss * 1024 / 1e6)


# -- Parts ---------------------------------------------------------------------------------------------------------


def models(given: Bench) -> str:
    rows, parts = list[Row](), list[str]()
    for name in MODELS:
        for what, settings in given.instructions.items() if name == MODELS[0] else [("", {})]:
            values = bench("--model", name, settings=settings)
            latency = [f"{values['latency'][length]['p50_ms']:.0f}" for length in ("1 s", "5 s", "10 s", "30 s")]
            title = ", ".join(filter(None, (f"`{name}`", values["dtype"], what)))
            memory, streams = f"{values['peak_memory_mib']} MiB", f"{values['live_streams']}"
            rows.append([title, f"{values['rtfx']:g}", *latency, f"{values['cold_start_s']:g} s", memory, streams])
            shares = ", ".join(f"{part} {share:.0%}" for part, share in values["parts"].items())
            encoder = values["encoder"]
            rate = f"{encoder['gflop_per_s']} of {encoder['matmul_gflop_per_s']} GFLOP/s of a large product"
            parts.append(f"- {title}: {shares}; encoder at {rate}.")
    head = ["model", "x real time", "1 s, ms", "5 s", "10 s", "30 s", "cold start", "peak memory", "live streams"]
    note = (
        "`redline bench --model MODEL`: 24 clips of 10 s at once, then single clips; the cold start is a process from\n"
    )
    note += "import to the first text."
    return "\n\n".join((table(head, rows), note, "\n".join(parts)))


def encoder(given: Bench) -> str:
    measured: dict[str, Mapping[str, Any]] = {}
    for what, settings in given.instructions.items():
        for dtype in ("", "int8"):
            options = ["--dtype", dtype] if dtype else []
            found = bench("--model", "tiny", "--clips", "4", "--against", "transformers", *options, settings=settings)
            measured[", ".join(filter(None, (dtype, what)))] = found["against"]
    columns: dict[str, dict[str, str]] = {}
    for what, shapes in measured.items():
        for shape, row in shapes.items():
            for key, value in row.items():
                if key.startswith("ratio_"):
                    title = ", ".join(filter(None, (key[6:], what.removeprefix("int8").removeprefix(", "))))
                    columns.setdefault(title, {}).setdefault(shape, f"{value:.2f}")
    rows = [[shape, *(ratios.get(shape, "") for ratios in columns.values())] for shape in measured[""]]
    worst = max(row["difference"] for row in measured[""].values())
    note = (
        "`redline bench --model tiny --against transformers [--dtype int8]`: x as fast as transformers in float32, by\n"
    )
    note += f"turns, medians of 5, 8 clips of 15 s; outputs in float32 differ by {worst:.0e} at most."
    return "\n\n".join((table(["encoder and projector", *columns], rows), note))


def clips(given: Bench) -> str:
    folder = given.folder / "clips"
    files = write_clips(folder, given.rows())
    rows, ratios = list[Row](), list[str]()
    with worktree(given.before, given.folder / "before") as before:
        model = str(before / "redline" / "assets" / "tiny")
        command = [*map(str, files), "--model", model, "--word-timestamps"]
        for what, settings in given.instructions.items():
            sides = {given.before: before, "now": ROOT}
            runs: dict[str, list[tuple[float, float, int]]] = {side: [] for side in sides}
            for _ in range(ROUNDS):
                for side, code in sides.items():
                    runs[side].append(timed(command, settings, code))
            for side, measured in runs.items():
                seconds, cpu, memory = zip(*measured, strict=True)
                title = ", ".join(filter(None, (side, what)))
                texts = [", ".join(f"{value:.1f}" for value in values) + " s" for values in (seconds, cpu)]
                rows.append([title, *texts, f"{min(memory)} to {max(memory)} MB"])
            wall = [sum(seconds for seconds, _, _ in measured) for measured in runs.values()]
            ratios.append(f"{wall[0] / wall[1]:.2f} times{f' ({what})' if what else ''}")
    note = "`redline transcribe *.mp3 --model M --word-timestamps --quiet --output-dir OUT`, "
    note += f"{len(files)} clips of {CLIP_S} s,\n`M` the `tiny` of {given.before} in both, by turns: "
    note += f"**{' and '.join(ratios)} as fast**, by the sums."
    return "\n\n".join((table(["whole command", "clock", "user and system", "peak memory"], rows), note))


def memory(given: Bench) -> str:
    hour = write_speech(given, 60)
    short = given.folder / "clip.flac"
    samples, rate = soundfile.read(hour, CLIP_S * SAMPLE_RATE, dtype="int16")
    soundfile.write(short, samples, rate)
    rows, peaks = list[Row](), list[float]()
    for title, file in ((f"a clip of {CLIP_S} s", short), ("an hour", hour)):
        runs = [timed([str(file), "--word-timestamps"]) for _ in range(3)]
        rows.append([title, f"{median(run[0] for run in runs):.1f} s", ", ".join(f"{run[2]}" for run in runs) + " MB"])
        peaks.append(median(run[2] for run in runs))
    note = "`redline transcribe FILE --word-timestamps --output-dir OUT`, three times each: "
    note += f"an hour takes **{peaks[1] - peaks[0]:.0f} MB more** than a\nclip of it."
    return "\n\n".join((table(["one file, `tiny`", "clock", "peak memory"], rows), note))


def hours(given: Bench) -> str:
    lengths = [str(length) for length in HOURS]
    command = [str(ROOT / "scripts" / "hours.py"), str(write_speech(given, 10)), "--model", "fake", "--hours", *lengths]
    output = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, text=True, check=True).stdout
    runs = [json.loads(line) for line in output.splitlines()][1:]
    rows = [
        [f"{run['hours']:g}", f"{run['seconds_per_hour']:.2f}", f"{run['cpu_seconds_per_hour']:.2f}"]
        + [f"{run['peak_memory_mib']} MiB", f"{run['segments']:,}"]
        for run in runs
    ]
    spent = [run["seconds_per_hour"] for run in runs]
    note = f"`scripts/hours.py speech.flac --hours {' '.join(lengths)} --model fake`: speech detection, windows and "
    note += "stitching\naround a recognizer without networks. An hour takes the same time wherever it stands, within "
    note += f"{max(spent) / min(spent) - 1:.1%}."
    return "\n\n".join(
        (table(["hours", "seconds an hour", "CPU seconds an hour", "peak memory", "segments"], rows), note)
    )


def speakers(given: Bench) -> str:
    rows = list[Row]()
    for minutes, runs in ((10, 3), (60, 2)):
        options = [str(given.speech), "--minutes", str(minutes), "--cost", str(runs)]
        output = subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "hour.py"), *options], stdout=subprocess.PIPE, text=True, check=True
        ).stdout
        *measured, cost = [json.loads(line) for line in output.splitlines()]
        sides = [measured[side::2] for side in (0, 1)]
        texts = [
            ", ".join(f"{run[key]:.1f}" for run in side) + " s" for key in ("cpu_seconds", "seconds") for side in sides
        ]
        rows.append([f"{minutes} minutes", *texts, f"{cost['speakers_cost']:.0%}"])
    head = ["docx, srt and json", "CPU", "with speakers", "clock", "with speakers", "cost, of the CPU's time"]
    note = "`scripts/hour.py manifest.jsonl --minutes M --cost RUNS`, by turns, the start of the program included."
    return "\n\n".join((table(head, rows), note))


def networks(given: Bench) -> str:
    found = bench("--random-weights", "--against", "transformers", "--repeats", "1")
    (values,) = found["against"].values()
    rows = [
        [f"2B-NAR, the full editor, {found['dtype']}", f"{found['rtfx']:g}", f"{found['peak_memory_mib']} MiB"],
        ["2B of transformers, bfloat16", f"{values['rtfx']:g}", ""],
    ]
    note = "`redline bench --random-weights --against transformers --repeats 1`: the published shapes with random\n"
    note += "weights, no search and no text."
    return "\n\n".join((table(["networks", "x real time", "peak memory"], rows), note))


PARTS: Mapping[str, Callable[[Bench], str]] = {
    "models": models,
    "encoder": encoder,
    "clips": clips,
    "memory": memory,
    "hours": hours,
    "speakers": speakers,
    "networks": networks,
}
NEED_SPEECH = ("clips", "memory", "hours", "speakers")


# -- What they measure with ----------------------------------------------------------------------------------------


def joined(rows: Sequence[Utterance], seconds: float) -> Iterator[NDArray[np.float32]]:
    """Utterances one after the other, in pieces of so many seconds."""
    size, left = round(seconds * SAMPLE_RATE), np.zeros(0, np.float32)
    for row in rows:
        left = np.concatenate((left, audio.load(row.audio).samples))
        while len(left) >= size:
            yield left[:size]
            left = left[size:]


def write_clips(folder: Path, rows: Sequence[Utterance]) -> list[Path]:
    """The clips as mp3."""
    folder.mkdir()
    files = list[Path]()
    for samples in islice(joined(rows, CLIP_S), CLIPS):
        files.append(folder / f"{len(files):02d}.mp3")
        with av.open(str(files[-1]), "w") as container:
            stream = container.add_stream("libmp3lame", rate=SAMPLE_RATE, layout="mono")
            stream.bit_rate = 64_000
            steps = (samples.clip(-1.0, 1.0) * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(steps[None], format="s16", layout="mono")
            frame.sample_rate = SAMPLE_RATE
            for part in (frame, None):
                container.mux(stream.encode(part))
    if len(files) < CLIPS:
        raise SystemExit(f"the rows of dev and test are {len(files) * CLIP_S} s; {CLIPS * CLIP_S} are needed")
    return files


def write_speech(given: Bench, minutes: int) -> Path:
    """So many minutes as FLAC: the rows again and again."""
    path, left = given.folder / f"{minutes}.flac", minutes * 60 * SAMPLE_RATE
    if not any(True for _ in joined(given.rows(), CLIP_S)):
        raise SystemExit(f"{given.speech}: the rows of dev and test are shorter than {CLIP_S} s")
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1) as file:
        while left:
            for samples in joined(given.rows(), CLIP_S):
                file.write(samples[:left])
                left -= min(left, len(samples))
    return path


@contextmanager
def worktree(commit: str, folder: Path) -> Iterator[Path]:
    """The code of an earlier commit."""
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


# -- The page ------------------------------------------------------------------------------------------------------


def sections(page: str) -> dict[str, str]:
    """The sections of a page by their titles, each without its title."""
    parts = re.split(r"(?m)^## (.*)\n", page)
    return dict(zip(parts[1::2], (part.strip("\n") for part in parts[2::2]), strict=True))


def with_parts(section: str, parts: Mapping[str, str], commit: str) -> str:
    """A machine's section in which these parts are new; the others stay."""
    pieces = re.split(r"(?m)^### (.*)\n", section)
    kept = dict(zip(pieces[1::2], (piece.strip("\n") for piece in pieces[2::2]), strict=True))
    new = {name: f"Commit {commit}.\n\n{text}" for name, text in parts.items()}
    ordered = {name: text for name in PARTS if (text := new.get(name, kept.get(name))) is not None}
    return "\n\n".join([PREFACE, *(f"### {name}\n\n{text}" for name, text in ordered.items())])


def page_with(page: str, name: str, parts: Mapping[str, str], commit: str) -> str:
    """A page on which a machine's section, the first, has these parts anew."""
    others = sections(page)
    own = with_parts(others.pop(name, ""), parts, commit)
    return "\n".join([HEAD, *(f"## {title}\n\n{text}\n" for title, text in {name: own, **others}.items())])


def main() -> int:
    """Measure, part by part; each is on the page as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, help="manifest of English utterances in the splits dev and test")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="default: all, without --speech those that need none")
    parser.add_argument("--before", default=BEFORE, help=f"commit that clips are measured against (default: {BEFORE})")
    given = parser.parse_args()
    asked = given.parts or [name for name in PARTS if given.speech or name not in NEED_SPEECH]
    if given.speech is None and (lacking := [name for name in asked if name in NEED_SPEECH]):
        parser.error(f"--parts {' '.join(lacking)}: give --speech MANIFEST, whose utterances are joined")
    if given.parts is None and given.speech is None:
        print(f"without --speech these parts stay as they are: {', '.join(NEED_SPEECH)}", file=sys.stderr)
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        measured = Bench(Path(folder), given.speech, given.before, "avx512f" in cpu_flags())
        for name in asked:
            print(f"{name} ...", file=sys.stderr)
            part = PARTS[name](measured)
            write_text(PAGE, page_with(PAGE.read_text(encoding="utf-8"), machine(), {name: part}, commit))
            print(part, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
