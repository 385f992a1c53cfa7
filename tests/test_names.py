"""Names and sizes: one meaning for each public name, files that fit one idea, a library that stays small."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "redline"
MAX_FILE_LINES = 400
MAX_LIBRARY_LINES = 28_938
"""Of the library without engine, serve and cluster."""

ALLOWED = {
    "main": "the entry point of a program, whichever it is",
}
"""Public names that may be defined in several files, and why."""


def public_names(tree: ast.Module) -> Iterator[str]:
    """The names that a module defines at its top, inside `if` too; imports are not definitions."""
    nodes: list[ast.stmt] = list(tree.body)
    while nodes:
        node = nodes.pop()
        targets: list[ast.expr] = []
        if isinstance(node, ast.If):
            nodes += node.body + node.orelse
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            targets = [ast.Name(node.name)]
        elif isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        names = [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]
        yield from (name for name in names if not name.startswith("_"))


def shared_names() -> dict[str, set[str]]:
    """Public names that more than one file defines; a verb of the command line is named as what it calls."""
    homes = defaultdict[str, set[str]](set)
    for path in PACKAGE.rglob("*.py"):
        is_verb = path.parent.name == "cli"
        for name in public_names(ast.parse(path.read_text(encoding="utf-8"))):
            if not (is_verb and name == path.stem):
                homes[name].add(path.relative_to(PACKAGE).as_posix())
    return {name: files for name, files in homes.items() if len(files) > 1}


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_a_public_name_has_one_meaning() -> None:
    shared = {name: sorted(files) for name, files in shared_names().items() if name not in ALLOWED}
    assert not shared, "give each its own name, such as load_nar, or say in ALLOWED why not"


def test_no_file_is_longer_than_an_idea() -> None:
    folders = (PACKAGE, ROOT / "tests", ROOT / "scripts", ROOT / "recipes")
    sizes = {path.relative_to(ROOT).as_posix(): lines(path) for folder in folders for path in folder.rglob("*.py")}
    long = {name: size for name, size in sizes.items() if size > MAX_FILE_LINES}
    assert not long, f"at most {MAX_FILE_LINES} lines"


def test_the_library_stays_small() -> None:
    beside = {"engine", "serve", "cluster"}
    total = sum(lines(path) for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] not in beside)
    assert total <= MAX_LIBRARY_LINES


def test_names_are_found_wherever_a_module_defines_them() -> None:
    source = (
        "a = b, _c = 1, 2\nif a:\n    d: int = 3\nelse:\n    def e(): f = 1\nclass G:\n    h = 1\nfrom x import i\n"
    )
    assert set(public_names(ast.parse(source))) == {"a", "b", "d", "e", "G"}
