"""The quick start of a command that only recognizes: what PyTorch has for other work waits until it is used.

Importing PyTorch takes longer than to load a small model. Half of that is modules for other work, and rules of the
compiler that are computed at import (`torch._meta_registrations`). Only programs of our own start like this: `import
redline` in somebody else's leaves PyTorch alone.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import importlib.util
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, cast

SPINS = "2000"
"""How often a waiting thread looks before it sleeps: some microseconds (libgomp looks 300,000 times)."""
TESTED = "2.13."
"""How the version of PyTorch begins whose modules were looked at; others are imported whole."""
DEFERRED = frozenset(
    f"torch.{name}"
    for name in (
        "_meta_registrations", "distributed._meta_registrations", "distributions", "export", "masked", "nn.intrinsic",
        "nn.qat", "nn.quantizable", "nn.quantized", "optim", "quantization", "utils.data",
    )
)  # fmt: skip
"""Modules that PyTorch imports only to offer them, or to register what the compiler and shapes without numbers need."""
COMPILER = ("torch._decomp", "torch._dynamo", "torch._inductor", "torch._prims", "torch._refs")
"""Modules that lean on one another, and find each other only in the order in which PyTorch imports them."""


class _Finder:
    """Finds the deferred modules, in front of all other finders; when one is used, all are imported in their order."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.waiting: dict[str, tuple[Any, ModuleType]] = {}
        self.is_torch_there = self.is_loading = False

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        if self.is_torch_there:
            parent = name.rpartition(".")[0]
            if name in COMPILER or parent in DEFERRED:
                self.load(parent)
                if (own := getattr(sys.modules.get(name), "__spec__", None)) is not None:
                    own.loader = _There()
                    return cast(ModuleSpec, own)
        elif name in DEFERRED and (spec := PathFinder.find_spec(name, path)) is not None:
            spec.loader = _Deferred(self, spec.loader)
            return spec
        return None

    def load(self, name: str) -> None:
        """Import what waits, or within that only what is asked for; other threads wait until it is done."""
        with self.lock:
            is_within, self.is_loading = self.is_loading, True
            try:
                for each in [name] if is_within else list(self.waiting):
                    if each in self.waiting:
                        loader, module = self.waiting.pop(each)
                        loader.exec_module(module)
            finally:
                self.is_loading = is_within


class _There(Loader):
    """The loader, for one moment, of a module that came in while it was looked for: it is not executed again."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = cast("Loader | None", module.__loader__)


class _Deferred(Loader):
    """The loader of a module that is empty until somebody asks for what is in it."""

    def __init__(self, finder: _Finder, loader: Any) -> None:
        self.finder, self.loader = finder, loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self.loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        def find(name: str) -> Any:
            if not name.startswith("__"):  # `inspect` asks every module that there is for such names
                self.finder.load(module.__name__)
                if name in (found := vars(module)):
                    return found[name]
                if (own := found["__getattr__"]) is not find:
                    return own(name)
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        module.__dict__["__getattr__"] = find
        self.finder.waiting[module.__name__] = self.loader, module


def settle_threads() -> None:
    """Let threads that wait for each other sleep soon; call it before NumPy and PyTorch, whose libraries read it once.

    By default OpenMP's spin for milliseconds, and where other programs want the CPUs too, a thread that has to wait for
    its turn makes all others burn theirs. Without any spinning an idle machine would wake threads at every step. NumPy
    has small products here, and two threads would take twice the processor time for them. What the user has set stays.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPINS
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def import_deferring() -> None:
    """`import torch` without what is for other work, which is imported when it is used."""
    if "torch" not in sys.modules and (folder := _torch_folder()) is not None:
        version = re.search(r"__version__ = '([^']*)'", (folder / "version.py").read_text(encoding="utf-8"))
        if version and version[1].startswith(TESTED):
            finder = _Finder()
            sys.meta_path.insert(0, finder)
            importlib.import_module("torch")
            finder.is_torch_there = True


def open_libraries() -> None:
    """Have the system load PyTorch's largest library in a thread, while this one imports other things.

    Importing it holds the lock of the interpreter all the time; this does not. Nothing ends before the thread does: a
    process must not end within a library that is half there.
    """
    if "torch" in sys.modules or (folder := _torch_folder()) is None:
        return

    def load() -> None:
        import ctypes

        with suppress(OSError):  # `import torch` will say what is wrong with it
            ctypes.CDLL(str(folder / "lib" / "libtorch_cpu.so"))

    threading.Thread(target=load).start()


def _torch_folder() -> Path | None:
    spec = importlib.util.find_spec("torch")
    return Path(spec.origin).parent if spec and spec.origin else None


@contextmanager
def recognizing_only() -> Iterator[None]:
    """Import and load within, without what is for other work, and without looking for garbage.

    What is there at the end is never looked at again, for modules stay. So is all that is there when the process ends:
    Python would look three times for garbage among it, which takes half a second, and then the system frees it anyway.
    """
    gc.disable()
    try:
        import_deferring()
        yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.freeze)
