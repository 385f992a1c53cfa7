"""The picture of `redline chunks`: waveform, speech, windows, and a line for each cut in the color of its reason."""

from __future__ import annotations

import io
import math
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray

from redline import files
from redline.cli import show
from redline.cli.chunks import row_seconds
from redline.longform.observed import Chunking

COLORS = {"pause": "#2a7f3f", "longest": "#c0392b", "end": "#555555"}
LABELS = {"pause": "cut in a pause", "longest": "cut because the window is full", "end": "end of the recording"}
COLUMNS = 900
"""Bars of the waveform in a row."""


def bars_of(peaks: NDArray[np.float32], frame_s: float) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Peaks of frames -> the highest in each of at most `COLUMNS` bars, and the middle of its frames in seconds."""
    edges = np.linspace(0, len(peaks), min(COLUMNS, len(peaks)) + 1).astype(int)
    if len(peaks) == 0:
        return np.zeros(0), peaks
    return (edges[:-1] + edges[1:]) / 2 * frame_s, np.maximum.reduceat(peaks, edges[:-1])


def draw(chunking: Chunking, path: Path, title: str) -> Path:
    """Write the picture as PNG; a row holds as many seconds as a row in the terminal."""
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    row_s = row_seconds(chunking.duration_s)
    rows = max(1, math.ceil(chunking.duration_s / row_s))
    figure, grid = pyplot.subplots(rows, 1, figsize=(12, 0.7 + 1.1 * rows), squeeze=False, layout="constrained")
    frame_s = chunking.duration_s / max(1, len(chunking.peaks))
    for row, axes in enumerate(grid[:, 0]):
        start, end = row * row_s, (row + 1) * row_s
        part = chunking.peaks[round(start / frame_s) : round(end / frame_s)] if frame_s else chunking.peaks
        times, bars = bars_of(part, frame_s)
        axes.fill_between(start + times, bars, -bars, color="#7f8fa6", linewidth=0)
        for first, last in chunking.speech:
            if first < end and start < last:
                axes.axvspan(max(first, start), min(last, end), ymin=0, ymax=1, color="#f6e3a1", alpha=0.7, zorder=0)
        top = max(0.05, float(chunking.peaks.max(initial=0.0))) * 1.05
        for chunk in chunking.chunks:
            if chunk.start < end and start < chunk.end:
                left, right = max(chunk.start, start), min(chunk.end, end)
                axes.plot([left, right], [-top, -top], color="#34495e", linewidth=3, solid_capstyle="butt")
                if chunk.start >= start:
                    axes.text(left, top, f" {chunk.number}", fontsize=7, va="top", color="#34495e")
            if start < chunk.end <= end:
                axes.axvline(chunk.end, color=COLORS[chunk.reason], linewidth=1.4)
                if chunk.pause_s is not None:
                    axes.text(
                        chunk.end, -top, f" {chunk.pause_s:.1f} s", fontsize=6, va="bottom", color=COLORS["pause"]
                    )
        axes.set(xlim=(start, end), ylim=(-1.1 * top, 1.1 * top), yticks=[])
        axes.set_ylabel(show.clock(start), rotation=0, ha="right", va="center", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right", "left"]].set_visible(False)
    reasons = [reason for reason in LABELS if any(chunk.reason == reason for chunk in chunking.chunks)]
    handles = [Patch(color="#f6e3a1", label="speech"), Line2D([], [], color="#34495e", linewidth=3, label="window")]
    handles += [Line2D([], [], color=COLORS[reason], label=LABELS[reason]) for reason in reasons]
    figure.suptitle(title, fontsize=10)
    grid[-1, 0].set_xlabel("seconds", fontsize=8)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=90)
    pyplot.close(figure)
    return files.write_bytes(path, picture.getvalue())
