"""Projector and editor of accelerators are the plain ones, and give a clip the same bits in any of their launches."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from redline.engine.fixed_editor import FixedEditor
from redline.engine.launch import Inputs, LaunchOptions, Results
from redline.models.nar import NarModel
from tests.engine.editor_clips import FRAMES, Clips, random_model


def fixed_editor(model: NarModel, rows: int = 96, **options: Any) -> FixedEditor:
    return FixedEditor(model, LaunchOptions(encoder_rows=rows, editor_rows=rows, **options))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_the_fixed_editor_is_the_plain_one(dtype: torch.dtype) -> None:
    model, tolerance = random_model(dtype), 1e-4 if dtype == torch.float32 else 0.1
    clips, rows = Clips(model), list(range(len(FRAMES)))
    for ours, theirs in zip(clips.run(fixed_editor(model), rows), clips.run(model, rows), strict=True):
        for some, others in zip(ours, theirs, strict=True):
            torch.testing.assert_close(some, others, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_slots_have_the_same_bits_alone_and_among_others(dtype: torch.dtype) -> None:
    model = random_model(dtype)
    clips, editor = Clips(model), fixed_editor(model)
    alone = [clips.run(editor, [row])[0] for row in range(len(FRAMES))]
    order = list(range(len(FRAMES)))
    for seed in range(3):
        random.Random(seed).shuffle(order)
        for row, among in zip(order, clips.run(editor, order), strict=True):
            assert all(map(torch.equal, among, alone[row]))


def recording(run: Callable[..., Results], calls: list[Any]) -> Callable[..., Results]:
    """The same, and a note of the shapes and addresses of its inputs."""

    def noted(self: FixedEditor, inputs: Inputs) -> Results:
        calls.append({name: (value.shape, value.data_ptr()) for name, value in inputs.items()})
        return run(self, inputs)

    return noted


def test_every_launch_of_the_editor_has_the_same_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[Any]] = {"_project": [], "_read": []}
    for name, calls in seen.items():
        monkeypatch.setattr(FixedEditor, name, recording(getattr(FixedEditor, name), calls))
    model = random_model()
    clips, editor = Clips(model), fixed_editor(model)
    for rows in ([0], [1, 2, 3, 4, 5, 6], [8], [5, 5, 5]):
        clips.run(editor, rows)
    assert all(len(calls) >= 4 and all(each == calls[0] for each in calls) for calls in seen.values())


def test_a_layer_of_the_editor_is_compiled_once() -> None:
    compilations = []

    def count(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        compilations.append(inputs)
        return graph.forward

    model = random_model()
    clips = Clips(model)
    editor = fixed_editor(model, compiler=lambda function: torch.compile(function, backend=count, fullgraph=True))
    for rows in ([1, 2], [8]):
        for ours, theirs in zip(clips.run(editor, rows), clips.run(model, rows), strict=True):
            torch.testing.assert_close(ours[1], theirs[1], atol=1e-4, rtol=1e-4)
    assert len(compilations) == 2  # in front of the attention and behind it


def test_the_editor_in_fp8_is_near_the_plain_one() -> None:
    model = random_model()
    clips = Clips(model)
    exact = clips.run(model, [9])[0][1]
    rough = clips.run(fixed_editor(model, rows=400, in_fp8=True), [9])[0][1]
    assert 0 < (rough - exact).norm() / exact.norm() < 0.3
