"""Laws 1 and 2 on a GPU: alone == among others to the bit, fast == plain, in every precision and engine."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from redline.engine.fixed_editor import FixedEditor
from redline.engine.fixed_encoder import FixedEncoder
from redline.engine.launch import LaunchOptions, compiled
from redline.features import pad
from redline.models.config import EncoderConfig, LMConfig, NarConfig, ProjectorConfig
from redline.models.nar import NarModel
from tests.engine.editor_clips import FRAMES, Clips

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
LENGTHS = (1, 2, 3, 7, 30, 199, 200, 201, 333, 400, 777, 1000)
CUDA = torch.device("cuda")
VARIANTS = {
    "plain launch": LaunchOptions(is_captured=False),
    "graph": LaunchOptions(),
    "flex": LaunchOptions(attention="flex", compiler=compiled),
    "compiled": LaunchOptions(compiler=compiled),
    "fp8": LaunchOptions(in_fp8=True),
}
TOLERANCES = {torch.float32: 2e-3, torch.bfloat16: 0.15, torch.float16: 0.03}


def config() -> NarConfig:
    return NarConfig(
        encoder=EncoderConfig(num_layers=3, hidden_dim=256, num_heads=4, dim_head=64, output_dim=48, context_size=200,
                              max_pos_emb=256, self_conditioning_layer=2, bpe_output_dim=96, blank_token_id=0),
        projector=ProjectorConfig(encoder_dim=256, llm_dim=256, num_encoder_layers=2, hidden_size=256, num_heads=4,
                                  num_layers=1),
        text=LMConfig(vocab_size=96, hidden_size=256, intermediate_size=512, num_hidden_layers=2,
                      num_attention_heads=4, num_key_value_heads=2, head_dim=64, pad_token_id=0, eos_token_id=0,
                      bos_token_id=0),
        encoder_layer_indices=(1, -1),
        blank_token_id=0,
    )  # fmt: skip


def network(dtype: torch.dtype) -> NarModel:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = NarModel(config()).eval()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2.0)
    return model.to(dtype)


def clips(dtype: torch.dtype) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(length, 160, generator=draw).to(CUDA, dtype) for length in LENGTHS]


def variant(name: str, dtype: torch.dtype, rows: int) -> LaunchOptions:
    if name == "fp8" and (dtype != torch.bfloat16 or torch.cuda.get_device_capability() < (8, 9)):
        pytest.skip("fp8 goes with bfloat16, from capability 8.9 on")
    return replace(VARIANTS[name], encoder_rows=rows, editor_rows=rows)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", VARIANTS)
@torch.inference_mode()
def test_the_encoder_of_a_gpu_is_the_plain_one_and_alone_as_among_others(name: str, dtype: torch.dtype) -> None:
    options, rows = variant(name, dtype, 2048), clips(dtype)
    reference = network(torch.float32).encoder(*pad([row.float().cpu() for row in rows]), (1, -1))
    fast = FixedEncoder(network(dtype).to(CUDA).encoder, (1, -1), options)
    together = fast(rows)
    for number, length in enumerate(LENGTHS):
        alone = fast([rows[number]])
        assert torch.equal(alone.hidden[0, :length], together.hidden[number, :length]), f"{length} frames"
        assert torch.equal(alone.char_logits[0, :length], together.char_logits[number, :length]), f"{length} frames"
        ours, theirs = together.hidden[number, :length].float().cpu(), reference.hidden[number, :length]
        distance = (ours - theirs).square().mean().sqrt() / theirs.square().mean().sqrt()
        assert distance < (0.3 if name == "fp8" else TOLERANCES[dtype]), f"{length} frames: {float(distance):.4f}"
    order = list(range(len(rows)))
    random.Random(0).shuffle(order)
    shuffled = fast([rows[at] for at in order])
    for place, number in enumerate(order):
        assert torch.equal(shuffled.hidden[place, : LENGTHS[number]], together.hidden[number, : LENGTHS[number]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["plain launch", "graph", "compiled", "fp8"])
def test_the_editor_of_a_gpu_is_the_plain_one_and_alone_as_among_others(name: str, dtype: torch.dtype) -> None:
    options = variant(name, dtype, 2048)
    plain = network(torch.float32)
    own, rows = Clips(plain), list(range(len(FRAMES)))
    reference = own.run(plain, rows)
    fast = FixedEditor(network(dtype).to(CUDA), options)
    there = Clips(plain)
    there.states = [state.to(CUDA, dtype) for state in there.states]
    there.slots = [slots.to(CUDA) for slots in there.slots]
    together = there.run(fast, rows)
    for row in rows:
        for alone, among in zip(there.run(fast, [row])[0], together[row], strict=True):
            assert torch.equal(alone, among), f"{FRAMES[row]} frames"
        for ours, theirs in zip(together[row], reference[row], strict=True):
            if theirs.numel():
                distance = (ours.float().cpu() - theirs).square().mean().sqrt() / theirs.square().mean().sqrt()
                assert distance < (0.4 if name == "fp8" else 2 * TOLERANCES[dtype]), f"{float(distance):.4f}"
