"""The encoder of accelerators is the plain one, and gives each clip the same bits in any of its launches.

On a CPU all but the graph and the stream is what a device runs.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from redline.engine import fixed_encoder
from redline.engine.fixed_encoder import FixedEncoder
from redline.engine.fp8 import Fp8Weight, fp8_rows, product
from redline.engine.launch import Inputs, Launch, LaunchOptions, Results, in_pinned_memory
from redline.features import pad
from redline.models.conformer import ConformerEncoder
from tests.engine.test_packed import LENGTHS, SHAPES, clips, encoder, parts

ROWS = 400


def fixed(model: ConformerEncoder, *layers: int, **options: Any) -> FixedEncoder:
    return FixedEncoder(model, layers, LaunchOptions(encoder_rows=ROWS, **options))


def assert_same_frames(ours: Tensor, theirs: Tensor, lengths: Tensor, tolerance: float) -> None:
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(ours[row, :length], theirs[row, :length], atol=tolerance, rtol=tolerance)
        assert not ours[row, length:].any()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("attention", ["biased", "flex"])
@pytest.mark.parametrize("name", SHAPES)
def test_the_fixed_encoder_is_the_plain_one(name: str, attention: Literal["biased", "flex"]) -> None:
    model = encoder(name)
    layers = tuple(range(model.config.num_layers + 1))
    rows = clips(LENGTHS[:-1] if attention == "flex" else LENGTHS, model.config.input_dim)
    with torch.no_grad():
        plain = model(*pad(rows), layers)
    ours = fixed(model, *layers, attention=attention)(rows)
    assert torch.equal(ours.lengths, plain.lengths)
    for some, others in zip(parts(ours), parts(plain), strict=True):
        assert_same_frames(some, others, plain.lengths, 1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", SHAPES)
def test_a_clip_has_the_same_bits_alone_and_among_others(
    name: str, dtype: torch.dtype, request: pytest.FixtureRequest
) -> None:
    # MKL, which computes here what a device would, shares rows out by place where several threads take part.
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(1)
    model = fixed(encoder(name, dtype), -1)
    rows = clips(LENGTHS[:-2], model.config.input_dim)
    alone = [parts(model([row])) for row in rows]
    order = list(range(len(rows)))
    for seed in range(3):
        random.Random(seed).shuffle(order)
        for number, own in zip(order, zip(*parts(model([rows[at] for at in order])), strict=True), strict=True):
            for among, single in zip(own, alone[number], strict=True):
                assert torch.equal(among[: single.shape[1]], single[0])


def test_what_is_no_number_in_one_clip_stays_there() -> None:
    model = fixed(encoder("published"))
    rows = clips((30, 25, 41), model.config.input_dim)
    before = model(rows).char_logits
    rows[1] = torch.full_like(rows[1], torch.nan)
    after = model(rows).char_logits
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert after[1, :25].isnan().all()


def test_every_launch_has_the_same_shapes_and_writes_into_the_same_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def encode(self: FixedEncoder, inputs: Inputs) -> Results:
        seen.append({name: (value.shape, value.data_ptr()) for name, value in inputs.items()})
        return plain(self, inputs)

    plain = FixedEncoder._encode
    monkeypatch.setattr(FixedEncoder, "_encode", encode)
    model = fixed(encoder("halved twice"))
    for lengths in ((3,), (150, 150, 20), (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)):
        model(clips(lengths, model.config.input_dim))
    assert len(seen) >= 3 and all(each == seen[0] for each in seen)


def test_all_layers_share_one_compilation_without_a_graph_break() -> None:
    compilations = []

    def count(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        compilations.append(inputs)
        return graph.forward

    def compiler(function: Callable[..., Results]) -> Callable[..., Results]:
        return torch.compile(function, backend=count, fullgraph=True, dynamic=False)

    plain = encoder("published")
    model = fixed(plain, compiler=compiler)
    rows = clips((30, 41), model.config.input_dim)
    own = model(rows)
    for lengths in ((1,), (60, 60, 60), (7, 100)):
        model(clips(lengths, model.config.input_dim))
    assert len(compilations) == 2  # the part in front of a convolution and the part behind it
    for some, others in zip(parts(own), parts(fixed(plain)(rows)), strict=True):
        torch.testing.assert_close(some, others, atol=1e-4, rtol=1e-4)


def test_out_of_memory_halves_the_launch_once_and_the_frames_stay(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = fixed(encoder("published"))
    rows = clips((100, 90, 80, 70), model.config.input_dim)
    before = model(rows).char_logits
    most = [ROWS - 1]

    class Small(Launch):
        def __call__(self, values: Inputs) -> Results:
            if len(values["features"]) > most[0]:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().__call__(values)

    monkeypatch.setattr(fixed_encoder, "Launch", Small)
    model._launch = None
    with caplog.at_level(logging.WARNING):
        after = model(rows).char_logits
    torch.testing.assert_close(before, after, atol=1e-5, rtol=1e-5)
    assert model.rows == ROWS // 2 and "takes 200 rows at a time in place of 400" in caplog.text
    most[0] = 0
    with pytest.raises(torch.OutOfMemoryError):
        model(rows)


def test_outputs_of_a_launch_are_the_callers_own() -> None:
    launch = Launch(lambda inputs: (inputs["x"], inputs["x"] * 2), {"x": torch.zeros(3)})
    first = launch({"x": in_pinned_memory(torch.ones(3), torch.device("cpu"))})
    launch({"x": torch.full((3,), 5.0)})
    assert [each.tolist() for each in first] == [[1, 1, 1], [2, 2, 2]]


def test_an_fp8_row_is_quantised_alone_and_near_what_it_was() -> None:
    draw = torch.Generator().manual_seed(1)
    x, weight = torch.randn(64, 96, generator=draw), torch.randn(48, 96, generator=draw)
    x[3] *= 1e4
    x[5] = 0
    weight[7] *= 1e-3
    quantised = Fp8Weight.of(weight)
    y = product(x, quantised, torch.ones(48))
    exact = x @ weight.t() + 1
    assert ((y - exact).norm(dim=-1) / exact.norm(dim=-1)).max() < 0.08
    assert torch.equal(fp8_rows(x[3:6])[0].float(), fp8_rows(x)[0][3:6].float())


def test_the_encoder_in_fp8_is_near_the_plain_one() -> None:
    model = encoder("published")
    rows = clips((30, 41, 200), model.config.input_dim)
    exact, rough = fixed(model)(rows), fixed(model, in_fp8=True)(rows)
    change = (rough.hidden - exact.hidden).norm() / exact.hidden.norm()
    assert 0 < change < 0.15
