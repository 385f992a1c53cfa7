"""The packed editor of CPUs is the plain one, and gives a clip the same bits alone and among others."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

import redline
from redline import load_model
from redline.engine.int8 import to_int8
from redline.engine.packed_editor import PackedEditor
from redline.errors import RedlineError
from redline.models.nar import NarModel
from redline.recognizer.nar import NarRecognizer
from tests.builders import tiny_checkpoint
from tests.engine.editor_clips import FRAMES, Clips, random_model

DEMO = Path(redline.__file__).parent / "assets" / "demo.flac"
PRECISIONS = ("float32", "bfloat16", "int8")


def model_of(precision: str) -> NarModel:
    model = random_model(torch.bfloat16 if precision == "bfloat16" else torch.float32)
    if precision == "int8":
        to_int8(model)
    return model


@pytest.mark.parametrize("rows", [32, 256])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_packed_editor_is_the_plain_one(precision: str, rows: int) -> None:
    model, tolerance = model_of(precision), 0.1 if precision == "bfloat16" else 1e-4
    clips, all_rows = Clips(model), list(range(len(FRAMES)))
    packed = clips.run(PackedEditor(model, rows=rows), all_rows)
    for ours, theirs in zip(packed, clips.run(model, all_rows), strict=True):
        for some, others in zip(ours, theirs, strict=True):
            torch.testing.assert_close(some, others, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_slots_have_the_same_bits_alone_and_among_others(precision: str, threads: int) -> None:
    model, before = model_of(precision), torch.get_num_threads()
    clips, editor, order = Clips(model), PackedEditor(model), list(range(len(FRAMES)))
    torch.set_num_threads(threads)
    try:
        alone = [clips.run(editor, [row])[0] for row in range(len(FRAMES))]
        for seed in range(3):
            random.Random(seed).shuffle(order)
            for row, among in zip(order, clips.run(editor, order), strict=True):
                assert all(map(torch.equal, among, alone[row]))
    finally:
        torch.set_num_threads(before)


def test_no_weights_are_in_memory_twice_and_the_layers_that_were_given_say_so() -> None:
    model = random_model()
    clips = Clips(model)
    before = clips.run(model, [8])
    after = clips.run(PackedEditor(model, release=True), [8])
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    left = [name for name, _ in model.named_parameters() if name.startswith(("projector.", "language_model."))]
    kept = ("projector.query", "projector.window_positions", "language_model.model.embed_tokens.weight")
    assert left and all("norm" in name or name in kept for name in left)
    with pytest.raises(RedlineError, match="engine='plain'"):
        clips.run(model, [8])


@pytest.mark.parametrize("name", ["tiny", "random"])
def test_a_recognizer_with_the_packed_editor_writes_the_same(name: str, tmp_path: Path) -> None:
    source = str(tiny_checkpoint(tmp_path)) if name == "random" else name
    texts = []
    for engine in ("packed", "plain"):
        model = load_model(source, engine=engine, dtype="float32", device="cpu")  # type: ignore[arg-type]
        recognizer = model.recognizer
        assert isinstance(recognizer, NarRecognizer)
        assert isinstance(recognizer.networks, PackedEditor if engine == "packed" else NarModel)
        texts.append(model.transcribe(DEMO, words=True).text)
    assert texts[0] == texts[1]
