"""A report that people look at: one HTML file with scores, every error in colour, sound and plots, and nothing outside.

`gather` turns results into plain data, `render` puts the data into the page (`report.html`), so that a test can look at
either. The page sorts and filters by itself; it loads nothing.
"""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from redline import files
from redline.evaluate import keywords
from redline.evaluate.run import Result, clip
from redline.evaluate.wer import Comparison, Errors, Pair, Report, align_words, compare, count, normalizer
from redline.manifest import Utterance
from redline.types import SAMPLE_RATE, Waveform

TEMPLATE = Path(__file__).with_name("report.html")
DURATIONS_S = (0.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, float("inf"))
CONFIDENCES = tuple(np.linspace(0.0, 1.0, 11).tolist())


@dataclass(frozen=True)
class ReportOptions:
    """How much goes into a report."""

    audio_minutes: float = 15.0
    """Sound that is kept in the page, worst utterances first; about 0.25 MB a minute."""
    rows: int = 25
    """Length of the lists of words."""


@dataclass(frozen=True)
class SystemRun:
    """One model on one data set."""

    name: str
    results: Sequence[Result]
    reports: Sequence[Report]
    facts: Sequence[tuple[str, str]]
    """What the reader should know of the run: speed, device, memory."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """The numbers behind those facts that are scores, JSON-ready."""
    baseline: str | None = None
    """The run that it is compared with; None: the first one."""

    @cached_property
    def scored(self) -> list[Scored]:
        """The utterances aligned with what was said, once for all who ask."""
        return scored(self.results)


@dataclass(frozen=True)
class Scored:
    """One utterance of one system, aligned."""

    utterance: Utterance
    result: Result
    edited: list[Pair]
    draft: list[Pair] | None

    @property
    def source(self) -> str:
        """The group that the utterance is scored in."""
        return self.result.item.source if self.result.item is not None else ""


def scored(results: Iterable[Result]) -> list[Scored]:
    """Align what was heard with what was said; utterances that failed are left out."""
    kept = [result for result in results if result.item is not None]
    items = [result.item for result in kept if result.item is not None]
    references = [normalizer(item.language)(item.reference) for item in items]
    edited = align_words(references, [normalizer(item.language)(item.edited) for item in items])
    drafted = align_words(references, [normalizer(item.language)(item.draft or "") for item in items])
    return [
        Scored(result.utterance, result, after, before if item.draft is not None else None)
        for result, item, after, before in zip(kept, items, edited, drafted, strict=True)
    ]


def gather(
    runs: Sequence[SystemRun], title: str, options: ReportOptions, load: Callable[[Path], Waveform]
) -> dict[str, Any]:
    """Everything the page shows, as JSON-ready data; the first run is the one that details are shown of."""
    systems = [run.scored for run in runs]
    main = systems[0]
    order = sorted(main, key=lambda one: -count(one.edited).rate if one.edited else 0.0)
    others = [{_key(one): one for one in system} for system in systems[1:]]
    left = options.audio_minutes * 60
    rows = []
    for one in order:
        assert one.result.item is not None
        sound = None
        if (left := left - one.result.item.duration) > 0:
            sound = _sound(one.utterance, load)
        lines = [("draft", one.draft)] if one.draft is not None else []
        lines.append(("edited" if one.draft is not None else "heard", one.edited))
        lines += [
            (run.name, system[_key(one)].edited)
            for run, system in zip(runs[1:], others, strict=True)
            if _key(one) in system
        ]
        rows.append(
            {
                "name": one.utterance.audio.name,
                "source": one.result.item.source,
                "speaker": one.result.item.speaker,
                "seconds": round(one.result.item.duration, 2),
                "wer": _percent(count(one.edited)),
                "draft": _percent(count(one.draft)) if one.draft is not None else None,
                "confidence": one.result.item.confidence,
                "lines": [{"name": name, "pairs": [[p.reference, p.heard] for p in pairs]} for name, pairs in lines],
                "warnings": [notice.message for notice in one.result.warnings],
                "sound": sound,
            }
        )
    return {
        "title": title,
        "systems": [
            {"name": run.name, "facts": list(run.facts), "scores": [report.to_dict() for report in run.reports]}
            for run in runs
        ],
        "comparisons": comparisons(runs),
        "failures": [result.failure for run in runs for result in run.results if result.failure],
        "utterances": rows,
        "by_duration": _by_duration(main),
        "by_speaker": _by_speaker(main),
        "calibration": _calibration(main),
        "words": words(main, options.rows),
        "changes": changes(main, options.rows),
    }


def _key(one: Scored) -> tuple[str, Path, float]:
    return one.utterance.id, one.utterance.audio, one.utterance.start


def _percent(errors: Errors) -> float | None:
    return round(100 * errors.rate, 1) if np.isfinite(errors.rate) else None


def comparisons(runs: Sequence[SystemRun]) -> list[dict[str, Any]]:
    """Each run but the first beside its baseline."""
    named = {run.name: run for run in reversed(runs)}
    pairs = [(runs[0] if run.baseline is None else named[run.baseline], run) for run in runs[1:]]
    return [comparison(one.name, two.name, one.scored, two.scored) for one, two in pairs]


def comparison(first: str, second: str, a: Sequence[Scored], b: Sequence[Scored]) -> dict[str, Any]:
    """Two systems on the utterances that both heard, in percent of words; and their keywords, where there are any."""
    there = {_key(one): one for one in b}
    both = [(one, there[_key(one)]) for one in a if _key(one) in there]
    result: Comparison = compare([count(one.edited) for one, _ in both], [count(other.edited) for _, other in both])
    items = [[one.result.item for one in side if one.result.item is not None] for side in zip(*both, strict=True)]
    keys = keywords.compare(*items) if items else None
    return {
        "first": first,
        "second": second,
        "difference": round(100 * result.difference, 2),
        "interval": [round(100 * bound, 2) for bound in result.interval],
        "significant": result.significant,
        "wins": result.wins,
        "losses": result.losses,
        "ties": result.ties,
        "keywords": keys.to_dict() if keys else None,
    }


def sentence(row: dict[str, Any]) -> str:
    """A comparison in words."""
    low, high = row["interval"]
    verdict = "significant" if row["significant"] else "not significant"
    return (
        f"{row['second']} against {row['first']}: {row['difference']:+.2f} points of WER "
        f"(95 % from {low:+.2f} to {high:+.2f}, {verdict}); "
        f"better on {row['wins']}, worse on {row['losses']}, equal on {row['ties']} utterances"
    )


def _bars(groups: dict[str, list[Scored]]) -> list[dict[str, Any]]:
    bars = []
    for name, members in groups.items():
        edited = sum((count(one.edited) for one in members), Errors())
        drafts = [count(one.draft) for one in members if one.draft is not None]
        bars.append(
            {
                "name": name,
                "utterances": len(members),
                "wer": _percent(edited),
                "draft": _percent(sum(drafts, Errors())) if len(drafts) == len(members) else None,
            }
        )
    return bars


def _by_duration(system: Sequence[Scored]) -> list[dict[str, Any]]:
    groups: dict[str, list[Scored]] = {}
    for low, high in pairwise(DURATIONS_S):
        members = [one for one in system if one.result.item and low <= one.result.item.duration < high]
        if members:
            groups[f"{low:g}-{high:g} s" if np.isfinite(high) else f"over {low:g} s"] = members
    return _bars(groups)


def _by_speaker(system: Sequence[Scored]) -> list[dict[str, Any]]:
    groups: dict[str, list[Scored]] = {}
    for one in system:
        if one.result.item and one.result.item.speaker:
            groups.setdefault(one.result.item.speaker, []).append(one)
    # Where nobody speaks twice, the utterances themselves tell more.
    bars = _bars(groups) if 1 < len(groups) < len(system) else []
    return sorted(bars, key=lambda bar: -(bar["wer"] or 0.0))


def _calibration(system: Sequence[Scored]) -> list[dict[str, Any]]:
    """Of the utterances with about so much confidence, which share of the words was right?"""
    points = []
    for low, high in pairwise(CONFIDENCES):
        members = [
            one
            for one in system
            if one.result.item
            and one.result.item.confidence is not None
            and (low <= one.result.item.confidence < high or one.result.item.confidence == high == 1.0)
        ]
        errors = sum((count(one.edited) for one in members), Errors())
        if members and errors.length:
            sure = float(np.mean([one.result.item.confidence for one in members if one.result.item]))
            right = max(0.0, 1.0 - errors.rate)
            points.append({"confidence": round(sure, 3), "right": round(right, 3), "utterances": len(members)})
    return points


def words(system: Sequence[Scored], rows: int) -> dict[str, list[list[Any]]]:
    """The words that go wrong most often, and what they are taken for."""
    pairs = [pair for one in system for pair in one.edited if pair.kind != "equal"]
    said = Counter(pair.reference for one in system for pair in one.edited if pair.reference)
    wrong = Counter(pair.reference for pair in pairs if pair.reference)
    confused = Counter((pair.reference, pair.heard) for pair in pairs if pair.kind == "substitution")
    lost = Counter(pair.reference for pair in pairs if pair.kind == "deletion")
    added = Counter(pair.heard for pair in pairs if pair.kind == "insertion")
    return {
        "worst": [[word, number, said[word]] for word, number in wrong.most_common(rows)],
        "confusions": [[*pair, number] for pair, number in confused.most_common(rows)],
        "lost": [[word, number] for word, number in lost.most_common(rows)],
        "added": [[word, number] for word, number in added.most_common(rows)],
    }


def changes(system: Sequence[Scored], rows: int) -> dict[str, Any]:
    """What editing did to each reference word: right now and wrong in the draft, or the other way round."""
    helped: Counter[tuple[str, str, str]] = Counter()
    hurt: Counter[tuple[str, str, str]] = Counter()
    for one in system:
        if one.draft is None:
            continue
        before = [pair for pair in one.draft if pair.reference]
        after = [pair for pair in one.edited if pair.reference]
        for old, new in zip(before, after, strict=True):
            if old.heard != new.heard:
                if new.kind == "equal":
                    helped[old.heard, new.heard, new.reference] += 1
                elif old.kind == "equal":
                    hurt[old.heard, new.heard, new.reference] += 1
    return {
        "helped": [[*key, number] for key, number in helped.most_common(rows)],
        "hurt": [[*key, number] for key, number in hurt.most_common(rows)],
        "helped_total": helped.total(),
        "hurt_total": hurt.total(),
    }


def _sound(utterance: Utterance, load: Callable[[Path], Waveform]) -> str:
    """The utterance as an Ogg Opus data address, 24 kb/s."""
    import av

    wave = clip(load(utterance.audio), utterance)
    target = io.BytesIO()
    with av.open(target, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=48_000)
        stream.bit_rate = 24_000
        stream.layout = "mono"
        samples = (np.clip(wave.samples, -1.0, 1.0) * 32_767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        resampler = av.AudioResampler(format="s16", layout="mono", rate=48_000)
        for part in (*resampler.resample(frame), *resampler.resample(None), None):
            container.mux(stream.encode(part))
    return "data:audio/ogg;base64," + base64.b64encode(target.getvalue()).decode()


def render(data: dict[str, Any]) -> str:
    """The page of some gathered data."""
    # "<" never appears as itself, so nothing in the data can end the script it stands in.
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    return TEMPLATE.read_text(encoding="utf-8").replace("/*DATA*/null", text)


def write(
    path: Path, runs: Sequence[SystemRun], title: str, options: ReportOptions, load: Callable[[Path], Waveform]
) -> None:
    """Write the report of one or more runs on the same data."""
    files.write_text(path, render(gather(runs, title, options, load)))
