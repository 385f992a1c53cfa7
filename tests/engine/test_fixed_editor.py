"""Projector and editor of accelerators are the plain ones, and give a clip the same bits in any of their launches."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from redline.engine.fixed_editor import FixedEditor
from redline.engine.launch import Inputs, LaunchOptions, Results
from redline.models.nar import NarModel
from tests.builders import tiny_config

FRAMES = (0, 1, 2, 5, 7, 15, 16, 44, 46, 120, 333, 1000)


def random_model(dtype: torch.dtype = torch.float32) -> NarModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = NarModel(tiny_config())
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return model.to(dtype).eval()


def fixed_editor(model: NarModel, rows: int = 96, **options: Any) -> FixedEditor:
    return FixedEditor(model, LaunchOptions(encoder_rows=rows, editor_rows=rows, **options))


class Clips:
    """Random states and slots of clips of so many frames."""

    def __init__(self, model: NarModel, frames: Sequence[int] = FRAMES) -> None:
        draw, config = torch.Generator().manual_seed(7), model.config
        dtype = model.projector.query.dtype
        self.states = [
            torch.randn(len(config.encoder_layer_indices), count, config.encoder.hidden_dim, generator=draw).to(dtype)
            for count in frames
        ]
        self.slots = [torch.randint(config.text.vocab_size, (8 + count // 5,), generator=draw) for count in frames]

    def run(self, networks: NarModel | FixedEditor, rows: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Audio embeddings and states of slots of each of some clips, as one batch."""
        states, slots = [self.states[row] for row in rows], [self.slots[row] for row in rows]
        frames = max(1, *(own.shape[1] for own in states))
        padded = torch.full((len(rows), len(states[0]), frames, states[0].shape[2]), torch.nan, dtype=states[0].dtype)
        for place, own in zip(padded, states, strict=True):
            place[:, : own.shape[1]] = own
        padded[padded.isnan()] = 3.0  # whatever stands behind the end of a clip is not seen
        lengths = torch.tensor([own.shape[1] for own in states])
        with torch.inference_mode():
            audio, counts = networks.embed_audio(padded.unbind(1), lengths)
            ids = torch.nn.utils.rnn.pad_sequence(slots, batch_first=True)
            hidden = networks.read(audio, counts, ids, torch.tensor([len(own) for own in slots]))
        return [
            (audio[place, :count], hidden[place, : len(own)])
            for place, (count, own) in enumerate(zip(counts.tolist(), slots, strict=True))
        ]


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
