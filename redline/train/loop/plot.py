"""The picture of a stage's log."""

from __future__ import annotations

import json
from pathlib import Path


def plot_log(log: Path) -> Path | None:
    """Draw the loss log of a stage beside it (log.png); None where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    losses = [row for row in rows if "loss" in row]
    scores = [row for row in rows if "loss" not in row]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for axes, part, marker in ((left, losses, ""), (right, scores, ".")):
        # A run may go on with other loss parts than it began with.
        for key in sorted({key for row in part for key in row} - {"step", "epoch", "lr", "seconds"}):
            points = [(row["step"], row[key]) for row in part if key in row]
            axes.plot(*zip(*points, strict=True), marker=marker, label=key)
    for axes, title in ((left, "training loss"), (right, "dev scores")):
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    target = log.with_suffix(".png")
    figure.savefig(target, dpi=110)
    pyplot.close(figure)
    return target
