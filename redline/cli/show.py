"""What the person at the terminal sees: tracked changes, the progress of the work, times in words."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from redline.formats import tracked_changes
from redline.types import Edit, Notice


def edited_line(edits: Sequence[Edit], color: bool) -> Text:
    """A draft as tracked changes: deletions struck through in red, insertions in green; without color in marks.

    The marks are [-deleted-] and {+inserted+}, as `wdiff` writes them.
    """
    line = Text()
    for change in tracked_changes(edits):
        if line:
            line.append(" ")
        if change.op == "keep":
            line.append(change.text)
            continue
        if change.draft:
            line.append(change.draft if color else f"[-{change.draft}-]", style="red strike" if color else "")
        if change.draft and change.text and color:
            line.append(" ")
        if change.text:
            line.append(change.text if color else f"{{+{change.text}+}}", style="green" if color else "")
    return line


def notice_line(label: str, notice: Notice) -> str:
    """A warning in one line: where, then what."""
    place = "" if notice.start is None or notice.end is None else f" {span(notice.start, notice.end)}:"
    return f"redline: {label}:{place} {notice.message.removeprefix(f'{label}: ')}"


def span(start: float, end: float) -> str:
    """From one time to another, to a tenth of a second."""
    return f"{clock(start, tenths=True)} to {clock(end, tenths=True)}"


def clock(seconds: float, tenths: bool = False) -> str:
    """Seconds -> 0:07, 12:05 or 1:00:00."""
    units = round(seconds * 10) if tenths else 10 * round(seconds)
    whole, tenth = divmod(units, 10)
    minutes, whole = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}:{minutes:02}:{whole:02}" if hours else f"{minutes}:{whole:02}"
    return f"{text}.{tenth}" if tenths else text


def length(seconds: float) -> str:
    """A length of time: 7.3 s, or 12:05."""
    return f"{seconds:.1f} s" if round(seconds, 1) < 60 else clock(seconds)


def speed(audio_s: float, wall_s: float) -> str:
    """How many times faster than the recording plays."""
    ratio = audio_s / max(wall_s, 1e-3)
    return f"{ratio:.1f} x real time" if ratio < 10 else f"{ratio:.0f} x real time"


class _AudioDone(ProgressColumn):
    def render(self, task: Task) -> Text:
        done = task.fields["audio_s"]
        if not done:
            return Text("listening")
        left = task.time_remaining
        ending = "" if left is None else f", {clock(left)} left"
        return Text(f"{clock(done)} of audio, {speed(done, task.fields['wall_s'])}{ending}")


class Meter:
    """The progress bar on standard error: audio done, times real time, time left; nothing where it is no terminal."""

    def __init__(self, console: Console, recordings: int, enabled: bool) -> None:
        self._console = console
        self._recordings = recordings
        self._started = time.perf_counter()
        self._finished = 0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=18),
            _AudioDone(table_column=Column(no_wrap=True)),
            console=console,
            transient=True,
            redirect_stdout=False,  # the transcript on standard output would move to standard error
            redirect_stderr=False,
            disable=not (enabled and console.is_terminal),
        )
        self._task = self._bar.add_task(self._title(), total=None, audio_s=0.0, wall_s=0.0)

    def __enter__(self) -> Meter:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, audio_s: float, fraction: float) -> None:
        """`audio_s` seconds of audio are done, which are `fraction` of the work."""
        wall_s = time.perf_counter() - self._started
        self._bar.update(
            self._task, completed=fraction, total=1.0 if audio_s else None, audio_s=audio_s, wall_s=wall_s, refresh=True
        )

    def finish_one(self) -> None:
        """One more recording is done."""
        self._finished += 1
        self._bar.update(self._task, description=self._title())

    def aside(self, write: Callable[[], None]) -> None:
        """Write to the terminal while the bar is out of the way."""
        self._bar.stop()
        try:
            write()
        finally:
            self._bar.start()

    def _title(self) -> str:
        return "transcribing" if self._recordings == 1 else f"{self._finished} of {self._recordings}"
