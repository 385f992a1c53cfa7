"""The picture of `redline plan`: hours and euros by the number of machines, and how busy each stage is."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import matplotlib

from redline import files
from redline.cli.plan import IN_WORDS
from redline.cluster.plan import STAGES, STARTING, Outcome, Workload
from redline.cluster.prices import GUESSED

STAGE_COLORS = dict(
    zip((*STAGES, STARTING), ("#7f8fa6", "#2471a3", "#d68910", "#2a7f3f", "#8e44ad", "#c0392b"), strict=True)
)


def draw_plan(archive: Workload, outcomes: Mapping[float, Outcome], path: Path) -> Path:
    """Write the picture as PNG; `outcomes` are by how many times the machines, 1 those that were asked for."""
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    names = ["\n".join(f"{count} {kind}" for kind, count in each.machines.items()) for each in outcomes.values()]
    places = range(len(names))
    left.bar(places, [each.run_hours for each in outcomes.values()], width=0.6)
    for place, (scale, each) in enumerate(outcomes.items()):
        left.patches[place].set(color=STAGE_COLORS[each.bottleneck], alpha=1 if scale == 1 else 0.55)
        left.annotate(
            f"{each.run_hours:,.1f} h\n€ {each.euros:,.0f}", (place, each.run_hours), ha="center", va="bottom"
        )
    left.set_xticks(places, names)
    left.margins(y=0.2)
    left.set_ylabel("hours")
    left.set_title("by the number of machines")
    held_up = {each.bottleneck: STAGE_COLORS[each.bottleneck] for each in outcomes.values()}
    left.legend(
        handles=[Patch(color=color, label=f"held up by {IN_WORDS[name]}") for name, color in held_up.items()],
        frameon=False,
    )
    chosen = outcomes[1]
    right.barh(STAGES, [100 * chosen.busy[name] for name in STAGES], color=[STAGE_COLORS[name] for name in STAGES])
    for place, name in enumerate(STAGES):
        label = f"{chosen.busy[name]:.0%}; {chosen.if_doubled[name]:,.1f} h if doubled"
        inside = chosen.busy[name] > 0.5
        at = 100 * chosen.busy[name] + (-1 if inside else 1)
        color = "white" if inside else "black"
        right.annotate(label, (at, place), ha="right" if inside else "left", va="center", color=color)
    right.invert_yaxis()
    right.set_xlim(0, 100)
    right.set_xlabel("busy, %")
    right.set_title(", ".join(f"{count} {kind}" for kind, count in chosen.machines.items()))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    numbers = chosen.figures.values()
    unmeasured = f"{sum(each.status in GUESSED for each in numbers)} of {len(numbers)} numbers not measured"
    figure.suptitle(f"{archive.hours:,.0f} hours of {archive.format}, {archive.model}; {unmeasured}")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    pyplot.close(figure)
    return files.write_bytes(path, picture.getvalue())
