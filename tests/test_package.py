"""The package around the code: what an import costs, what an install brings, what the names promise."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import redline

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "av", "soxr", "soundfile", "transformers", "lhotse", "silero_vad")
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in ("redline", "redline_recipes")
    for path in (ROOT / package).rglob("*.py")
    if path.stem not in ("__init__", "__main__")
)


def python(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_import_is_light() -> None:
    loaded = python(f"import sys, redline; print([name for name in {HEAVY} if name in sys.modules])")
    assert loaded == "[]"


def test_command_line_starts_without_torch() -> None:
    loaded = python(f"import sys, redline.cli.main; print([name for name in {HEAVY} if name in sys.modules])")
    assert loaded == "[]"


def test_no_model_waits_for_a_compiler_that_it_does_not_use() -> None:
    code = (
        "import sys, redline; from pathlib import Path\n"
        "demo = Path(redline.__file__).parent / 'assets' / 'demo.flac'\n"
        "for name in ('tiny', 'tiny-multi', 'tiny-plus'):\n"
        "    model = redline.load_model(name); assert model.transcribe(demo, words=True, keywords=['country']).text\n"
        "print([name for name in ('torch._dynamo', 'sympy', 'transformers') if name in sys.modules])"
    )
    assert python(code) == "[]"


def test_every_public_name_exists() -> None:
    assert redline.__all__
    for name in redline.__all__:
        assert getattr(redline, name) is not None
    assert set(redline.__all__) <= set(dir(redline))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = redline.no_such_name


@pytest.mark.parametrize("name", MODULES)
def test_every_module_imports(name: str) -> None:
    assert importlib.import_module(name).__doc__, "a file opens with a sentence on what it is"


def requirement_names(file: Path) -> set[str]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return {re.split(r"[=<> ;]", line)[0].lower().replace("_", "-") for line in lines if line[:1].isalnum()}


def test_versions_agree() -> None:
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert declared is not None
    assert redline.__version__ == declared[1]
    assert f"## {declared[1]}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_constraints_pin_what_install_and_tests_need() -> None:
    pinned = requirement_names(ROOT / "constraints.txt")
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = "evaluate|train|test"
    blocks = re.findall(rf"^(?:dependencies|{extras}) = \[(.*?)\]\s*$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    needed = {
        name.lower().replace("_", "-") for block in blocks for name in re.findall(r'"([A-Za-z0-9_-]+)[^"]*"', block)
    }
    assert needed - {"redline"} <= pinned
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        assert line.startswith("#") or re.fullmatch(r'[\w.-]+==[\w.]+( ; python_version (>=|<) "3\.\d+")?', line), line


def test_base_install_needs_neither_torchaudio_nor_flash_attention() -> None:
    pinned = requirement_names(ROOT / "constraints.txt")
    assert not pinned & {"torchaudio", "flash-attn", "ffmpeg-python"}


def test_entry_point_is_the_command_line() -> None:
    (entry,) = [point for point in importlib.metadata.entry_points(group="console_scripts") if point.name == "redline"]
    assert entry.value == "redline.cli.main:main"
    assert callable(entry.load())


def test_recipes_are_in_the_wheel() -> None:
    setuptools = pytest.importorskip("setuptools")
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    wanted = re.search(r"^include = \[(.*)\]", text, re.MULTILINE)
    assert wanted is not None
    packages = setuptools.find_packages(str(ROOT), include=re.findall(r'"([^"]+)"', wanted[1]))
    assert {"redline", "redline_recipes", "redline_recipes.tiny"} <= set(packages)
    data = re.search(r'^redline_recipes = \["(.+)"\]', text, re.MULTILINE)
    assert data is not None
    packed = set((ROOT / "redline_recipes").glob(data[1]))
    assert {file.stem for file in packed} == {
        "tiny",
        "tiny-further",
        "tiny-editor",
        "tiny-gpu",
        "tiny-multi",
        "tiny-multi-further",
        "tiny-plus",
        "nle-2b",
    }


def test_the_library_knows_no_recipe() -> None:
    for path in (ROOT / "redline").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) redline_recipes", path.read_text(encoding="utf-8"), re.MULTILINE), path


def test_nothing_outside_the_project_is_named() -> None:
    text_files = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(
            path
            for folder in ("redline", "recipes", "scripts")
            for path in (ROOT / folder).rglob("*")
            if path.suffix in (".py", ".md")
        ),
    ]
    for path in text_files:
        match = re.search(r"/(?:work|root|home)/\w+|\.\./shared", path.read_text(encoding="utf-8"))
        assert match is None, f"{path.relative_to(ROOT)} names {match[0]}, a path of one machine"
