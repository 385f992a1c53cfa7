"""Keeps docs/architecture.md true: imports point down only, and rooms on one line never import each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "redline"
LINES = (
    {"types", "errors", "files", "languages", "untrusted"},
    {"audio", "features", "tokenizer", "prompts", "formats", "manifest", "itn", "punctuation", "keywords"}
    | {"normalize", "sandbox", "signatures", "threads", "tensor_file", "quantization", "word_rewriting"},
    {"decoding"},
    {"models"},
    {"diarize"},
    {"checkpoints"},
    {"longform", "recognizer"},
    {"engine"},
    {"transcriber", "transcribe_options"},
    {"load"},
    {"train", "prepare", "evaluate", "serve", "cluster"},
    {"__init__", "__main__", "cli", "testing"},
)
LEVEL = {room: level for level, rooms in enumerate(LINES, start=1) for room in rooms}
ONLY = {"longform": {"types", "errors", "threads", "audio", "diarize"}}  # works with any recognizer
NEVER = {
    **{room: {"recognizer", "models"} for room in ("evaluate", "serve", "cluster")},  # they see the protocol
    "models": {"decoding"},  # networks only: recognizers search and decide
}
# types -> formats is Transcript.save only. A language that is none, or a file that is no part of a checkpoint, is an
# error for the user. A prompt ends as ids, and only the tokenizer knows how user text stays text; templates of others
# run in the sandbox.
ALLOWED = {
    ("types", "formats"),
    ("types", "errors"),
    ("models", "diarize"),
    ("languages", "errors"),
    ("untrusted", "errors"),
    ("prompts", "keywords"),
    ("itn", "word_rewriting"),
    ("transcriber", "transcribe_options"),
    ("prompts", "tokenizer"),
    ("prompts", "sandbox"),
}


def room_of(name: str) -> str:
    """`redline.models.config` -> models; `redline` and the names it exports -> __init__."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in LEVEL else "__init__"


def imports(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Line and room of each import of ours, inside functions too; `package` resolves relative imports."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join(parents + ([node.module] if node.module else []))
            names = [f"{base}.{alias.name}" for alias in node.names]
        yield from ((node.lineno, room_of(name)) for name in names if name.split(".")[0] == "redline")


def complaint(here: str, there: str) -> str | None:
    """Why `here` may not import `there`, or None where it may."""
    if here == there or (here, there) in ALLOWED or LEVEL[here] == len(LINES):
        return None
    if here in ONLY and there not in ONLY[here]:
        return f"{here} may import {sorted(ONLY[here])} only, not {there}"
    if there in NEVER.get(here, ()):
        return f"{here} may never import {there}"
    if LEVEL[there] >= LEVEL[here]:
        return f"{here} (line {LEVEL[here]}) may not import {there} (line {LEVEL[there]})"
    return None


def test_every_file_has_a_room() -> None:
    names = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir() if path.suffix in ("", ".py")}
    assert names - {"assets", "__pycache__"} <= set(LEVEL), "a new room needs a line in the diagram and in LINES"


def test_imports_point_down_only() -> None:
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        here = room_of(".".join(parts))
        for line, there in imports(path.read_text(encoding="utf-8"), ".".join(parts[:-1])):
            if reason := complaint(here, there):
                wrong.append(f"{path.relative_to(PACKAGE.parent)}:{line}: {reason}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("package", "source", "rooms"),
    [
        ("redline", "from redline import formats, load_model", ["formats", "__init__"]),
        ("redline", "import redline.models.config", ["models"]),
        ("redline.models", "def f():\n    from ..types import Waveform", ["types"]),
        ("redline.models", "from .config import NarConfig", ["models"]),
        ("redline", "import torch", []),
    ],
)
def test_imports_are_found(package: str, source: str, rooms: list[str]) -> None:
    assert [room for _, room in imports(source, package)] == rooms


def test_upward_and_sideways_imports_are_refused() -> None:
    assert complaint("audio", "features") and complaint("types", "audio") and complaint("models", "recognizer")
    assert complaint("longform", "text") and complaint("evaluate", "recognizer") and complaint("evaluate", "train")
    assert complaint("decoding", "__init__") and complaint("models", "engine") and complaint("decoding", "models")
    assert complaint("models", "decoding") and complaint("models", "checkpoints")
    assert (
        not complaint("recognizer", "decoding") and not complaint("cli", "load") and not complaint("engine", "models")
    )
