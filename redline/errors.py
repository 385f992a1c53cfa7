"""The errors and warnings that Redline raises.

RedlineError
├── AudioError              a recording could not be read
│   ├── EmptyAudioError         nothing in it: zero bytes or zero frames
│   ├── NotAudioError           not a format that is read here, or no audio stream in it
│   ├── TruncatedAudioError     it ends before anything could be decoded
│   └── AudioLimitError         rate, channels or duration beyond a limit
├── CheckpointError         a folder or hub id that is not a checkpoint this package knows
├── ConfigError             a configuration whose numbers contradict each other
├── DataError               a manifest or recipe that cannot be used
├── DivergedError           training whose loss is no number any more
├── RecognitionError        the recognizer failed on a clip, or on every part of a recording
├── UnknownArgumentError    a keyword argument that a function does not have; a TypeError, too
└── UnsupportedTaskError    the model cannot do what was asked
"""

from __future__ import annotations


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


class CheckpointError(RedlineError):
    """The folder or hub id is not a checkpoint that can be loaded."""


class ConfigError(RedlineError):
    """A configuration contradicts itself."""


class DataError(RedlineError):
    """A manifest, recipe or training file cannot be used."""


class DivergedError(RedlineError):
    """The loss of a training run is not a finite number; the last good weights are kept."""


class RecognitionError(RedlineError):
    """The recognizer failed on a clip, or on every part of a recording."""


class UnknownArgumentError(RedlineError, TypeError):
    """A function has no argument of that name."""


class UnsupportedTaskError(RedlineError):
    """The model cannot do what was asked of it."""
