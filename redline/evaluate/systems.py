"""Models on a data set, scored and compared: the ground of the printed table, the page and the JSON report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from redline.evaluate.metrics.alignment import compare_errors, second_opinion, total
from redline.evaluate.metrics.keywords import compare_keywords
from redline.evaluate.metrics.registry import METRICS, Metric, scores
from redline.evaluate.metrics.wer import wer_reports
from redline.evaluate.result import Result
from redline.evaluate.run import Clock
from redline.threads import peak_memory_mib


@dataclass(frozen=True)
class SystemRun:
    """One model on one data set."""

    name: str
    results: Sequence[Result]
    clock: Clock = field(default_factory=Clock)
    facts: list[tuple[str, str]] = field(default_factory=list)  # names and lines of what a reader should know
    values: dict[str, Any] = field(default_factory=dict)  # the numbers behind those facts that are scores
    baseline: str | None = None  # the run that it is compared with; None: the first one

    @cached_property
    def scored(self) -> list[Result]:
        return [result for result in self.results if result.failure is None]

    @cached_property
    def reports(self) -> list[dict[str, Any]]:
        return wer_reports(self.scored)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; scores that the run does not have are null."""
        return {
            "model": self.name,
            "rtfx": round(self.clock.rtfx, 2),
            "rtfx_with_reading": round(self.clock.rtfx_with_reading, 2),
            "facts": dict(self.facts),
            **dict.fromkeys(("keywords", "speakers", "word_times", "word_confidence", "tags", "mean_of_sets")),
            **self.values,
            "reports": self.reports,
            "utterances": [result.to_dict() for result in self.results],
        }

    def add_scores(self, metrics: Sequence[Metric] = ()) -> None:
        """Add what a second scorer says of the errors and what every metric says; `metrics` are further ones."""
        others = [second_opinion(row.normalised["reference"], row.normalised["edited"]) for row in self.scored]
        if counted := [errors for errors in others if errors is not None]:
            second, count = total(counted), total(row.errors for row in self.scored).count
            verdict = "agrees" if second.count == count else f"DISAGREES: jiwer counts {count} errors"
            line = f"kaldialign counts {second.count} errors in {second.length} words and {verdict}"
            self.facts.append(("second scorer", line))
        for name, line, numbers in scores(self.scored, (*METRICS, *metrics)):
            self.facts.append((name, line))
            self.values.update(numbers)


def speed_facts(clock: Clock, loading_s: float, device: str) -> list[tuple[str, str]]:
    """Speed and memory, with what they depend on."""
    memory = f"{peak_memory_mib()} MiB"
    if device.startswith("cuda"):
        import torch

        memory += f", and {torch.cuda.max_memory_allocated(device) / 2**20:.0f} MiB on {device}"
    return [
        ("speed", f"{clock.rtfx:.1f} x real time; {clock.rtfx_with_reading:.1f} x with reading and decoding files"),
        ("device", device),
        ("cold start", f"{loading_s:.1f} s to load, {clock.first_s:.1f} s for the first batch (counted in the speed)"),
        ("peak memory", memory),
    ]


def comparisons(runs: Sequence[SystemRun]) -> list[dict[str, Any]]:
    """Each run but the first beside its baseline."""
    named = {run.name: run for run in reversed(runs)}
    pairs = [(runs[0] if run.baseline is None else named[run.baseline], run) for run in runs[1:]]
    return [compare_systems(first.name, second.name, first.scored, second.scored) for first, second in pairs]


def compare_systems(first: str, second: str, before: Sequence[Result], after: Sequence[Result]) -> dict[str, Any]:
    """Two systems on the utterances of both, in percent of words; `text`, and that of `keywords`, has it in words."""
    there = {result.key: result for result in after}
    pairs = [(result, there[result.key]) for result in before if result.key in there]
    result = compare_errors([row.errors for row, _ in pairs], [row.errors for _, row in pairs])
    difference, *interval = (round(100 * value, 2) for value in (result["difference"], *result["interval"]))
    text = (
        f"{second} against {first}: {difference:+.2f} points of WER (95 % from {interval[0]:+.2f} to "
        f"{interval[1]:+.2f}, {'significant' if result['significant'] else 'not significant'}); "
        f"better on {result['wins']}, worse on {result['losses']}, equal on {result['ties']} utterances"
    )
    keywords = compare_keywords([row for row, _ in pairs], [row for _, row in pairs])
    shown = {"difference": difference, "interval": interval, "keywords": keywords, "text": text}
    return {"first": first, "second": second, **result, **shown}
