"""What tests of the command line share: silent recordings, and a hypothesis with every kind of edit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from typer.testing import Result

from redline.types import Edit, Hypothesis

Run = Callable[..., Result]
EDITED = Hypothesis(
    text="And so, my fellow Americans",
    draft="and so my fello um americans",
    edits=(
        Edit("replace", " and", " And", 0),
        Edit("keep", " so", " so", 1),
        Edit("insert", "", ",", 2),
        Edit("keep", " my", " my", 2),
        Edit("keep", " fell", " fell", 3),
        Edit("replace", "o", "ow", 4),
        Edit("delete", " um", "", 5),
        Edit("replace", " americans", " Americans", 6),
    ),
)


def recording(path: Path, seconds: float = 1.0) -> Path:
    """A silent recording."""
    with path.open("wb") as file:
        soundfile.write(file, np.zeros(round(16_000 * seconds)), 16_000, format="WAV")
    return path
