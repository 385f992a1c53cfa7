"""Who runs beside Redline in a bench: encoder and 2B model of transformers, with random weights."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from redline.engine.bench import TOKENS_PER_S, name_of, random_model, seconds_of
from redline.engine.packed import PackedEncoder
from redline.engine.precision import into_precision, stored
from redline.features import FEATURE_DIM, FRAME_RATE
from redline.models.config import ArConfig, EncoderConfig
from redline.models.conformer import ConformerEncoder

SHAPES = {"2 x 1024": (2, 1024), "16 x 256": (16, 256)}
"""Blocks and width of the encoders that are compared with those of transformers."""
PROMPT = 32
"""Tokens of the published prompt around the audio, about."""


def against_transformers(dtype: torch.dtype, repeats: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Our encoder on the CPU and that of transformers, with the same random weights on the same sound, by turns.

    Both get 8 clips of 15 s. transformers computes in float32; ours also in `dtype`. "difference" is the largest one of
    the last states in float32.
    """
    from transformers import GraniteSpeechEncoderConfig
    from transformers.models.granite_speech.modeling_granite_speech import GraniteSpeechCTCEncoder

    values: dict[str, Any] = {}
    for name, (layers, width) in SHAPES.items():
        say(f"encoder of {name} against transformers")
        shape: dict[str, Any] = {
            "num_layers": layers,
            "hidden_dim": width,
            "num_heads": 8,
            "dim_head": width // 8,
            "output_dim": 348,
        }
        config = EncoderConfig(self_conditioning_layer=layers // 2, bpe_output_dim=None, **shape)
        torch.manual_seed(0)
        build: Any = GraniteSpeechCTCEncoder
        theirs = build(GraniteSpeechEncoderConfig(input_dim=FEATURE_DIM, **shape)).eval()
        plain = ConformerEncoder(config).eval()
        plain.load_state_dict(theirs.state_dict(), strict=False)
        clips = list(torch.randn(8, 15 * FRAME_RATE, FEATURE_DIM))
        sides: dict[str, Callable[[], Any]] = {"transformers": _no_grad(theirs, torch.stack(clips))}
        sides["float32"] = _packed(plain, clips)
        if dtype != torch.float32:
            other = copy.deepcopy(plain).to(stored(dtype))
            into_precision(dtype, other)
            sides[name_of(dtype)] = _packed(other, clips)
        reference, ours = sides["transformers"](), sides["float32"]()
        hidden = getattr(reference, "last_hidden_state", reference)
        times: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(repeats):
            for side, run in sides.items():
                times[side].append(seconds_of(run))
        medians = {side: statistics.median(spent) for side, spent in times.items()}
        values[name] = {
            "transformers_s": round(medians["transformers"], 3),
            "difference": float((ours.hidden - hidden).abs().max()),
            **{f"ratio_{side}": round(medians["transformers"] / medians[side], 2) for side in list(sides)[1:]},
        }
    return values


def transformers_2b(
    clips: int, clip_s: float, repeats: int, say: Callable[[str], None], config: ArConfig | None = None
) -> dict[str, Any]:
    """granite-speech-2b of transformers in bfloat16 with random weights, on noise: a batch of clips, greedy.

    It writes `TOKENS_PER_S` tokens, one after the other, for each second; ours reads as many at once.
    """
    import transformers
    from transformers.initialization import no_init_weights

    config = config or ArConfig()
    say(f"transformers: {config.text.num_hidden_layers} layers that write token after token, bfloat16")
    made = transformers.GraniteSpeechConfig(**config.to_dict())
    with no_init_weights():
        model: Any = random_model(lambda: transformers.GraniteSpeechForConditionalGeneration(made), torch.bfloat16)
    frames = round(clip_s * FRAME_RATE)
    audio = -(-frames // config.window_size) * (config.window_size // config.downsample_rate)
    ids = torch.full((clips, PROMPT + audio), 5)
    ids[:, PROMPT // 2 : PROMPT // 2 + audio] = config.audio_token_index
    count = round(clip_s * TOKENS_PER_S)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "input_features": torch.randn(clips, frames, config.encoder.input_dim).bfloat16(),
        "input_features_mask": torch.ones(clips, audio, dtype=torch.bool),
    }
    counts = {"min_new_tokens": count, "max_new_tokens": count, "do_sample": False, "pad_token_id": 0}
    run = _no_grad(lambda: model.generate(**inputs, **counts))
    written = run().shape[1] - ids.shape[1]
    spent = statistics.median(seconds_of(run) for _ in range(repeats))
    return {"rtfx": round(clips * clip_s / spent, 2), "tokens": written, "dtype": "bfloat16"}


def _packed(encoder: ConformerEncoder, clips: Sequence[Tensor]) -> Callable[[], Any]:
    packed = PackedEncoder(encoder)
    return lambda: packed(clips)


def _no_grad(module: Callable[..., Any], *inputs: Tensor) -> Callable[[], Any]:
    @torch.inference_mode()
    def run() -> Any:
        return module(*inputs)

    return run
