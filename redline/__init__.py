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

__all__ = [
    "AudioError", "CheckpointError", "Edit", "Hypothesis", "Model", "Notice", "RecognitionError", "Recognizer",
    "RedlineError", "Segment", "SubtitleOptions", "Task", "Transcriber", "Transcript", "UnsupportedTaskError",
    "Waveform", "Word", "__version__", "align_recording", "load_model",
]  # fmt: skip

if TYPE_CHECKING:
    from redline.errors import AudioError, CheckpointError, RecognitionError, RedlineError, UnsupportedTaskError
    from redline.formats.subtitle_options import SubtitleOptions
    from redline.load import load_model
    from redline.prepare.align_recording import align_recording
    from redline.transcriber import Model, Transcriber
    from redline.types import Edit, Hypothesis, Notice, Recognizer, Segment, Task, Transcript, Waveform, Word
else:  # a type checker would take every name of the package from it

    def __getattr__(name: str) -> Any:
        if name in __all__:
            for module in ("errors", "types", "formats", "transcriber", "load", "prepare.align_recording"):
                if hasattr(home := importlib.import_module(f"redline.{module}"), name):
                    return getattr(home, name)
        raise AttributeError(f"module 'redline' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
