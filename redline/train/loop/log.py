"""The log of a run: one JSON object a line, on request for TensorBoard too, and drawn at the end."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from redline.errors import packages_of
from redline.train.loop.distributed import is_first_process


class TrainingLog:
    """`log.jsonl` of a folder, which the first process writes; raises `RedlineError` where TensorBoard is missing."""

    def __init__(self, folder: Path, tensorboard: bool = False) -> None:
        self.path = folder / "log.jsonl"
        self.is_first = is_first_process()
        self.losses: dict[str, list[Tensor]] = defaultdict(list)
        self.writer: Any = None
        if tensorboard and self.is_first:
            with packages_of("tensorboard", "--tensorboard"):
                from torch.utils.tensorboard import SummaryWriter
            self.writer = SummaryWriter(str(folder / "tensorboard"))

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Count the loss of a batch and its parts in."""
        for key, value in losses.items():
            self.losses[key].append(value)

    def means(self) -> dict[str, float]:
        """Means of what was added since the last call."""
        means = {key: sum(map(float, values)) / len(values) for key, values in self.losses.items()}
        self.losses.clear()
        return means

    def write(self, row: Mapping[str, Any]) -> None:
        """Add one row: training numbers (those with a learning rate) or the scores of an evaluation."""
        if self.is_first:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        if self.writer is not None:
            group = "train" if "lr" in row else "dev"
            for key in row.keys() - {"step"}:
                self.writer.add_scalar(f"{group}/{key}", row[key], row["step"])
            self.writer.flush()  # a run is watched while it goes on

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        if self.is_first and self.path.exists():
            plot_log(self.path)


def plot_log(log: Path) -> Path | None:
    """Draw a log beside it (log.png); None where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    figure, both = pyplot.subplots(1, 2, figsize=(11, 4))
    for axes, title, training in zip(both, ("training loss", "dev scores"), (True, False), strict=True):
        part = [row for row in rows if ("lr" in row) == training]
        # A run may go on with other loss parts than it began with.
        for key in sorted({key for row in part for key in row} - {"step", "epoch", "lr", "seconds"}):
            points = [(row["step"], row[key]) for row in part if key in row]
            axes.plot(*zip(*points, strict=True), marker="" if training else ".", label=key)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    target = log.with_suffix(".png")
    figure.savefig(target, dpi=110)
    pyplot.close(figure)
    return target
