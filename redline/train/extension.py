"""What a module named by a recipe may change in its run: further sections and stages, batches and losses of its own.

`extension = "mixing.py"` in a recipe is a file beside it, `extension = "package.module"` one that is installed; either
has an object named `EXTENSION`. It is the user's own code: nothing of a checkpoint ever names one.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import nn

from redline.decoding.ngram import NgramLM
from redline.diarize.embedder import SpeakerEmbedder
from redline.errors import ConfigError
from redline.train.loop.stage import EpochSource

if TYPE_CHECKING:
    from redline.train.recipe import Recipe
    from redline.train.run import Run

StageFunction = Callable[[], None]


@dataclass(frozen=True)
class Parts:
    """What a checkpoint has beside its model."""

    draft_lm: NgramLM | None = None
    speaker_embedder: SpeakerEmbedder | None = None
    """Of AR and Plus models."""


class Extension:
    """Derive from it and override what is to be different; as it stands it changes nothing."""

    sections: Any = None
    """A frozen dataclass whose fields are further keys and sections of the recipe; `run.recipe.sections` has them."""

    def recipe(self, values: Mapping[str, Any]) -> Recipe | None:
        """The recipe with defaults that a file's keys and sections fill, where it is not that of a NAR model."""
        return None

    def stages(self, run: Run, plain: Mapping[str, StageFunction]) -> Mapping[str, StageFunction]:
        """The stages of a run in their order, given those it has without the extension."""
        return plain

    def source(self, run: Run, stage: str, model: Any) -> EpochSource:
        """Where the batches come from that the model of a stage learns from."""
        return run.plain_source(stage)

    def objective(self, run: Run, stage: str, model: Any) -> nn.Module:
        """What a stage learns by, on a model that has what earlier stages learned."""
        return run.plain_objective(stage, model)

    def parts(self, run: Run, model: Any) -> Parts:
        """What is written beside the trained model."""
        return run.plain_parts()


def load_extension(name: str) -> Extension:
    """The extension that a recipe names, a path of a .py file or a module; raises `ConfigError` where there is none."""
    if not name:
        return Extension()
    try:
        module = _from_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
    except (ModuleNotFoundError, FileNotFoundError) as error:
        if isinstance(error, ModuleNotFoundError) and not name.startswith(error.name or name):
            raise  # a package that the extension needs
        raise _unusable(name, "there is no such file or module") from error
    extension = getattr(module, "EXTENSION", None)
    if not isinstance(extension, Extension):
        raise _unusable(
            name, "it has no object EXTENSION of a class that derives from redline.train.extension.Extension"
        )
    return extension


def _from_file(path: Path) -> ModuleType:
    name = f"redline_extension_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _unusable(name: str, reason: str) -> ConfigError:
    return ConfigError(f"recipe extension is {name!r}: {reason}; name a .py file beside the recipe, or a module")
