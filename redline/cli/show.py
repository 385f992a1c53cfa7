"""What the person at the terminal sees: tracked changes, the progress of the work, times in words."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column
from rich.text import Text

from redline.formats.tracked_changes import Change, tracked_changes
from redline.types import Edit, Notice, Word

UNSURE = 0.5
"""A word whose confidence is lower is as likely wrong as right."""


def edited_line(edits: Sequence[Edit], color: bool, words: Sequence[Word] = ()) -> Text:
    """A draft as tracked changes: deletions struck through in red, insertions in green; without color in marks.

    The marks are [-deleted-] and {+inserted+}, as `wdiff` writes them. Words of the text that are `UNSURE` are
    underlined, or have (?) behind them.
    """
    line = Text()
    changes = tracked_changes(edits)
    written = [word for change in changes for word in change.text.split()]
    confident = [word.confidence is None or word.confidence >= UNSURE for word in words]
    marks = iter(confident if len(words) == len(written) else [True] * len(written))
    for change in changes:
        if line:
            line.append(" ")
        if change.draft and change.op != "keep":
            line.append(change.draft if color else f"[-{change.draft}-]", style="red strike" if color else "")
            if change.text and color:
                line.append(" ")
        if change.text:
            line.append(_written(change, color, marks))
    return line


def _written(change: Change, color: bool, marks: Iterator[bool]) -> Text:
    """The text of a change, with its unsure words marked."""
    text = Text(style="green" if color and change.op != "keep" else "")
    for word, is_confident in zip(change.text.split(), marks):  # noqa: B905 (marks go on in the next change)
        text.append(" " if text else "")
        text.append(
            word if is_confident or color else f"{word}(?)", style="underline" if color and not is_confident else ""
        )
    return text if color or change.op == "keep" else Text("{+") + text + Text("+}")


def notice_line(label: str, notice: Notice) -> str:
    """A warning in one line: where, then what."""
    place = ""
    if notice.start is not None and notice.end is not None:
        place = f" {clock(notice.start, tenths=True)} to {clock(notice.end, tenths=True)}:"
    return f"{label}:{place} {notice.message.removeprefix(f'{label}: ')}"


def clock(seconds: float, tenths: bool = False) -> str:
    """Seconds -> 0:07, 12:05 or 1:00:00."""
    units = round(seconds * 10) if tenths else 10 * round(seconds)
    whole, tenth = divmod(units, 10)
    minutes, whole = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}:{minutes:02}:{whole:02}" if hours else f"{minutes}:{whole:02}"
    return f"{text}.{tenth}" if tenths else text


def hours(seconds: float) -> str:
    """A length of time with its hours: 0:00:07, or 112:30:00."""
    minutes, whole = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{whole:02}"


def length(seconds: float) -> str:
    """A length of time: 7.3 s, or 12:05."""
    return f"{seconds:.1f} s" if round(seconds, 1) < 60 else clock(seconds)


def speed(audio_s: float, wall_s: float) -> str:
    """RTFx: how many times faster than the recording plays."""
    rtfx = audio_s / max(wall_s, 1e-3)
    return f"{rtfx:.1f} x real time" if rtfx < 10 else f"{rtfx:.0f} x real time"


class Meter(Progress):
    """The progress bar on standard error: audio done, RTFx, time left; nothing where it is no terminal."""

    def __init__(self, console: Console, recordings: int, enabled: bool) -> None:
        self._recordings = recordings
        self._started = time.perf_counter()
        self._finished = 0
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=18),
            TextColumn("{task.fields[state]}", table_column=Column(no_wrap=True)),
            console=console,
            transient=True,
            redirect_stdout=False,  # the transcript on standard output would move to standard error
            redirect_stderr=False,
            disable=not (enabled and console.is_terminal),
        )
        self._task = self.add_task(f"transcribing 0/{recordings}", total=None, state="reading")

    def advance_to(self, audio_s: float, fraction: float) -> None:
        """`audio_s` seconds of audio are done, which are `fraction` of the work."""
        wall_s = time.perf_counter() - self._started
        if audio_s and fraction:
            left = clock(wall_s * (1 / fraction - 1))
            state = f"{clock(audio_s)} of audio, {speed(audio_s, wall_s)}, {left} left"
            self.update(self._task, completed=fraction, total=1.0, state=state, refresh=True)

    def finish_recording(self) -> None:
        self._finished += 1
        self.update(self._task, description=f"transcribing {self._finished}/{self._recordings}")

    @contextmanager
    def aside(self) -> Iterator[None]:
        """The bar is out of the way of what is printed inside."""
        self.stop()
        try:
            yield
        finally:
            self.start()
