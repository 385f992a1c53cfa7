"""Speech to text the way an editor works: a draft of the whole recording at once, then one editing pass over it.

    import redline

    model = redline.load_model("tiny")
    print(model.transcribe("meeting.mp3").text)

The names are loaded when they are first used, so that `import redline` does not import PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redline.errors import AudioError, CheckpointError, RecognitionError, RedlineError, UnsupportedTaskError
    from redline.load import load_model
    from redline.transcriber import Model, Transcriber
    from redline.types import Edit, Hypothesis, Notice, Recognizer, Segment, Task, Transcript, Waveform, Word

__version__ = "0.1.0"

_HOME = {
    "AudioError": "errors",
    "CheckpointError": "errors",
    "RecognitionError": "errors",
    "RedlineError": "errors",
    "UnsupportedTaskError": "errors",
    "load_model": "load",
    "Model": "transcriber",
    "Transcriber": "transcriber",
    "Edit": "types",
    "Hypothesis": "types",
    "Notice": "types",
    "Recognizer": "types",
    "Segment": "types",
    "Task": "types",
    "Transcript": "types",
    "Waveform": "types",
    "Word": "types",
}

__all__ = [
    "AudioError",
    "CheckpointError",
    "Edit",
    "Hypothesis",
    "Model",
    "Notice",
    "RecognitionError",
    "Recognizer",
    "RedlineError",
    "Segment",
    "Task",
    "Transcriber",
    "Transcript",
    "UnsupportedTaskError",
    "Waveform",
    "Word",
    "__version__",
    "load_model",
]


if not TYPE_CHECKING:  # a type checker would take every name of the package from it

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 'redline' has no attribute {name!r}")
        return getattr(importlib.import_module(f"redline.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
