"""`redline plan`: how many machines an archive needs, for how long, what holds it up, and what it costs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from redline.cli import console
from redline.errors import ConfigError, packages_of

if TYPE_CHECKING:
    from redline.cluster.plan import Outcome, Workload

_GPUS_HELP = "Machines with GPUs and how many, such as h100:16; KIND:COUNT,KIND:COUNT for several kinds."
_MACHINES_HELP = "Machines without GPUs, such as cpu:8; beside GPUs they decode, alone they recognize too."
_REPORT_HELP = "report.json of a run of redline batch: its rates count, and its machine is the kind measured."
_PRICES_HELP = "Prices and rates (TOML) in place of the bundled ones, which are the file to copy."
_MODEL_HELP = "Model whose rates count: 2b-nar, tiny or another that the prices have; default: 2b-nar, or the report's."
_SCALES = (0.5, 1, 2, 4)
_BAR = 30
IN_WORDS = {
    "driver": "the driver",
    "network": "the network",
    "decode": "decoding",
    "recognize": "recognition",
    "write": "writing",
    "start": "the start of the machines",
}


def plan(
    hours: Annotated[float, typer.Option(min=0, help="Hours of recordings; 1e6 is a million.")],
    gpus: Annotated[str, typer.Option(help=_GPUS_HELP)] = "",
    machines: Annotated[str, typer.Option(help=_MACHINES_HELP)] = "",
    report: Annotated[Path | None, typer.Option(help=_REPORT_HELP)] = None,
    prices: Annotated[Path | None, typer.Option(help=_PRICES_HELP)] = None,
    model: Annotated[str | None, typer.Option(help=_MODEL_HELP)] = None,
    mean_minutes: Annotated[
        float | None, typer.Option(min=0, help="Minutes of a recording; default: 30, or the report's mean.")
    ] = None,
    sound: Annotated[
        str, typer.Option("--format", help="Format of the recordings: wav, flac, mp3, m4a, opus.")
    ] = "mp3",
    source_gbit: Annotated[
        float | None, typer.Option("--source-gbit", min=0, help="Gbit/s that the bucket or the line gives.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    chart: Annotated[Path | None, typer.Option(help="Draw the plan as PNG (needs matplotlib).")] = None,
) -> None:
    """Simulate the recognition of an archive: hours, bottleneck, euros, for these machines and for half to four times.

    Nothing is rented, read or sent. Every number says whether it was measured, computed, assumed or listed, where, and
    when. Without --gpus and --machines: one H100, or the machines of the report.
    """
    with packages_of("cluster", "redline plan"):
        from redline.cluster.plan import MEASURED, Workload, with_report
        from redline.cluster.plan import plan as simulate_plan
        from redline.cluster.prices import BUNDLED, PriceList

    known = PriceList.read(prices or BUNDLED)
    with_gpus, without = _counts("--gpus", gpus), _counts("--machines", machines)
    counts = {**with_gpus, **without} or {"h100": 1}
    usual = Workload(hours)
    if report is not None:
        with packages_of("cluster", "--report"):
            from redline.cluster.report import parse_batch_report
        measured = parse_batch_report(report.read_bytes())
        date = time.strftime("%Y-%m-%d", time.gmtime(report.stat().st_mtime))
        known = with_report(known, measured, str(report), date)
        counts = {**with_gpus, **without} or {MEASURED: max(1, measured.machines)}
        mean = 60 * measured.audio_hours / measured.done if measured.done else 0
        usual = Workload(hours, mean or usual.mean_minutes, model=measured.model)
    for option, asked in (("--gpus", with_gpus), ("--machines", without)):
        kinds = [
            kind for kind, each in known.machines.items() if kind == MEASURED or bool(each.gpus) == (asked is with_gpus)
        ]
        if unknown := [kind for kind in asked if kind not in kinds]:
            raise ConfigError(f"{option} {unknown[0]}: the prices have {', '.join(kinds)}; others go in --prices")
    archive = Workload(hours, mean_minutes or usual.mean_minutes, sound, model or usual.model, source_gbit)
    outcomes = {
        scale: simulate_plan(archive, scaled, known)
        for scale in _SCALES
        if all((scaled := {kind: round(scale * count) for kind, count in counts.items()}).values())
    }
    if as_json:
        typer.echo(json.dumps({"archive": vars(archive), **outcomes[1].to_dict()}, ensure_ascii=False))
    else:
        _print(archive, outcomes)
    if chart is not None:
        console.check_outputs([chart], [path for path in (report, prices) if path is not None])
        with packages_of("train", "--chart"):
            from redline.cli.plan_picture import draw_plan
        console.Notes().print(f"{draw_plan(archive, outcomes, chart)}: drawn")


def _counts(option: str, text: str) -> dict[str, int]:
    """`h100:16,l4:2` -> how many of each kind."""
    counts: dict[str, int] = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        kind, _, number = part.partition(":")
        if not number.isdecimal() or not int(number) or kind in counts:
            raise typer.BadParameter(
                f"{part!r}; give KIND:COUNT once for each kind, such as h100:16", param_hint=option
            )
        counts[kind] = int(number)
    return counts


def _print(archive: Workload, outcomes: dict[float, Outcome]) -> None:
    from redline.cluster.prices import GUESSED

    out, outcome = console.results(), outcomes[1]
    gbit = "" if archive.source_gbit_per_s is None else f", {archive.source_gbit_per_s:g} Gbit/s from the source"
    sound = f"{archive.hours:,.0f} hours in {archive.format}, {archive.mean_minutes:g} minutes a recording"
    out.print(f"{sound}{gbit}; {archive.model}")
    table = Table(box=None, pad_edge=False)
    for name in ("machines", "hours", "x real time", "held up by", "euros", "a 1000 h"):
        table.add_column(name, justify="left" if name in ("machines", "held up by") else "right")
    for scale, each in outcomes.items():
        names = ", ".join(f"{count} {kind}" for kind, count in each.machines.items())
        row = (f"{each.run_hours:,.2f}", f"{each.x_real_time:,.0f}", IN_WORDS[each.bottleneck])
        money = (f"{each.euros:,.2f}", f"{each.euros_per_1000_hours:,.2f}")
        table.add_row(names, *row, *money, style="bold" if scale == 1 else "")
    out.print(table)
    out.print()
    pools = Table(box=None, pad_edge=False)
    for name in ("stage", "busy", "", "hours if it were doubled"):
        pools.add_column(name)
    for name, share in outcome.busy.items():
        bar = "█" * round(_BAR * share)
        pools.add_row(name, f"{share:.0%}", f"{bar:<{_BAR}}", f"{outcome.if_doubled[name]:,.2f}")
    out.print(pools)
    out.print()
    width = max(map(len, outcome.figures))
    for name, figure in outcome.figures.items():
        line = f"{name:<{width}}  {figure.value:<8.6g} {figure.status:<9} {figure.source}, {figure.date}"
        out.print(line, style="yellow" if figure.status in GUESSED else "")
    guessed = sorted(name for name, figure in outcome.figures.items() if figure.status in GUESSED)
    if guessed:
        console.Notes().say(f"not measured, so the plan is as good as they are: {', '.join(guessed)}", "yellow")
