"""The options that verbs share which read recordings: which part of them, what is speech, and where results go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

STDIN = "-"
"""In place of a file: standard input."""
OutputDir = Annotated[Path | None, typer.Option(help="Write NAME.FORMAT for each recording into this folder.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")]
SkipExisting = Annotated[bool, typer.Option("--skip-existing", help="Leave out what has its files.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress and no summary.")]
Channel = Annotated[int | None, typer.Option(min=0, help="Only this channel, from 0; default: all mixed.")]
AudioTrack = Annotated[int | None, typer.Option(min=0, help="This audio track, from 0; default: the main one.")]
AudioParts = Annotated[
    str | None,
    typer.Option("--clip", metavar="10-20,1:30-", help="Only these parts; times stay those of the whole."),
]
VadThreshold = Annotated[
    float | None, typer.Option("--vad-threshold", help="Probability from which a sound is speech (0.5).")
]
MinSilence = Annotated[float | None, typer.Option("--min-silence", help="Seconds of a pause that ends speech (0.35).")]
LongestWindow = Annotated[
    float | None, typer.Option("--window", help="Longest window in seconds; default: what the model takes.")
]
Pad = Annotated[float | None, typer.Option("--pad", help="Seconds that are kept on both sides of speech (0.4).")]
