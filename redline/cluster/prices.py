"""Prices and rates of machines: a TOML file, in which every number says where it comes from and when."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redline.errors import ConfigError
from redline.files import advice, read_utf8

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BUNDLED = Path(__file__).with_name("prices.toml")
BY_FORMAT = ("decode_cpu_s_per_audio_hour", "kbit_per_s")
STATUSES = ("measured", "computed", "assumed", "listed")
"""How a number is known: measured by Redline; computed from one that was; a guess; a price that a vendor lists."""

GUESSED = ("computed", "assumed")


@dataclass(frozen=True)
class Figure:
    """A number with its origin; `unit` is in the name of the key that holds it."""

    value: float
    status: str
    source: str
    date: str


@dataclass(frozen=True)
class MachineKind:
    """A kind of machine that can be rented; `gpus` is 0 for one that has only processors."""

    title: str
    gpus: int
    cores: int
    network_gbit_per_s: Figure
    euros_per_hour: Figure
    recognize_x: Mapping[str, Figure]
    """Times real time by model: of the machine where it has GPUs, of one core where it has none."""
    start_s: Figure | None = None
    """Where it is known of this kind: in place of the list's."""


@dataclass(frozen=True)
class PriceList:
    """What `redline plan` knows before anything is measured at its user's."""

    machines: Mapping[str, MachineKind]
    decode_cpu_s_per_audio_hour: Mapping[str, Figure]
    """Reading and resampling, by the format of recordings."""
    kbit_per_s: Mapping[str, Figure]
    """Of the recordings, by format."""
    detect_cpu_s_per_audio_hour: Figure
    """Speech detection."""
    driver_s_per_recording: Figure
    write_s_per_recording: Figure
    """Seconds of one machine to stitch and write."""
    start_s: Figure
    """Seconds from a machine's start to its first batch: the model is loaded, the first launch compiled."""
    retried_share: Figure
    """Of all work, what is done twice: machines that are lost, recordings that fail and are tried again."""
    euros_per_gb_read: Figure

    @classmethod
    def read(cls, path: Path = BUNDLED) -> PriceList:
        """Raises `ConfigError` for a file that cannot be read, a key that is missing and a number out of range."""
        try:
            tables = tomllib.loads(read_utf8(path))
        except (OSError, ValueError) as error:
            reason = advice(error) if isinstance(error, OSError) else str(error)
            raise ConfigError(f"{path}: cannot be read as prices ({reason}); copy {BUNDLED} and change it") from error
        known = {field.name for field in dataclasses.fields(cls)} - {"machines"} | {"machine", "dollars_per_euro"}
        if unknown := sorted(set(tables) - known):
            raise ConfigError(
                f"{path}: {', '.join(unknown)} is no key of prices; allowed are {', '.join(sorted(known))}"
            )
        reader = _Reader(path, _Reader(path, 1.0).figure("dollars_per_euro", tables.get("dollars_per_euro")).value)
        figures: Any = {
            name: reader.figure(name, tables.get(name), least=0.0)
            for name in known - {"machine", "dollars_per_euro", *BY_FORMAT}
        }
        by_format: Any = {name: reader.figures(name, tables.get(name)) for name in BY_FORMAT}
        machines = {name: reader.machine(name, table) for name, table in reader.table("machine", tables).items()}
        return cls(machines=machines, **by_format, **figures)


@dataclass(frozen=True)
class _Reader:
    path: Path
    dollars_per_euro: float

    def table(self, name: str, tables: Any) -> Mapping[str, Any]:
        found = tables.get(name) if isinstance(tables, dict) else None
        if not isinstance(found, dict) or not found:
            raise ConfigError(f"{self.path}: [{name}] is missing; copy {BUNDLED} and change it")
        return found

    def figure(self, name: str, table: Any, least: float | None = None) -> Figure:
        """A number above `least` (or above 0), given in dollars or in euros where it is a price."""
        keys = {"value", "status", "source", "date"}
        table = {**table} if isinstance(table, dict) else {}
        if "dollars" in table:
            table["value"] = table.pop("dollars") / self.dollars_per_euro
        if set(table) != keys:
            raise ConfigError(
                f"{self.path}: {name} needs {', '.join(sorted(keys))} (dollars in place of value), not "
                f"{', '.join(sorted(table)) or 'nothing'}"
            )
        value, status = table["value"], table["status"]
        if type(value) not in (int, float) or not math.isfinite(value) or value < 0 or (value == 0 and least is None):
            raise ConfigError(f"{self.path}: {name} is {value!r}; a number above 0 is needed")
        if status not in STATUSES:
            raise ConfigError(f"{self.path}: status of {name} is {status!r}; allowed are {', '.join(STATUSES)}")
        return Figure(float(value), status, str(table["source"]), str(table["date"]))

    def figures(self, name: str, table: Any) -> Mapping[str, Figure]:
        return {key: self.figure(f"{name}.{key}", each) for key, each in self.table(name, {name: table}).items()}

    def machine(self, name: str, table: Any) -> MachineKind:
        where = f"machine.{name}"
        table = table if isinstance(table, dict) else {}
        gpus, cores = table.get("gpus"), table.get("cores")
        if not isinstance(gpus, int) or not isinstance(cores, int) or gpus < 0 or cores < 2:
            raise ConfigError(f"{self.path}: {where} needs gpus (0 or more) and cores (2 or more)")
        return MachineKind(
            str(table.get("title", name)),
            gpus,
            cores,
            self.figure(f"{where}.network_gbit_per_s", table.get("network_gbit_per_s")),
            self.figure(f"{where}.euros_per_hour", table.get("euros_per_hour"), least=0.0),
            self.figures(f"{where}.recognize_x", table.get("recognize_x")),
        )
