"""The extension that a recipe names: keys and sections, stages, batches and losses of its own.

`extension = "mixing.py"` in a recipe is a file beside it, `extension = "package.module"` one that is installed; either
has a function `recipe(values)`, which returns the recipe that the keys and sections of a file fill, with its defaults:
of a class derived from `NarRecipe`, whose `run` is of a class derived from `NarRun`. It is the user's own code: nothing
of a checkpoint ever names one.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from redline.errors import ConfigError

if TYPE_CHECKING:
    from redline.train.recipe import Recipe


def load_extension(name: str) -> Callable[[Mapping[str, Any]], Recipe]:
    """The function of an extension, a .py file or a module by name; raises `ConfigError` where there is none."""
    advice = "name a .py file beside the recipe, or a module"
    try:
        module = _from_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
    except (ModuleNotFoundError, FileNotFoundError) as error:
        if isinstance(error, ModuleNotFoundError) and not name.startswith(error.name or name):
            raise  # a package that the extension needs
        raise ConfigError(f"recipe extension is {name!r}: there is no such file or module; {advice}") from error
    function: Callable[[Mapping[str, Any]], Recipe] | None = getattr(module, "recipe", None)
    if function is None:
        raise ConfigError(f"recipe extension is {name!r}: it has no function recipe(values); {advice}")
    return function


def _from_file(path: Path) -> ModuleType:
    name = f"redline_extension_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
