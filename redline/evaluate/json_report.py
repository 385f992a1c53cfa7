"""What `--json` writes of a run: the scores, and every reference with what was heard."""

from __future__ import annotations

from typing import Any

from redline.evaluate.report import SystemRun
from redline.evaluate.run import Clock


def summary(run: SystemRun, clock: Clock) -> dict[str, Any]:
    """The run, JSON-ready; scores that it does not have are null."""
    utterances = [
        {
            "id": result.utterance.id,
            "audio": str(result.utterance.audio),
            "start": result.utterance.start,
            "source": result.item.source if result.item else result.utterance.source,
            "speaker": result.utterance.speaker,
            "reference": result.utterance.text,
            "draft": result.item.draft if result.item else None,
            "edited": result.item.edited if result.item else None,
            "confidence": result.item.confidence if result.item else None,
            "prompted": list(result.task.keywords),
            "tagged": result.tagged,
            "failure": result.failure,
            "warnings": [notice.to_dict() for notice in result.warnings],
        }
        for result in run.results
    ]
    return {
        "model": run.name,
        "rtfx": round(clock.rtfx, 2),
        "rtfx_with_reading": round(clock.rtfx_with_reading, 2),
        "facts": dict(run.facts),
        **dict.fromkeys(("keywords", "speakers", "word_times", "tags", "mean_of_sets")),
        **run.values,
        "reports": [report.to_dict() for report in run.reports],
        "utterances": utterances,
    }
