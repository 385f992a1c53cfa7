"""The simulator behind `redline plan`: how long an archive takes on which machines, what holds it up, what it costs.

Blocks of equal length, what a recognizer gets at once, go through five stages in the order in which they arrive: the
driver gives them out, the network brings them, the cores of a machine decode them and look for speech, recognizers
recognize, machines write. A server takes one block at a time; a block goes to the server that is done with it first. So
the last blocks, machines of different speed and the start of the recognizers count as they do in a run. What is done
twice comes behind everything else. Buffers between stages are taken for unbounded: pinned pools keep their rates
whatever the memory is.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from redline.cluster.prices import BY_FORMAT, Figure, MachineKind, PriceList
from redline.cluster.report import BatchReport
from redline.errors import ConfigError

MEASURED = "measured"
"""The kind of machine that a report is of."""
STAGES = ("driver", "network", "decode", "recognize", "write")
EVERYWHERE = (
    "detect_cpu_s_per_audio_hour",
    "driver_s_per_recording",
    "write_s_per_recording",
    "start_s",
    "retried_share",
    "euros_per_gb_read",
)
"""The figures of a price list that do not depend on machine or format."""
CORES_BESIDE_GPU = 2
"""Of a machine with GPUs: they keep the GPU busy and do not decode."""
DECODED_BYTES_PER_S = 32_000
"""Sound as it crosses the network between machines: 16 kHz, 16 bits."""
BLOCK_H = 1 / 6
"""The longest block: short recordings go together, long ones in parts (`ray_stages.LOAD_S`)."""
BLOCKS_AT_LEAST = 4
"""For each recognizer, however short the archive is (`ray_bundles.first_bundles`)."""
MAX_BLOCKS = 2_000
BLOCKS_PER_WORKER = 100
STARTING = "start"
"""What holds up a run that no doubled stage would make 1 % shorter: its machines have hardly begun when it ends."""


@dataclass(frozen=True)
class Workload:
    """What is to be recognized."""

    hours: float
    mean_minutes: float = 30.0
    """Of a recording."""
    format: str = "mp3"
    model: str = "2b-nar"
    source_gbit_per_s: float | None = None
    """What the bucket or the line gives; None: as much as the machines take."""


@dataclass(frozen=True)
class Stage:
    """A pool: its servers by their speed in times real time, and when they begin."""

    servers: Mapping[float, int]
    start_s: float = 0.0

    @cached_property
    def x_real_time(self) -> float:
        return sum(speed * count for speed, count in self.servers.items())

    def doubled(self) -> Stage:
        return replace(self, servers={speed: 2 * count for speed, count in self.servers.items()})


@dataclass(frozen=True)
class Outcome:
    """What a run comes to."""

    machines: Mapping[str, int]
    run_hours: float
    euros: float
    bottleneck: str
    """The stage whose doubling saves most."""
    busy: Mapping[str, float]
    """Share of the run that a stage's servers work, by stage."""
    if_doubled: Mapping[str, float]
    """Hours of the run with twice as many servers of one stage."""
    x_real_time: float
    figures: Mapping[str, Figure] = field(default_factory=dict)
    """What it was computed from."""

    @property
    def euros_per_1000_hours(self) -> float:
        return self.euros / (self.x_real_time * self.run_hours) * 1000

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"euros_per_1000_hours": self.euros_per_1000_hours}


def plan(archive: Workload, machines: Mapping[str, int], prices: PriceList) -> Outcome:
    """Simulate a run; `machines` are so many of each kind of the price list.

    Raises `ConfigError` for an archive without hours, and for a kind, format or model that the price list lacks.
    """
    figures = _figures(archive, machines, prices)
    stages = stages_of(archive, machines, prices)

    def run(pools: Mapping[str, Stage]) -> tuple[float, dict[str, float]]:
        return simulate(pools, archive.hours, figures["retried_share"].value)

    run_s, busy_s = run(stages)
    doubled = {name: run({**stages, name: stage.doubled()})[0] / 3600 for name, stage in stages.items()}
    run_h, bottleneck = run_s / 3600, min(STAGES, key=doubled.__getitem__)
    rent = sum(prices.machines[kind].euros_per_hour.value * count for kind, count in machines.items())
    gigabytes = archive.hours * 3600 * figures["kbit_per_s"].value / 8e6
    servers = {name: sum(stage.servers.values()) for name, stage in stages.items()}
    return Outcome(
        dict(machines),
        run_h,
        rent * run_h + gigabytes * figures["euros_per_gb_read"].value,
        bottleneck if doubled[bottleneck] < 0.99 * run_h else STARTING,
        {name: busy_s[name] / servers[name] / run_s for name in STAGES},
        doubled,
        archive.hours / run_h,
        figures,
    )


