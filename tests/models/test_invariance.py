"""Alone == in a batch, to the bit: every module, every precision, whatever the neighbours hold."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import redline
from redline import audio, features, load_model
from redline.decoding.slots import slot_batch
from redline.errors import RedlineError
from redline.models import invariant
from redline.models.ar import ArModel
from redline.models.ctc import CtcModel
from redline.models.nar import NarModel
from redline.types import SAMPLE_RATE, Task, Waveform
from tests.builders import recognize_clips, tiny_ar_checkpoint, tiny_ar_config, tiny_config
from tests.model_configs import tiny_ctc_config
from tests.models.plain_steps import Reader

PACKAGE = Path(redline.__file__).parent
PRECISIONS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
PIECES_S = ((0.0, 2.37), (2.4, 0.5), (3.0, 4.81), (1.0, 0.04))
"""Where clips of the recording begin, and how long they are."""


@pytest.fixture(scope="module")
def clips() -> list[Waveform]:
    whole = audio.load(PACKAGE / "assets" / "demo.flac").samples
    return [Waveform(whole[round(a * SAMPLE_RATE) :][: round(b * SAMPLE_RATE)]) for a, b in PIECES_S]


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


# Where layers may come from

BARRED = {
    "Linear": "invariant.Linear",
    "linear": "invariant.linear",
    "Bilinear": "invariant.linear",
    "MultiheadAttention": "invariant.attend",
    "scaled_dot_product_attention": "invariant.attend",
    **dict.fromkeys(("matmul", "bmm", "baddbmm", "einsum"), "invariant.matmul"),
    **dict.fromkeys(("silu", "SiLU", "sigmoid", "Sigmoid", "logsigmoid", "softplus"), "invariant.silu"),
    **dict.fromkeys(("gelu", "GELU"), "invariant.gelu"),
    **dict.fromkeys(("glu", "GLU"), "invariant.glu"),
}
TORCH = {"torch", "nn", "F", "functional", "aten"}


def barred(source: str) -> list[str]:
    """Layers and functions of PyTorch in a file whose bits depend on the batch."""
    uses = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in BARRED:
            owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
            if owner in TORCH:
                uses.append(f"line {node.lineno}: {owner}.{node.attr}, use {BARRED[node.attr]}")
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
            uses += [f"line {node.lineno}: {alias.name}, from torch" for alias in node.names if alias.name in BARRED]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            uses.append(f"line {node.lineno}: @, use invariant.matmul")
        if isinstance(node, ast.Attribute) and node.attr == "sigmoid" and not isinstance(node.value, ast.Name):
            uses.append(f"line {node.lineno}: .sigmoid(), use invariant.silu or glu")
    return uses


@pytest.mark.parametrize("path", sorted((PACKAGE / "models").glob("*.py")), ids=lambda path: path.name)
def test_no_layer_passes_the_invariant_ones_by(path: Path) -> None:
    if path.name != "invariant.py":
        assert not barred(path.read_text(encoding="utf-8")), path.name


@pytest.mark.parametrize(
    "source",
    ["nn.Linear(3, 4)", "torch.nn.functional.linear(x, w)", "from torch.nn import Linear", "F.glu(x)", "x @ y.mT"],
)
def test_a_layer_that_passes_them_by_is_found(source: str) -> None:
    assert barred(source)


@pytest.mark.parametrize("name", ["tiny", "tiny-multi", "tiny-plus"])
def test_every_linear_map_of_a_model_is_invariant(name: str) -> None:
    recognizer: Any = load_model(name, engine="plain").recognizer
    maps = [module for module in recognizer.model.modules() if isinstance(module, nn.Linear)]
    assert maps and all(isinstance(module, invariant.Linear) for module in maps)


# The parts


@PRECISIONS
@pytest.mark.parametrize("width", [32, 48, 200, 512])
@torch.inference_mode()
def test_a_row_is_mapped_alone_as_among_any_number(width: int, dtype: torch.dtype, threads: int) -> None:
    generator = torch.Generator().manual_seed(width)
    x, weight, bias = (torch.randn(*size, generator=generator).to(dtype) for size in ((700, width), (96, width), (96,)))
    together = invariant.linear(x, weight, bias)
    for count in (*range(1, 14), 17, 699):
        some = x[5 : 5 + count].view(1, -1, width)
        assert torch.equal(invariant.linear(some, weight, bias)[0], together[5 : 5 + count]), count
    strided = x.view(7, 100, width)[:, :37]  # not contiguous, as a slice of a padded batch is
    assert torch.equal(invariant.linear(strided, weight, bias), together.view(7, 100, -1)[:, :37])


@PRECISIONS
@torch.inference_mode()
def test_a_product_is_computed_alone_as_among_others(dtype: torch.dtype, threads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(6, 8, *size, generator=generator).to(dtype) for size in ((100, 64), (64, 100)))
    together = invariant.matmul(a, b)
    for count in range(1, 6):
        assert torch.equal(invariant.matmul(a[1 : 1 + count], b[1 : 1 + count]), together[1 : 1 + count])


@PRECISIONS
@pytest.mark.parametrize("function", [invariant.silu, invariant.gelu, invariant.glu])
@torch.inference_mode()
def test_an_element_does_not_depend_on_where_it_stands(
    function: Callable[[Tensor], Tensor], dtype: torch.dtype, threads: int
) -> None:
    x = 3 * torch.randn(1501, 90, generator=torch.Generator().manual_seed(0)).to(dtype)
    together = function(x)
    for start, count in ((0, 1), (3, 2), (700, 41), (1500, 1), (2, 1000)):
        assert torch.equal(function(x[start : start + count].clone()), together[start : start + count])


@PRECISIONS
@torch.inference_mode()
def test_a_query_gives_the_same_whatever_else_is_there(dtype: torch.dtype, threads: int) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(rows: int, length: int, heads: int) -> Tensor:
        return torch.randn(rows, length, heads, 16, generator=generator).to(dtype).transpose(1, 2)

    for length, others in ((1, 30), (15, 500), (191, 20), (260, 300)):
        q, k, v = draw(3, length + others, 4), draw(3, length + others, 2), draw(3, length + others, 2)
        places = torch.arange(length + others)
        mask = (places <= places[:, None])[None, None]  # causal, as long as the longest
        together = invariant.attend(q, k, v, mask, 0.2, grouped=True)[1, :, :length]
        own = (part[1:2, :, :length].clone() for part in (q, k, v))
        alone = invariant.attend(*own, mask[:, :, :length, :length], 0.2, grouped=True)[0]
        assert torch.equal(together, alone), (length, others)
        last = invariant.attend(
            q[1:2, :, length - 1 : length], k[1:2], v[1:2], mask[:, :, length - 1 : length], 0.2, grouped=True
        )
        assert torch.equal(last[0, :, 0], alone[:, -1]), "read as one token"


@PRECISIONS
@torch.inference_mode()
def test_a_window_is_read_alone_as_among_others(dtype: torch.dtype, threads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(9, 2, size, 16, generator=generator).to(dtype) for size in (3, 15, 15))
    together = invariant.attend(q, k, v)
    for window in range(9):
        assert torch.equal(invariant.attend(*(part[window : window + 1] for part in (q, k, v)))[0], together[window])


# The models


def tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if dataclasses.is_dataclass(output):
        output = list(vars(output).values())
    return [tensor for part in output for tensor in tensors(part)] if isinstance(output, (list, tuple)) else []


def record(model: nn.Module, call: Callable[[], Any]) -> list[tuple[str, list[Tensor]]]:
    """What every module gave, in the order of the calls."""
    seen: list[tuple[str, list[Tensor]]] = []
    hooks = [
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: seen.append(
                (name, [tensor.clone() for tensor in tensors(output)])
            )
        )
        for name, module in model.named_modules()
    ]
    with torch.inference_mode():
        call()
    for hook in hooks:
        hook.remove()
    return seen


def of_row(batch: Tensor, row: int, rows: int, alone: Tensor) -> Tensor | None:
    """What a tensor of a batch holds of one clip, cut to the shape of its own; windows may be stacked as rows."""
    if batch.shape[0] % rows:
        return None
    own = batch.view(rows, batch.shape[0] // rows, *batch.shape[1:])[row]
    return own[tuple(slice(0, size) for size in alone.shape)]


def check(
    model: nn.Module, clips: Sequence[Waveform], rule: features.Rule, call: Callable[[Tensor, Tensor], Any]
) -> int:
    """Compare every module for each clip: alone, in a list, shuffled, with a twin, among strangers -> how often."""
    dtype = next(model.parameters()).dtype
    rows = [features.clip_features(clip, rule).to(dtype) for clip in clips]
    alone = [record(model, lambda row=row: call(row[None], torch.tensor([len(row)]))) for row in rows]  # type: ignore[misc]
    nan, huge = torch.full_like(rows[0], torch.nan), torch.full_like(rows[1], 1e30)
    scenes: list[tuple[list[Tensor], list[int | None], float]] = [
        (rows, [*range(len(rows))], 0.0),
        (rows[::-1], [*range(len(rows))][::-1], torch.nan),
        ([rows[0], rows[0]], [0, 0], 1e30),
        ([nan, rows[1], huge, rows[-1]], [None, 1, None, len(rows) - 1], torch.nan),
    ]
    compared = 0
    for scene, who, filling in scenes:
        x = nn.utils.rnn.pad_sequence(scene, batch_first=True, padding_value=filling)
        x = torch.nn.functional.pad(x, (0, 0, 0, 7), value=filling)
        together = record(model, lambda x=x, scene=scene: call(x, torch.tensor([len(row) for row in scene])))  # type: ignore[misc]
        for row, number in enumerate(who):
            if number is None:
                continue
            assert [name for name, _ in together] == [name for name, _ in alone[number]]
            for (name, batch), (_, single) in zip(together, alone[number], strict=True):
                for theirs, own in zip(batch, single, strict=True):
                    got = of_row(theirs, row, len(scene), own)
                    if got is not None:
                        assert torch.equal(got, own), f"{name}, clip {number} in a batch of {len(scene)}"
                        compared += 1
    return compared


class Editing(nn.Module):
    """What a recognizer asks of a NAR model."""

    def __init__(self, model: NarModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, lengths: Tensor) -> list[Tensor]:
        encoded = self.model.encode(x, lengths)
        drafted, _ = self.model.draft_head(encoded)
        audio, counts = self.model.embed_audio(encoded.exports, encoded.lengths)
        # As many tokens as a clip has embeddings, so that drafts have different lengths, too.
        slots, sizes = slot_batch([[3 + at % 40 for at in range(count)] for count in counts.tolist()], 0)
        hidden = self.model.read(audio, counts, slots, sizes)
        scores = self.model.score_slots(hidden, slots)
        return [drafted, hidden, scores.log_probs, scores.other_ids.double(), scores.other_log_probs]


@PRECISIONS
@pytest.mark.parametrize("name", ["tiny", "random"])
def test_every_module_of_an_editor_gives_the_same_bits_alone_as_in_a_batch(
    name: str, dtype: torch.dtype, clips: list[Waveform]
) -> None:
    if name == "random":
        torch.manual_seed(0)
        model = NarModel(tiny_config()).eval().to(dtype)
    else:
        model = load_model(name, dtype=dtype, engine="plain").recognizer.model  # type: ignore[attr-defined]
    editing = Editing(model)
    assert check(editing, clips, "nar", editing) > 1000


@PRECISIONS
@pytest.mark.parametrize("name", ["tiny-plus", "granite_speech", "granite_speech_plus"])
def test_every_module_of_a_model_that_answers_gives_the_same_bits_alone_as_in_a_batch(
    name: Any, dtype: torch.dtype, clips: list[Waveform]
) -> None:
    if name == "tiny-plus":
        model = load_model(name, dtype=dtype, engine="plain").recognizer.model  # type: ignore[attr-defined]
    else:
        torch.manual_seed(0)
        model = ArModel(tiny_ar_config(name)).eval().to(dtype)
    token = model.config.audio_token_index

    def call(x: Tensor, lengths: Tensor) -> None:
        encoded = model.encode(x, lengths)
        audio, counts = model.embed_audio(encoded)
        if model.draft_head is not None:
            model.draft_head(encoded)
        embeddings, sizes = model.embed([[5, *[token] * count, 6, 7] for count in counts.tolist()], audio)
        hidden = model.language_model.hidden(embeddings, sizes)
        model.language_model.logits(hidden)

    assert check(model, clips, "ar", call) > 500


@PRECISIONS
def test_every_module_of_a_ctc_model_gives_the_same_bits_alone_as_in_a_batch(
    dtype: torch.dtype, clips: list[Waveform]
) -> None:
    torch.manual_seed(0)
    model = CtcModel(tiny_ctc_config()).eval().to(dtype)
    assert check(model, clips, "ctc", model) > 500


@PRECISIONS
@torch.inference_mode()
def test_a_token_read_alone_is_as_in_a_prefill(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = ArModel(tiny_ar_config()).eval().to(dtype)
    ids = torch.randint(8, 90, (3, 60))
    rows = ids.tolist()
    nothing = torch.zeros(3, 1, model.config.text.hidden_size, dtype=dtype)
    whole = model.language_model.logits(Reader(model.language_model, 3, 60).prefill(model, rows, nothing))
    for row in range(3):
        reader = Reader(model.language_model, 1, 60)
        hidden = reader.prefill(model, [rows[row][:20]], nothing[:1])
        steps = [model.language_model.logits(hidden[:, -1])]
        steps += [reader.step([rows[row][at]]) for at in range(20, 60)]
        assert torch.equal(torch.cat(steps), whole[row, 19:])


@PRECISIONS
@torch.inference_mode()
def test_rows_that_leave_change_no_bit_of_those_that_stay(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = ArModel(tiny_ar_config()).eval().to(dtype)
    ids = torch.randint(8, 90, (4, 30)).tolist()
    lengths = [12, 9, 15, 3]
    nothing = torch.zeros(4, 1, model.config.text.hidden_size, dtype=dtype)
    together = Reader(model.language_model, 4, 700)
    prompts = [row[:length] for row, length in zip(ids, lengths, strict=True)]
    hidden = together.prefill(model, prompts, nothing)
    alone = [Reader(model.language_model, 1, size) for size in (40, 600, 512, 90)]
    for row, length in enumerate(lengths):
        own = alone[row].prefill(model, [prompts[row]], nothing[:1])
        assert torch.equal(hidden[row, :length], own[0])
    for at, left in ((15, 4), (16, 3), (17, 3), (18, 2), (19, 1)):
        logits = together.step([ids[row][at] for row in range(left)])
        assert torch.equal(logits, torch.cat([alone[row].step([ids[row][at]]) for row in range(left)]))


# What comes out


@pytest.mark.parametrize(
    "options",
    [
        {"drafts": "none"},
        {"drafts": "exact"},
        {"drafts": "none", "beams": 3},
        {"drafts": "none", "temperature": 0.8, "seed": 5},
    ],
    ids=["greedy", "drafts", "beams", "drawn"],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_answer_does_not_depend_on_its_neighbours(
    options: Any, dtype: str, clips: list[Waveform], tmp_path: Path
) -> None:
    folder = tiny_ar_checkpoint(tmp_path / "model", "granite_speech_plus", drafts=True)
    recognizer = load_model(folder, dtype=dtype, **options).recognizer
    task = Task(words=options == {"drafts": "none"})
    alone = [recognize_clips(recognizer, [clip], task)[0] for clip in clips]
    assert len({hypothesis.text for hypothesis in alone}) > 2
    assert recognize_clips(recognizer, clips, task) == alone
    assert recognize_clips(recognizer, clips[::-1], task) == alone[::-1]
    assert recognize_clips(recognizer, [clips[2], clips[2], clips[0]], task) == [alone[2], alone[2], alone[0]]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_texts_confidences_and_word_times_do_not_depend_on_the_neighbours(dtype: str, clips: list[Waveform]) -> None:
    recognizer = load_model("tiny", dtype=dtype).recognizer
    task = Task(words=True)
    alone = [recognize_clips(recognizer, [clip], task)[0] for clip in clips]
    assert recognize_clips(recognizer, clips, task) == alone
    assert recognize_clips(recognizer, clips[::-1], task) == alone[::-1]


def test_a_clip_of_one_frame_has_its_times_alone_as_in_a_batch(clips: list[Waveform]) -> None:
    recognizer = load_model("tiny").recognizer
    blip = Waveform(np.tile(clips[0].samples[4000:4320], 1))
    (alone,) = recognize_clips(recognizer, [blip], Task(words=True))
    assert recognize_clips(recognizer, [clips[0], blip], Task(words=True))[1] == alone


def test_a_precision_in_which_bits_depend_on_the_batch_is_refused() -> None:
    with pytest.raises(RedlineError, match="'float16'; allowed on cpu are float32, bfloat16"):
        load_model("tiny", device="cpu", dtype="float16")
