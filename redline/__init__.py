"""Speech recognition by editing: a CTC draft of the whole recording at once, then one bidirectional editing pass.

    import redline

    model = redline.load_model("tiny")
    print(model.transcribe("meeting.mp3").text)

The names are loaded when they are first used, so that `import redline` does not import PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULES = {
    "errors": ("AudioError", "CheckpointError", "RecognitionError", "RedlineError", "UnsupportedTaskError"),
    "load": ("load_model",),
    "transcriber": ("Model", "Transcriber"),
    "types": ("Edit", "Hypothesis", "Notice", "Recognizer", "Segment", "Task", "Transcript", "Waveform", "Word"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["__version__", *_MODULE_OF]

if TYPE_CHECKING:
    from redline.errors import AudioError as AudioError
    from redline.errors import CheckpointError as CheckpointError
    from redline.errors import RecognitionError as RecognitionError
    from redline.errors import RedlineError as RedlineError
    from redline.errors import UnsupportedTaskError as UnsupportedTaskError
    from redline.load import load_model as load_model
    from redline.transcriber import Model as Model
    from redline.transcriber import Transcriber as Transcriber
    from redline.types import Edit as Edit
    from redline.types import Hypothesis as Hypothesis
    from redline.types import Notice as Notice
    from redline.types import Recognizer as Recognizer
    from redline.types import Segment as Segment
    from redline.types import Task as Task
    from redline.types import Transcript as Transcript
    from redline.types import Waveform as Waveform
    from redline.types import Word as Word
else:  # a type checker would take every name of the package from it

    def __getattr__(name: str) -> Any:
        if name not in _MODULE_OF:
            raise AttributeError(f"module 'redline' has no attribute {name!r}")
        return getattr(importlib.import_module(f"redline.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