def with_report(prices: PriceList, report: BatchReport, source: str, date: str) -> PriceList:
    """A price list in which what a run of `redline batch` measured stands, and its machine as the kind `measured`.

    Rates that the run does not have stay. Raises `ConfigError` for a run that recognized nothing.
    """
    rates = report.rates
    if not rates.recognize_s_per_audio_hour:
        raise ConfigError(f"{source}: this run recognized nothing, so it has no rates; give the report of one that did")

    def measured(value: float) -> Figure:
        return Figure(value, "measured", source, date)

    decode = rates.decode_cpu_s_per_audio_hour
    if decode is not None:  # reading, decoding and detection together
        prices = replace(
            prices,
            decode_cpu_s_per_audio_hour={name: measured(decode) for name in prices.decode_cpu_s_per_audio_hour},
            detect_cpu_s_per_audio_hour=measured(0.0),
        )
    if rates.read_bytes and report.recognized_hours:
        kbit = rates.read_bytes / 125 / 3600 / report.recognized_hours
        prices = replace(prices, kbit_per_s={name: measured(kbit) for name in prices.kbit_per_s})
    if rates.write_s_per_recording is not None:
        prices = replace(prices, write_s_per_recording=measured(rates.write_s_per_recording))
    if rates.driver_s_per_recording is not None:
        prices = replace(prices, driver_s_per_recording=measured(rates.driver_s_per_recording))
    # Each worker recognizes as a GPU does, beside so many that decode.
    workers = max(1, round(report.recognize_workers / max(1, report.machines)))
    decoders = max(1, round(report.decode_workers / max(1, report.machines)))
    price = report.price_per_machine_hour
    machine = MachineKind(
        f"a machine of {source}",
        workers,
        decoders + CORES_BESIDE_GPU,
        Figure(10.0, "assumed", "not measured by a run", date),
        measured(price) if price is not None else Figure(0.0, "assumed", "the run told no price", date),
        {report.model: measured(workers * 3600 / _worker_s_per_audio_hour(report))},
        None if rates.start_s is None else measured(rates.start_s),
    )
    return replace(prices, machines={**prices.machines, MEASURED: machine})


def _worker_s_per_audio_hour(report: BatchReport) -> float:
    """Seconds of a worker for an hour of sound, with what it waited for.

    Without Ray a process reads, recognizes and writes in turn. With it, what a run took that recognition held up is its
    workers' time too: loads that are handed over, cores that others wanted.
    """
    rates, hours = report.rates, report.recognized_hours
    recognize_s, recordings = rates.recognize_s_per_audio_hour or 0.0, report.recognized / hours
    others = (
        (rates.decode_cpu_s_per_audio_hour or 0.0) / report.decode_workers,
        (rates.write_s_per_recording or 0.0) * recordings / report.machines,
        (rates.driver_s_per_recording or 0.0) * recordings,
    )
    if rates.start_s is None or (report.engine == "ray" and max(others) > recognize_s / report.recognize_workers):
        return recognize_s
    return max(recognize_s, (report.wall_s - rates.start_s) * report.recognize_workers / hours)


def _figures(archive: Workload, machines: Mapping[str, int], prices: PriceList) -> dict[str, Figure]:
    """The numbers that this plan rests on, by name."""
    if not archive.hours > 0 or not archive.mean_minutes > 0:
        raise ConfigError(
            f"hours are {archive.hours:g}, minutes of a recording {archive.mean_minutes:g}; give more than 0"
        )
    if not sum(machines.values()):
        raise ConfigError("no machines; name some, such as --gpus h100:16 or --machines cpu:8")
    if unknown := sorted(set(machines) - set(prices.machines)):
        raise ConfigError(f"no machine is called {unknown[0]}; the prices have {', '.join(sorted(prices.machines))}")
    figures = {}
    for name in BY_FORMAT:
        table = getattr(prices, name)
        if archive.format not in table:
            raise ConfigError(f"--format {archive.format}: {name} of the prices has {', '.join(sorted(table))}")
        figures[name] = table[archive.format]
    figures |= {name: getattr(prices, name) for name in EVERYWHERE}
    recognizing = _recognizing(machines, prices)
    starts = [prices.machines[kind].start_s or prices.start_s for kind in sorted(recognizing)]
    figures["start_s"] = max(starts, key=lambda figure: figure.value)
    for kind in machines:
        machine = prices.machines[kind]
        figures |= {f"{kind}.euros_per_hour": machine.euros_per_hour}
        figures |= {f"{kind}.network_gbit_per_s": machine.network_gbit_per_s}
        if kind in recognizing:
            figures[f"{kind}.recognize_x"] = _rate(kind, machine, archive.model)
    return figures


