"""The errors that Redline raises for its users; any other exception is a fault of the program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class RedlineError(Exception):
    """The root of every error that is meant for the user."""


class AudioError(RedlineError):
    """A recording could not be read."""


class EmptyAudioError(AudioError):
    """The input has no bytes or no audio frames."""


class NotAudioError(AudioError):
    """The input is not a format that is read here, or it has no audio stream."""


class TruncatedAudioError(AudioError):
    """The input ends before one audio frame could be decoded."""


class AudioLimitError(AudioError):
    """The input is beyond a limit on rate, channels or decoded duration."""


class NoSuchChannelError(AudioError):
    """A channel that the recording does not have; the message ends in which it has."""


class CheckpointError(RedlineError):
    """The folder or hub id is not a checkpoint that can be loaded."""


class ConfigError(RedlineError):
    """A configuration contradicts itself."""


class DataError(RedlineError):
    """A manifest, recipe, transcript or training file cannot be used."""


class DivergedError(RedlineError):
    """The loss of a training run is not a finite number; the last good weights are kept."""


class RecognitionError(RedlineError):
    """The recognizer failed on a clip, or on every part of a recording."""


class UnknownArgumentError(RedlineError, TypeError):
    """A function has no argument of that name."""


class UnsupportedTaskError(RedlineError):
    """The model cannot do what was asked of it."""


@contextmanager
def packages_of(extra: str, what: str) -> Iterator[None]:
    """Inside, packages of an extra are imported; raises `RedlineError` telling what needs one that is not installed."""
    try:
        yield
    except ImportError as error:
        package = (error.name or "a package").partition(".")[0].replace("_", "-")
        message = f"{what} needs {package}, which is not installed: pip install 'redline[{extra}]'"
        raise RedlineError(message) from error


def is_memory_error(error: BaseException) -> bool:
    """Whether memory has run out: that of CPUs has no error of its own in PyTorch, which is not imported here."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool({"MemoryError", "OutOfMemoryError"} & names) or "can't allocate memory" in str(error)
