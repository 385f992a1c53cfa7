"""`redline chunks`: how a recording is cut, drawn in the terminal and as a picture."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from redline.cli import console, show
from redline.cli.recording_options import AudioParts, AudioTrack, Channel, LongestWindow, MinSilence, Pad, VadThreshold
from redline.cli.train import ModelName
from redline.errors import packages_of

if TYPE_CHECKING:
    from redline.longform.observed import Chunk, Chunking

BARS = " ▁▂▃▄▅▆▇█"
ROW_S = (5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600)
"""Seconds of sound that a row may have."""
MOST_ROWS = 8
FLOOR_DB = -54.0
"""Sound below this level is drawn as none."""


def chunks(
    file: Annotated[Path, typer.Argument(help="A recording.")],
    model: ModelName = "tiny",
    png: Annotated[Path | None, typer.Option(help="Draw a picture into this file (needs redline[train]).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the windows as JSON instead of drawing them.")] = False,
    speakers: Annotated[bool, typer.Option("--speakers", help="As with --speakers: windows may be others.")] = False,
    vad: Annotated[bool, typer.Option(help="Voice activity detection.")] = True,
    vad_threshold: VadThreshold = None,
    min_silence_s: MinSilence = None,
    pad_s: Pad = None,
    window_s: LongestWindow = None,
    channel: Channel = None,
    track: AudioTrack = None,
    parts: AudioParts = None,
) -> None:
    """Draw how a recording is cut into windows: waveform, speech, cuts, and the reason of each cut.

    It is cut as `redline transcribe` with the same options would cut it; nothing is recognized. A window ends in a
    pause that is long enough, or, when it is as long as the model takes, where speech is weakest.
    """
    from redline import audio
    from redline.audio.parts import parse_parts
    from redline.cli.detection import session_options
    from redline.load import load_model
    from redline.longform.observed import ObservedSession
    from redline.types import Task

    if png is not None:
        console.check_outputs([png], [file])
    audio_options = audio.AudioOptions(channel, track, parse_parts(parts) if parts else ())
    session_options(None, vad, vad_threshold, min_silence_s, pad_s, window_s)  # what cannot be is refused at once
    loaded = load_model(model)
    options = session_options(loaded.options, vad, vad_threshold, min_silence_s, pad_s, window_s)
    task = Task(speakers=speakers)
    session = ObservedSession(loaded.recognizer.limits(task), task, options)
    with audio.open_blocks(str(file), options=audio_options) as reader:
        session.source = reader.name
        for samples in reader:
            session.feed(samples)
        session.close(reader.warnings)
    chunking = session.chunking()
    for notice in chunking.notices:
        console.Notes().say(show.notice_line(str(file), notice), "yellow")
    if as_json:
        typer.echo(json.dumps([chunk.to_dict() for chunk in chunking.chunks], indent=2))
    else:
        out = console.results()
        for line in [*drawn(chunking, min(out.width, 160)), "", *map(described_chunk, chunking.chunks)]:
            out.print(line)
    if png is not None:
        with packages_of("train", "--png"):
            from redline.cli.chunks_picture import draw
        draw(chunking, png, file.name)


def row_seconds(duration_s: float) -> int:
    """Seconds of sound in a row, so that there are not too many of them."""
    return next((length for length in ROW_S if duration_s <= MOST_ROWS * length), ROW_S[-1])


def drawn(chunking: Chunking, width: int) -> list[str]:
    """Three lines for each row of sound: its level, where speech was found, and its windows with their numbers."""
    import numpy as np

    columns, row_s, lines = max(20, width - 8), row_seconds(chunking.duration_s), list[str]()
    frame_s = chunking.duration_s / max(1, len(chunking.peaks))
    levels = 20 * np.log10(np.maximum(chunking.peaks, 1e-6))
    for row in range(max(1, -(-round(1000 * chunking.duration_s) // (1000 * row_s)))):
        edges = [row_s * (row + column / columns) for column in range(columns + 1)]
        level, speech, windows = "", "", ""
        for start, end in pairwise(edges):
            if start >= chunking.duration_s:
                break
            part = levels[int(start / frame_s) : max(int(start / frame_s) + 1, int(end / frame_s))]
            share = (float(part.max(initial=FLOOR_DB)) - FLOOR_DB) / -FLOOR_DB
            level += BARS[min(len(BARS) - 1, max(0, round(share * (len(BARS) - 1))))]
            speech += "━" if any(first < end and start < last for first, last in chunking.speech) else " "
            windows += _window_mark(chunking.chunks, start, end)
        for chunk in chunking.chunks:  # numbers, where there is room behind the border
            at, name = round((chunk.start / row_s - row) * columns) + 1, str(chunk.number)
            if at >= 0 and windows[at : at + len(name)] == "─" * len(name):
                windows = windows[:at] + name + windows[at + len(name) :]
        lines += [f"{show.clock(row * row_s):>7} {level}", f"{'':8}{speech}", f"{'':8}{windows}".rstrip()]
    return lines


def _window_mark(chunks: tuple[Chunk, ...], start: float, end: float) -> str:
    """The mark of a column: ├ begins a window, | is a cut within speech, ─ goes on."""
    for chunk in chunks:
        if start <= chunk.end < end and chunk.reason == "longest":
            return "╳"
        if start <= chunk.start < end:
            return "├"
        if start <= chunk.end < end:
            return "┤"
        if chunk.start < start and end <= chunk.end:
            return "─"
    return " "


def described_chunk(chunk: Chunk) -> str:
    """One window and the reason of its cut, in words."""
    start, end = show.clock(chunk.start, tenths=True), show.clock(chunk.end, tenths=True)
    return f"{chunk.number:>4}  {start:>9} to {end:>9}  {chunk.end - chunk.start:5.1f} s  {reason_of(chunk)}"


def reason_of(chunk: Chunk) -> str:
    """Why a window ends, in words."""
    if chunk.reason == "end":
        return "end of the recording"
    if chunk.pause_s is not None:
        return f"pause of {chunk.pause_s:.1f} s"
    searched = (show.clock(each or 0.0, tenths=True) for each in (chunk.searched_from, chunk.searched_to))
    return f"full; cut at the weakest place between {' and '.join(searched)}"