def _recognizing(machines: Mapping[str, int], prices: PriceList) -> set[str]:
    """The kinds that recognize: those with GPUs; where there is none, all."""
    return {kind for kind in machines if prices.machines[kind].gpus} or set(machines)


def _rate(kind: str, machine: MachineKind, model: str) -> Figure:
    if model not in machine.recognize_x:
        known = ", ".join(sorted(machine.recognize_x))
        raise ConfigError(
            f"how fast {model} is on {kind} is not in the prices, which have {known}; add it with --prices, or measure "
            "it with `redline batch` and give its --report"
        )
    return machine.recognize_x[model]


def stages_of(archive: Workload, machines: Mapping[str, int], prices: PriceList) -> dict[str, Stage]:
    """The pools of a cluster, each in times real time.

    Where no machine has a GPU, the cores of each are split between decoding and recognition so that both are as fast.
    """
    figures = _figures(archive, machines, prices)
    value = {name: figure.value for name, figure in figures.items()}
    decode_x = 3600 / (value["decode_cpu_s_per_audio_hour"] + value["detect_cpu_s_per_audio_hour"])
    recording_s = archive.mean_minutes * 60
    recognizing = _recognizing(machines, prices)
    decode, recognize = Counter[float](), Counter[float]()
    for kind, count in machines.items():
        machine = prices.machines[kind]
        decoders = machine.cores
        if kind in recognizing and machine.gpus:
            decoders = max(1, machine.cores - CORES_BESIDE_GPU)
            recognize[_rate(kind, machine, archive.model).value / machine.gpus] += machine.gpus * count
        elif kind in recognizing:
            core_x = _rate(kind, machine, archive.model).value
            decoders = max(range(1, machine.cores), key=lambda n: min(n * decode_x, (machine.cores - n) * core_x))
            recognize[(machine.cores - decoders) * core_x] += count
        decode[decoders * decode_x] += count
    gbit = sum(prices.machines[kind].network_gbit_per_s.value * count for kind, count in machines.items())
    bytes_per_s = value["kbit_per_s"] * 125 + DECODED_BYTES_PER_S
    network_x = gbit * 1.25e8 / bytes_per_s
    if archive.source_gbit_per_s is not None:
        network_x = min(network_x, archive.source_gbit_per_s * 1e6 / value["kbit_per_s"])
    writers = sum(machines.values())
    return {
        "driver": Stage({recording_s / max(1e-9, value["driver_s_per_recording"]): 1}),
        "network": Stage({network_x: 1}),
        "decode": Stage(decode),
        "recognize": Stage(recognize, value["start_s"]),
        "write": Stage({recording_s / max(1e-9, value["write_s_per_recording"]): writers}),
    }


def simulate(stages: Mapping[str, Stage], hours: float, retried_share: float) -> tuple[float, dict[str, float]]:
    """The seconds of a run of so many hours of sound, and those that the servers of each stage work."""
    workers = max(sum(stage.servers.values()) for stage in stages.values())
    most = max(MAX_BLOCKS, BLOCKS_PER_WORKER * workers)
    recognizers = sum(stages["recognize"].servers.values())
    blocks = min(max(math.ceil(hours / BLOCK_H), BLOCKS_AT_LEAST * recognizers), most)
    block_s = hours * 3600 / blocks
    pools = {name: _Pool(stage, block_s) for name, stage in stages.items()}
    arrivals = _through(pools, [0.0] * blocks)
    again = round(blocks * retried_share)
    end_s = max(arrivals)
    if again:
        end_s = max(end_s, *_through(pools, arrivals[:: max(1, blocks // again)][:again]))
    return end_s, {name: pool.busy_s for name, pool in pools.items()}


def _through(pools: Mapping[str, _Pool], arrivals: Sequence[float]) -> list[float]:
    """When blocks that come at these times have passed all stages."""
    times = sorted(arrivals)
    for name in STAGES:
        times = sorted(pools[name].take(time) for time in times)
    return times


class _Pool:
    """The servers of a stage and when each is free, by speed."""

    def __init__(self, stage: Stage, block_s: float) -> None:
        self.busy_s = 0.0
        self._free = {block_s / speed: [stage.start_s] * count for speed, count in stage.servers.items()}

    def take(self, arrival_s: float) -> float:
        """The end of a block on the server that ends it first."""
        took_s, free = min(self._free.items(), key=lambda item: max(arrival_s, item[1][0]) + item[0])
        end_s = max(arrival_s, free[0]) + took_s
        heapq.heapreplace(free, end_s)
        self.busy_s += took_s
        return end_s
