"""What a run of `redline batch` came to: `report.json` in the folder of its results (docs/cluster.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from redline.errors import DataError
from redline.formats.json import value_of
from redline.types import JsonRecord

REPORT = "report.json"
REPORT_VERSION = 1
BatchEngine = Literal["local", "ray"]


@dataclass(frozen=True)
class StageRates(JsonRecord):
    """What each stage costs, measured in this run; None where nothing went through it."""

    decode_cpu_s_per_audio_hour: float | None = None
    """Seconds of one CPU that reading, decoding and speech detection take for an hour of audio."""
    recognize_s_per_audio_hour: float | None = None
    """Seconds that one worker, with all its threads or its GPU, takes for an hour of audio."""
    write_s_per_recording: float | None = None
    """Seconds of stitching, rendering and writing."""
    driver_s_per_recording: float | None = None
    """CPU seconds of the process that hands out the work; without Ray there is none, and it is 0."""
    read_bytes: int = 0
    written_bytes: int = 0
    start_s: float | None = None
    """Seconds until the first batch: processes are started, the model is loaded, the first recordings are read."""


@dataclass(frozen=True)
class FailedRecording(JsonRecord):
    """A recording without a transcript, and why."""

    audio: str
    reason: str
    attempts: int
    id: str | None = None
    """None where it could not be read, so that its content is not known."""


@dataclass(frozen=True)
class BatchScore(JsonRecord):
    """Word errors over the recordings whose reference text the source tells."""

    recordings: int
    words: int
    errors: int

    @property
    def wer(self) -> float:
        return self.errors / max(1, self.words)


@dataclass(frozen=True)
class BatchReport(JsonRecord):
    """All of a run: `recordings` are those of its shards; `done` of them have a transcript, by this run or before it.

    `recognized` and what follows is this run's alone: rates and speed are of the recordings that it recognized.
    """

    engine: BatchEngine
    model: str
    source: str
    recordings: int
    done: int
    failed: int
    audio_hours: float
    """Of all recordings that are done."""
    recognized: int
    """Recordings; others were done before, or have the same content as one that is done."""
    recognized_hours: float
    wall_s: float
    machines: int
    decode_workers: int
    recognize_workers: int
    rates: StageRates = StageRates()
    failures: tuple[FailedRecording, ...] = ()
    """At most a thousand; all are in the manifests of the shards."""
    score: BatchScore | None = None
    price_per_machine_hour: float | None = None
    version: int = REPORT_VERSION

    @property
    def speed(self) -> float:
        """Hours of audio in an hour, of all machines together."""
        return 3600 * self.recognized_hours / max(self.wall_s, 1e-3)

    @property
    def cost(self) -> float | None:
        """Of the machines during this run, in the currency of their price."""
        if self.price_per_machine_hour is None:
            return None
        return self.price_per_machine_hour * self.machines * self.wall_s / 3600

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary, with what follows from the fields: speed, cost and word error rate."""
        values = super().to_dict() | {"speed": round(self.speed, 3), "cost": self.cost}
        if self.score is not None:
            values["score"] = self.score.to_dict() | {"wer": self.score.wer}
        return values

    def render(self) -> bytes:
        return (json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n").encode()


def parse_batch_report(data: bytes) -> BatchReport:
    """Inverse of `BatchReport.render`; raises `DataError` for what is none."""
    try:
        values = json.loads(data)
        if not isinstance(values, Mapping):
            raise TypeError("the report is no object")
        known = {key: each for key, each in values.items() if key not in ("speed", "cost")}
        if isinstance(score := known.get("score"), dict):
            known["score"] = {key: each for key, each in score.items() if key != "wer"}
        report: BatchReport = value_of(BatchReport, known, "report")
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"not a {REPORT} of redline batch: {error}") from error
    if report.version != REPORT_VERSION:
        raise DataError(f"{REPORT} has version {report.version}; this is for version {REPORT_VERSION}")
    return report
