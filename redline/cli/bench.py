"""`redline bench`: how fast a model is here, and against a rival in the same run."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.table import Table

from redline import __version__
from redline.cli import console
from redline.cli.train import Device, EncoderEngine, ModelName, Precision, Threads
from redline.errors import RedlineError, packages_of

_AGAINST_HELP = """transformers (its encoder, same weights, same sound; with --random-weights its 2B, on the CPU), or a
command with {audio} where the recording goes; it and `redline transcribe` run by turns."""
_BAR = 40


def bench(
    model: ModelName = "tiny",
    audio: Annotated[Path | None, typer.Option(help="Speech to cut clips from; default: the bundled clip.")] = None,
    clips: Annotated[int, typer.Option(min=1, help="Clips of 10 s whose throughput is measured.")] = 24,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each latency and of each side.")] = 5,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="In place of a model: the networks of 2B-NAR, with random weights.")
    ] = False,
    against: Annotated[str | None, typer.Option(help=_AGAINST_HELP)] = None,
    engine: EncoderEngine = "auto",
    dtype: Precision = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Throughput and its parts, latency, live streams, cold start and memory of a model on this machine.

    Times are of this moment: nothing else should run. The last line is JSON.
    """
    values: dict[str, Any]
    notes = console.Notes()
    from redline.audio import load
    from redline.engine.bench import CLIPS, BenchOptions, measure, measure_random_weights, precision_of
    from redline.engine.precision import pick_dtype
    from redline.engine.rivals import against_transformers, transformers_2b
    from redline.load import load_model, pick_device
    from redline.threads import use

    def say(line: str) -> None:
        notes.say(line, "dim")

    if random_weights:
        if audio or against not in (None, "transformers"):
            raise typer.BadParameter("leave --audio out with --random-weights; --against may be transformers alone")
        use(threads)
        options = BenchOptions(clips=clips, repeats=repeats)
        where: dict[str, Any] = {"device": pick_device(device), "engine": engine}
        values = measure_random_weights(pick_dtype(dtype, where["device"]), options, say, **where)
        if against:
            with packages_of("test", "--against transformers"):
                values["against"] = {"its 2B": transformers_2b(CLIPS, options.clip_s, repeats, say)}
        _print(values)
        typer.echo(json.dumps(values))
        return
    source = audio or Path(__file__).parents[1] / "assets" / "demo.flac"
    wave, options = load(source), BenchOptions(clips=clips, repeats=repeats)
    if len(wave.samples) == 0:
        raise RedlineError(f"{source}: is empty; give some seconds of speech")
    loading: dict[str, Any] = {"device": device, "dtype": dtype, "engine": engine, "threads": threads}
    chosen = [part for name, value in loading.items() if value is not None for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "redline", "transcribe", str(source), "--model", model, "--quiet", *chosen]

    def whole(command: list[str]) -> float:
        started = time.perf_counter()
        done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
        if done.returncode:
            raise RedlineError(f"{shlex.join(command)} ended with exit status {done.returncode}")
        return time.perf_counter() - started

    loaded = load_model(model, **loading)
    say("cold start: a new process, from import to the first text")
    cold_s = whole(command)
    values = {"redline": __version__, "model": model, "machine": platform.machine()}
    values |= {"cold_start_s": round(cold_s, 2), **measure(loaded, wave, options, say)}
    if against == "transformers":
        recognizer: Any = loaded.recognizer
        with packages_of("test", "--against transformers"):
            values["against"] = against_transformers(precision_of(recognizer), repeats, say)
    elif against is not None:
        rival = [part.replace("{audio}", str(source)) for part in shlex.split(against)]
        times = [(whole(command), whole(rival)) for _ in range(repeats)]
        ours, theirs = (median(spent) for spent in zip(*times, strict=True))
        values["against"] = {"command": against, "seconds": round(theirs, 2), "ratio": round(theirs / ours, 3)}
    _print(values)
    typer.echo(json.dumps(values, ensure_ascii=False))


def _print(values: dict[str, Any]) -> None:
    out = console.results()
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("throughput", f"{values['rtfx']:g} x real time")
    for name, share in values["parts"].items():
        table.add_row(f"  {name}", f"{'█' * round(_BAR * share):<{_BAR}} {share:.0%}")
    for length, times in values.get("latency", {}).items():
        table.add_row(f"latency of {length}", f"{times['p50_ms']:g} ms, 95 % within {times['p95_ms']:g} ms")
    if "live_streams" in values:
        table.add_row("live streams", f"at least {values['live_streams']}")
        table.add_row("cold start", f"{values['cold_start_s']:g} s")
        rate = values["encoder"]
        table.add_row("encoder", f"{rate['gflop_per_s']} of {rate['matmul_gflop_per_s']} GFLOP/s of a large product")
    table.add_row("peak memory", f"{values['peak_memory_mib']} MiB")
    table.add_row("", f"{values['device']}, {values['dtype']}")
    out.print(table)
    rivals = values.get("against", {})
    for name, row in ({"command": rivals} if "command" in rivals else rivals).items():
        out.print(f"against {name}: {', '.join(f'{key} {value}' for key, value in row.items())}")
