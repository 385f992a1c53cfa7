#!/usr/bin/env python3
"""Write docs/benchmarks.md anew: `redline bench` of the bundled models on this machine, and who else ran beside them.

scripts/benchmarks.py            # some minutes, with nothing else running

What other machines gave stays: each machine has a section of its own, which only a run on it replaces.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from redline.files import write_text

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
MODELS = ("tiny", "tiny-plus", "tiny-multi")
HEAD = """# Benchmarks

Each machine has a section, written there by `scripts/benchmarks.py` with nothing else running: commands, commit and
numbers. Times of different machines, or of different days on one, say little; ratios are of sides that ran by turns in
one run.
"""


def machine() -> str:
    """The processor with the instructions that matter, and its CPUs."""
    flags, name = set[str](), platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        text = cpuinfo.read_text(errors="replace")
        flags = set(re.search(r"flags\s*:(.*)", text + "\nflags :")[1].split())  # type: ignore[index]
        name = (re.search(r"model name\s*:\s*(.*)", text) or [name, name])[1].strip()
    known = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16") if flag in flags]
    import torch

    return f"{torch.get_num_threads()} threads of {name} ({', '.join(known) or 'no vectors known'})"


def section(name: str, commit: str, runs: dict[str, dict[str, Any]]) -> str:
    """The section of a machine."""
    lines = [f"## {name}", "", f"Commit {commit}.", ""]
    lines += [
        "| model | x real time | 1 s | 10 s | 30 s | cold start | peak memory | live streams |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for model, values in runs.items():
        latency = [f"{values['latency'][length]['p50_ms']:g} ms" for length in ("1 s", "10 s", "30 s")]
        memory, streams = f"{values['peak_memory_mib']} MiB", str(values["live_streams"])
        row = [f"`{model}`, {values['dtype']}", f"{values['rtfx']:g}", *latency, f"{values['cold_start_s']:g} s"]
        lines.append(f"| {' | '.join([*row, memory, streams])} |")
    lines += ["", "`redline bench --model MODEL`: 24 clips of 10 s at once, then single clips.", ""]
    for model, values in runs.items():
        parts = ", ".join(f"{part} {share:.0%}" for part, share in values["parts"].items())
        encoder = values["encoder"]
        rate = f"{encoder['gflop_per_s']} of {encoder['matmul_gflop_per_s']} GFLOP/s of a large product"
        lines.append(f"- `{model}`: {parts}; encoder at {rate}.")
    rivals = next(iter(runs.values())).get("against", {})
    if rivals:
        lines += [
            "",
            "| encoder, 8 clips of 15 s | transformers | x as fast, float32 | x as fast, bfloat16 | difference |",
        ]
        lines += ["|---|--:|--:|--:|--:|"]
        for shape, row in rivals.items():
            ratios = [f"{row[key]:.2f}" if key in row else "" for key in ("ratio_float32", "ratio_bfloat16")]
            lines.append(f"| {shape} | {row['transformers_s']:g} s | {' | '.join(ratios)} | {row['difference']:.0e} |")
        lines += ["", "`redline bench --against transformers`: float32 there, by turns, medians of 5."]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the benches, and put this machine's section in its place."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS, help="models to measure")
    given = parser.parse_args()
    runs = {}
    for number, model in enumerate(given.models):
        against = ["--against", "transformers"] if number == 0 else []
        command = [sys.executable, "-m", "redline", "bench", "--model", model, *against]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        runs[model] = json.loads(output.splitlines()[-1])
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, text=True, check=False
    ).stdout
    name = machine()
    before = PAGE.read_text(encoding="utf-8") if PAGE.exists() else HEAD
    others = [part for part in re.split(r"(?m)^(?=## )", before)[1:] if not part.startswith(f"## {name}\n")]
    own = section(name, commit.strip() or "unknown", runs)
    write_text(PAGE, "\n".join([HEAD, own, *(part.rstrip() + "\n" for part in others)]))
    print(f"{PAGE}: {len(runs)} models", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
