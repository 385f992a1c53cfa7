"""A stage of one weight, for tests of the loop itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from redline.train.loop.loop import fit
from redline.train.loop.optim import TrainingOptions


class Line:
    """Its scores are given, and its loss is no number from some step on."""

    name = "line"

    def __init__(self, scores: list[float], bad_from: int = 10**6) -> None:
        self.source, self.objective = self, torch.nn.Linear(1, 1)
        torch.nn.init.constant_(self.objective.weight, 1.0)
        self.objective.forward = self.loss  # type: ignore[method-assign]
        self.scores, self.bad_from, self.seen = iter(scores), bad_from, 0
        self.evaluated: list[float] = []

    @property
    def weight(self) -> float:
        return self.objective.weight.item()

    def loss(self, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        self.seen += 1
        factor = math.nan if self.seen >= self.bad_from else 1.0
        return (self.objective.weight * batch.ones).sum() * factor, {}

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Any]:
        return iter([SimpleNamespace(ones=torch.ones(1, 1), seconds=1.0)] * (50 - skip))

    def evaluate(self) -> dict[str, float]:
        self.evaluated.append(self.weight)
        return {"wer": next(self.scores)}


def run(stage: Line, folder: Path, **options: Any) -> list[str]:
    """Train a stage for twenty steps; returns what was said."""
    lines: list[str] = []
    chosen = {"steps": 20, "evaluate_every": 5, "log_every": 5, "precision": "no", "warmup_steps": 1, **options}
    fit(stage, TrainingOptions(**chosen), folder, lines.append)  # type: ignore[arg-type]
    return lines
