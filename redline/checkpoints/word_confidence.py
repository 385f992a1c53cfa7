"""The file that calibrates a checkpoint's word confidences, `word_confidence.json`, beside its weights.

It holds for these weights alone: whatever writes new ones leaves it out. `scripts/calibrate.py` fits and writes it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from redline import files, untrusted
from redline.decoding.word_confidence import ALIGNED, DECIDED, DRAFTED, EDITED, ConfidenceMaps, LogisticMap
from redline.errors import CheckpointError

WORD_CONFIDENCE = "word_confidence.json"
CONFIDENCE_FORMAT = "redline word confidence 1"
MAPS = {"aligned": ALIGNED, "decided": DECIDED, "drafted": DRAFTED, "edited": EDITED}
"""The maps of a file and their features; all but the first may be missing."""
LARGEST = 1e3
"""Of a bias or weight."""


def save_word_confidence(maps: ConfidenceMaps, folder: Path, fitted_on: Mapping[str, Any]) -> Path:
    """Write the maps into a checkpoint's folder, and for the reader what they were fitted on."""
    values: dict[str, Any] = {"format": CONFIDENCE_FORMAT}
    values |= {name: _written(map, MAPS[name]) for name, map in vars(maps).items() if map is not None}
    path = folder / WORD_CONFIDENCE
    files.write_text(path, json.dumps({**values, "fitted_on": dict(fitted_on)}, indent=2) + "\n")
    return path


def find_word_confidence(folder: Path) -> ConfidenceMaps | None:
    """The maps of a checkpoint, None where it has none; raises `CheckpointError` for a file that is damaged."""
    path = folder / WORD_CONFIDENCE
    if not untrusted.is_there(path):
        return None
    values = untrusted.read_json(path)
    if values.get("format") != CONFIDENCE_FORMAT:
        raise CheckpointError(f"{path}: format is {values.get('format')!r:.80}; {CONFIDENCE_FORMAT!r} can be read")
    there = {"aligned": values.get("aligned")} | {name: values[name] for name in MAPS if name in values}
    return ConfidenceMaps(**{name: _read(each, MAPS[name], path) for name, each in there.items()})


def _written(map: LogisticMap, features: Sequence[str]) -> dict[str, Any]:
    weights = dict(zip(features, (round(weight, 4) for weight in map.weights), strict=True))
    return {"bias": round(map.bias, 4), "weights": weights}


def _read(values: Any, features: Sequence[str], path: Path) -> LogisticMap:
    weights = values.get("weights") if isinstance(values, Mapping) else None
    if not isinstance(weights, Mapping) or set(weights) != set(features):
        raise CheckpointError(f"{path}: weights are {weights!r:.80}; they have to be of {', '.join(features)}")
    numbers = [values.get("bias"), *(weights[name] for name in features)]
    for number in numbers:
        if type(number) not in (int, float) or not math.isfinite(number) or abs(number) > LARGEST:
            raise CheckpointError(f"{path}: {number!r:.40} is no bias or weight; allowed are numbers up to {LARGEST:g}")
    bias, *rest = map(float, numbers)
    return LogisticMap(bias, tuple(rest))
