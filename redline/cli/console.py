"""What every command prints on: any encoding, any file name, each error in one line, and `--debug`."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import typer
from rich.console import Console
from rich.progress import Progress, ProgressColumn

from redline import files
from redline.errors import RedlineError

INTERRUPTED, INTERNAL_ERROR = 130, 70
"""Exit statuses of a command that Ctrl-C stopped, and of one that has a fault."""

# Controls but tab and new line, marks that turn the direction of writing round, and halves of characters.
_HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_log = logging.getLogger("redline")


def printable(text: str) -> str:
    """A text without what a terminal would obey: controls, and bytes of names that are no characters, as escapes."""
    return _HARMFUL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """A printable text, new lines escaped too, as names of files may have them."""
    return printable(text).replace("\n", "\\n")


class Notes(Console):
    """Standard error, for everything but results."""

    def __init__(self) -> None:
        super().__init__(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(printable(each) if isinstance(each, str) else each for each in objects), **options)

    def say(self, message: str, style: str | None = None) -> None:
        self.print(f"redline: {one_line(message)}", style=style)


def choice_of(*allowed: str) -> Callable[[str], str]:
    """The callback of an option that takes one of a few words."""

    def check(value: str) -> str:
        if value not in allowed:
            raise typer.BadParameter(f"{value!r}; allowed are {', '.join(allowed)}")
        return value

    return check


def check_outputs(outputs: Sequence[Path], inputs: Iterable[Path]) -> None:
    """Refuse before the work what cannot be written, and what would replace a file that is read, or another output."""
    for path in outputs:
        files.check_writable(path)
        if path.is_file() and files.identities([path]) & files.identities(inputs):
            raise RedlineError(f"{path}: is read by this command, which would replace it; choose another name")
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise RedlineError(f"{outputs[0]}: two files would be written under this name; choose another for one of them")


def results() -> Console:
    """Standard output, for results: names and texts are printed as they are, and lines are not folded."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def progress(notes: Console, *columns: str | ProgressColumn) -> Progress:
    """A progress bar of these columns, gone when it is done; nothing where standard error is no terminal."""
    return Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal)


def complain(message: str) -> None:
    Notes().say(message, "red")


def error_text(error: BaseException) -> str:
    """An error in words: those of the package as they are, those of the system with what to do."""
    if isinstance(error, OSError) and not type(error).__module__.startswith("redline"):
        return files.describe_os_error(error)
    return str(error)


def prepare_streams() -> None:
    """Let standard output and error take any text: what their encoding does not have is written as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def missing(text: str, file: IO[str]) -> str:
    """The characters of a text that the encoding of a stream does not have."""
    encoding = getattr(file, "encoding", None) or "utf-8"
    return "".join(dict.fromkeys(char for char in text if not char.encode(encoding, "ignore")))


def debug(enabled: bool = True) -> None:
    """Print tracebacks and what the package logs, on standard error."""
    if enabled and not _log.isEnabledFor(logging.DEBUG):
        logging.basicConfig(format="%(name)s: %(message)s")
        _log.setLevel(logging.DEBUG)


def refused(error: Exception, status: int = 2, message: str | None = None) -> typer.Exit:
    """Tell of an error in one line, with its traceback where tracebacks are wanted; the exit to raise."""
    if _log.isEnabledFor(logging.DEBUG):
        traceback.print_exception(error)
    complain(error_text(error) if message is None else message)
    return typer.Exit(status)


def internal_error(error: Exception) -> typer.Exit:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    message = (
        f"internal error, a fault of the program: {type(error).__name__}{': ' if text else ''}{text} ({where}); run it "
        "with --debug to see the traceback, and report that"
    )
    return refused(error, INTERNAL_ERROR, message)


if os.environ.get("REDLINE_DEBUG", "0") not in ("", "0"):
    debug()
