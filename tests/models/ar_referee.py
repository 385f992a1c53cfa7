"""Random AR and Plus models of `transformers`, and what they are compared on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from redline.models.ar import ArModel
from tests.models.plain_steps import Reader

FRAMES = (1, 14, 15, 41, 67)
"""Encoder frames of the clips: one, one less than a window, a window, more than two blocks of 20, and three."""
AUDIO, STEPS = 95, 40
KINDS = ("granite_speech", "granite_speech_plus")


def referee(kind: str, **changes: Any) -> Any:
    """A small random model of `transformers`."""
    import transformers

    encoder: dict[str, Any] = {
        "input_dim": 160,
        "num_layers": 4,
        "hidden_dim": 32,
        "num_heads": 2,
        "dim_head": 16,
        "output_dim": 30,
        "context_size": 20,
        "max_pos_emb": 32,
        "conv_kernel_size": 7,
    }
    plus = kind == "granite_speech_plus"
    if plus:
        encoder["cat_hidden_layers"] = changes.pop("cat_hidden_layers", [1])
    text = {
        "model_type": "granite",
        "vocab_size": 96,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "attention_multiplier": 0.3,
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.22,
        "logits_scaling": 8.0,
        "rms_norm_eps": 1e-5,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 1,
        "tie_word_embeddings": plus,
        **changes.pop("text", {}),
    }
    projector = {
        "model_type": "blip_2_qformer",
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "encoder_hidden_size": 32 * (len(encoder.get("cat_hidden_layers", ())) + 1),
        "cross_attention_frequency": changes.pop("cross_attention_frequency", 1),
    }
    names = {
        "granite_speech": ("GraniteSpeechConfig", "GraniteSpeechForConditionalGeneration"),
        "granite_speech_plus": ("GraniteSpeechPlusConfig", "GraniteSpeechPlusForConditionalGeneration"),
    }
    config_name, model_name = names[kind]
    config = getattr(transformers, config_name)(
        encoder_config=encoder,
        projector_config=projector,
        text_config=text,
        audio_token_index=AUDIO,
        has_lora_adapter=False,
        tie_word_embeddings=plus,
        initializer_range=0.2,
        **changes,
    )
    torch.manual_seed(3)
    model = getattr(transformers, model_name)(config).eval()
    with torch.no_grad():  # a fresh model says the same whatever it hears
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3.0)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return model


def clips() -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(frames, 160, generator=generator) for frames in FRAMES]


def prompt(tokens: int, clip: int) -> list[int]:
    return [7, 8 + clip, *[AUDIO] * tokens, 20, 21, *range(30, 30 + clip)]


def prompts(model: ArModel) -> list[list[int]]:
    return [prompt(model.projector.num_tokens(frames), clip) for clip, frames in enumerate(FRAMES)]


@torch.no_grad()
def generate(model: ArModel, features: Tensor, lengths: Tensor, asked: list[list[int]]) -> list[list[int]]:
    """Forty greedy tokens of every row, the end of text like any other; the placeholder is never one."""
    audio, _ = model.embed_audio(model.encode(features, lengths))
    reader = Reader(model.language_model, len(asked), max(map(len, asked)) + STEPS)
    hidden = reader.prefill(model, asked, audio)
    logits = model.language_model.logits(hidden[range(len(asked)), [len(prompt) - 1 for prompt in asked]])
    ids = [logits[:, :AUDIO].argmax(dim=-1).tolist()]
    while len(ids) < STEPS:
        ids.append(reader.step(ids[-1])[:, :AUDIO].argmax(dim=-1).tolist())
    return [list(row) for row in zip(*ids, strict=True)]
