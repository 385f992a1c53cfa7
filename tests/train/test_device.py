"""Training on any device: none is written down, the one that is asked for is used, and a GPU is where there is one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from redline import load_model
from redline.train import run
from redline.train.run import Materials, build
from tests.ar_corpus import small_ar_recipe
from tests.corpus import editor_recipe, silent, small_tiny_recipe

ROOT = Path(__file__).parents[2]
PRECISION = {"redline/train/loop/optim.py"}
"""What a CPU has instructions for is asked here."""


def test_no_device_is_written_down() -> None:
    files = [*(ROOT / "redline/train").rglob("*.py"), *(ROOT / "recipes").rglob("*.py")]
    named = {
        str(path.relative_to(ROOT))
        for path in files
        if re.search(r"[\"'](cpu|cuda|mps)(:\d+)?[\"']|\.cuda\(", path.read_text(encoding="utf-8"))
    }
    assert named == PRECISION


class Reached(Exception):
    """Training began."""


@pytest.mark.parametrize("kind", ["nar", "ar"])
def test_the_device_of_a_run_reaches_every_stage(
    corpus: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    devices: list[Any] = []

    def fit(stage: Any, options: Any, folder: Path, say: Any, device: str | None) -> None:
        devices.append(device)
        raise Reached

    monkeypatch.setattr(run, "fit", fit)
    recipe = editor_recipe(base) if kind == "nar" else small_ar_recipe(base)
    with pytest.raises(Reached):
        build(recipe, Materials(corpus, tmp_path / "out"), (), silent, "cpu")
    assert devices == ["cpu"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("extension", [False, True])
@pytest.mark.parametrize("kind", ["nar", "ar"])
def test_two_steps_on_a_gpu_make_a_model(
    corpus: Path, manifest: Path, books: Path, base: Path, tmp_path: Path, kind: str, extension: bool
) -> None:
    training = {"steps": 2, "evaluate_every": 2, "log_every": 1, "precision": "bf16"}
    sections: dict[str, object] = {
        "encoder_cache": {"renderings": 1, "least_score": -100.0},
        "unit_selection": {"words": [1, 3], "batch_s": 4, "text_batch_s": 8, "epoch_batches": 6},
    }
    if kind == "nar":
        recipe: Any = small_tiny_recipe(sections, **training) if extension else editor_recipe(base, **training)
    else:
        recipe = small_ar_recipe(base, sections if extension else {}, **training)
        corpus = manifest
    build(recipe, Materials(corpus, tmp_path / "out", books), (), silent)
    stage = "editor" if kind == "nar" else "answers"
    rows = [json.loads(line) for line in (tmp_path / "out" / stage / "log.jsonl").read_text().splitlines()]
    assert torch.cuda.max_memory_allocated() > 0 and any("loss" in row for row in rows)
    assert load_model(tmp_path / "out" / "model")
