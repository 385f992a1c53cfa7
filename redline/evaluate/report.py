"""The HTML report: one page with scores, every error in colour, sound and plots, and nothing loaded from outside.

`gather_report` turns runs into plain data, `render_report` puts it into the page (`report.html`), which sorts it.
"""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from redline import files
from redline.evaluate.metrics.alignment import AlignedPair, count_errors, total
from redline.evaluate.metrics.word_confidence import score_word_confidence
from redline.evaluate.result import Result
from redline.evaluate.run import clip
from redline.evaluate.systems import SystemRun, comparisons
from redline.manifest import Utterance
from redline.types import SAMPLE_RATE, Waveform

PAGE = Path(__file__).with_name("report.html")
DURATIONS_S = (0.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0)
LIST_LENGTH = 25  # of the lists of words
TENTHS = np.linspace(0.0, 1.0, 11)[1:-1]  # where one bin of confidence ends and the next begins


def gather_report(
    runs: Sequence[SystemRun], title: str, load: Callable[[Path], Waveform], sound_minutes: float
) -> dict[str, Any]:
    """Everything the page shows, as JSON-ready data; the first run is the one that details are shown of.

    So much sound is kept in the page, worst utterances first; about 0.25 MB a minute.
    """
    main = runs[0].scored
    others = [(run.name, {row.key: row for row in run.scored}) for run in runs[1:]]
    left_s = sound_minutes * 60
    utterances = []
    for row in sorted(main, key=lambda row: -row.errors.rate):
        left_s -= row.duration
        lines = [("heard" if row.draft_pairs is None else "edited", row.pairs)]
        lines = [("draft", row.draft_pairs), *lines] if row.draft_pairs is not None else lines
        lines += [(name, system[row.key].pairs) for name, system in others if row.key in system]
        utterances.append(
            {
                "name": row.utterance.audio.name,
                "source": row.source,
                "speaker": row.utterance.speaker,
                "seconds": round(row.duration, 2),
                "wer": _percent([row.pairs]),
                "draft": _percent([row.draft_pairs]),
                "confidence": row.confidence,
                "lines": [{"name": name, "pairs": list(map(astuple, pairs))} for name, pairs in lines],
                "warnings": [notice.message for notice in row.warnings],
                "sound": _sound(row.utterance, load) if left_s > 0 else None,
            }
        )
    by_speaker = _bars([row for row in main if row.utterance.speaker], lambda row: row.utterance.speaker)
    if not 1 < len(by_speaker) < len(main):  # else the utterances themselves tell more
        by_speaker = []
    return {
        "title": title,
        "systems": [{"name": run.name, "facts": run.facts, "scores": run.reports} for run in runs],
        "comparisons": comparisons(runs),
        "failures": [result.failure for run in runs for result in run.results if result.failure],
        "utterances": utterances,
        "by_duration": _bars(sorted(main, key=lambda row: row.duration), lambda row: _duration_class(row.duration)),
        "by_speaker": sorted(by_speaker, key=lambda bar: -(bar["wer"] or 0.0)),
        "calibration": _calibration(main),
        "words": frequent_errors(main),
        "changes": editing_effects(main),
    }


def _percent(alignments: Sequence[Sequence[AlignedPair] | None]) -> float | None:
    """The word error rate of some alignments; None where one is not there or there are no words."""
    known = [pairs for pairs in alignments if pairs is not None]
    rate = total(map(count_errors, known)).rate
    return round(100 * rate, 1) if len(known) == len(alignments) and np.isfinite(rate) else None


def _bars(rows: Sequence[Result], name_of: Callable[[Result], str]) -> list[dict[str, Any]]:
    """The error rates of groups of utterances by their names, in the order in which names are met."""
    groups: dict[str, list[Result]] = {}
    for row in rows:
        groups.setdefault(name_of(row), []).append(row)
    bars = []
    for name, group in groups.items():
        wer, draft = (_percent(pairs) for pairs in ([row.pairs for row in group], [row.draft_pairs for row in group]))
        bars.append({"name": name, "utterances": len(group), "wer": wer, "draft": draft})
    return bars


def _duration_class(seconds: float) -> str:
    low = max(bound for bound in DURATIONS_S if bound <= seconds)
    high = min((bound for bound in DURATIONS_S if bound > seconds), default=None)
    return f"over {low:g} s" if high is None else f"{low:g}-{high:g} s"


def _calibration(rows: Sequence[Result]) -> list[dict[str, Any]]:
    """Mean confidence of each tenth of confidence, and which share of words is right: of words where they were asked
    for, else of whole utterances."""
    if words := score_word_confidence(rows):
        return [
            {"confidence": round(mean, 3), "right": round(share, 3), "count": count, "of": "words"}
            for mean, share, count in words["bins"]
        ]
    known = sorted(((row.confidence, row.errors) for row in rows if row.confidence is not None), key=itemgetter(0))
    points = []
    for _, group in groupby(known, key=lambda each: int(np.digitize(each[0], TENTHS))):
        confidences, errors = zip(*group, strict=True)
        if (together := total(errors)).length:
            mean, right = float(np.mean(confidences)), max(0.0, 1.0 - together.rate)
            point = {"confidence": round(mean, 3), "right": round(right, 3), "count": len(errors), "of": "utterances"}
            points.append(point)
    return points


def frequent_errors(rows: Sequence[Result]) -> dict[str, list[list[Any]]]:
    """The words that go wrong most often, and what they are taken for."""
    pairs = [pair for row in rows for pair in row.pairs]
    spoken = Counter(pair.reference for pair in pairs)
    wrong = Counter(pair.reference for pair in pairs if pair.kind in ("substitution", "deletion"))
    return {
        "worst": [[word, number, spoken[word]] for word, number in wrong.most_common(LIST_LENGTH)],
        "confusions": _top((pair.reference, pair.hypothesis) for pair in pairs if pair.kind == "substitution"),
        "lost": _top((pair.reference,) for pair in pairs if pair.kind == "deletion"),
        "added": _top((pair.hypothesis,) for pair in pairs if pair.kind == "insertion"),
    }


def _top(keys: Iterable[tuple[str, ...]]) -> list[list[Any]]:
    return [[*key, number] for key, number in Counter(keys).most_common(LIST_LENGTH)]


def editing_effects(rows: Sequence[Result]) -> dict[str, Any]:
    """What editing did to each reference word: right now and wrong in the draft, or the other way round."""
    effects: dict[str, list[tuple[str, ...]]] = {"helped": [], "hurt": []}
    for row in rows:
        before = [pair for pair in row.draft_pairs or () if pair.reference]
        after = [pair for pair in row.pairs if pair.reference]
        for old, new in zip(before, after, strict=False):
            if (old.kind == "equal") != (new.kind == "equal"):
                effect = "helped" if new.kind == "equal" else "hurt"
                effects[effect].append((old.hypothesis, new.hypothesis, new.reference))
    lists = {effect: _top(words) for effect, words in effects.items()}
    return {**lists, **{f"{effect}_total": len(words) for effect, words in effects.items()}}


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


def render_report(data: dict[str, Any]) -> str:
    # "<" never appears as itself, so nothing in the data can end the script it stands in.
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    return PAGE.read_text(encoding="utf-8").replace("/*DATA*/null", text)


def write_report(
    path: Path, runs: Sequence[SystemRun], title: str, load: Callable[[Path], Waveform], sound_minutes: float
) -> None:
    """Write the report of one or more runs on the same data."""
    files.write_text(path, render_report(gather_report(runs, title, load, sound_minutes)))
