"""Checkpoints of random weights that load in milliseconds, and recognition of clips without a session."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Any

import tokenizers
import torch

from redline.checkpoints import ar, nar
from redline.errors import RedlineError
from redline.models.ar import ArModel
from redline.models.config import ArConfig, ArKind, EncoderConfig, LMConfig, NarConfig, ProjectorConfig, QFormerConfig
from redline.models.draft_head import DraftHead
from redline.models.nar import NarModel
from redline.types import Hypothesis, Recognizer, Request, Task, Waveform

CONTROL = ("<|end_of_text|>", "<|audio|>", "<|start_of_role|>", "<|end_of_role|>")


def recognize_clips(recognizer: Recognizer, clips: Sequence[Waveform], task: Task = Task()) -> list[Hypothesis]:  # noqa: B008
    """Hypotheses of clips that share a task; raises the first error among the answers."""
    hypotheses = []
    for answer in recognizer.recognize([Request(clip, task, id) for id, clip in enumerate(clips)]):
        if isinstance(answer, RedlineError):
            raise answer
        hypotheses.append(answer)
    return hypotheses


def tiny_config(vocab_size: int = 54) -> NarConfig:
    """A NAR configuration small enough to run in milliseconds with random weights."""
    return NarConfig(
        encoder=EncoderConfig(
            num_layers=4,
            hidden_dim=32,
            num_heads=2,
            dim_head=16,
            output_dim=30,
            context_size=20,
            max_pos_emb=32,
            conv_kernel_size=7,
            self_conditioning_layer=2,
            bpe_output_dim=vocab_size,
            blank_token_id=0,
        ),
        projector=ProjectorConfig(encoder_dim=32, llm_dim=32, num_encoder_layers=2, hidden_size=32, num_heads=2),
        text=LMConfig(
            vocab_size=vocab_size,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            pad_token_id=0,
            eos_token_id=0,
            bos_token_id=0,
        ),
        encoder_layer_indices=(2, -1),
        blank_token_id=0,
        languages=("en",),
    )


def tiny_checkpoint(folder: str | Path, seed: int = 0) -> Path:
    """Write a checkpoint of `tiny_config` with random weights and a token per letter; it babbles, but it loads."""
    core = letter_tokenizer(CONTROL[:1])
    return _save(folder, core, seed, lambda: NarModel(tiny_config(core.get_vocab_size())), nar.save_nar)


def _save(folder: str | Path, core: Any, seed: int, build: Callable[[], Any], save: Callable[..., Path]) -> Path:
    """Write a model of random weights whose language model hardly repeats what it is given, and its tokenizer."""
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as temporary:
        torch.manual_seed(seed)
        model = build().eval()
        with torch.no_grad():  # fresh layers hardly look at the audio
            for weight in model.language_model.model.layers.parameters():
                weight.mul_(12 if weight.dim() == 2 else 1)
        core.save(str(Path(temporary) / "tokenizer.json"))
        return save(folder, model, Path(temporary) / "tokenizer.json")


def letter_tokenizer(control: Sequence[str], others: str = "") -> Any:
    """A tokenizer with a token per letter, alone and behind a space, and one for each of some other characters."""
    space = "Ġ"  # the byte-level alphabet writes a space as Ġ
    tokens = [*control, space, *ascii_lowercase, *(space + letter for letter in ascii_lowercase), *others]
    core = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab={token: id for id, token in enumerate(tokens)}, merges=[(space, letter) for letter in ascii_lowercase]
        )
    )
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    core.add_special_tokens(list(control))
    return core


def tiny_ar_config(kind: ArKind = "granite_speech", vocab_size: int = 101) -> ArConfig:
    """An AR or Plus configuration small enough to run in milliseconds with random weights."""
    exports = (1,) if kind == "granite_speech_plus" else ()
    nar = tiny_config(vocab_size)
    return ArConfig(
        kind=kind,
        encoder=replace(nar.encoder, bpe_output_dim=None, pred_dropout=0.0),
        projector=QFormerConfig(
            hidden_size=24, num_attention_heads=2, intermediate_size=48, encoder_hidden_size=32 * (len(exports) + 1)
        ),
        text=replace(nar.text, max_position_embeddings=1024),
        export_layers=exports,
        audio_token_index=1,
        languages=("en", "de"),
    )


def tiny_ar_checkpoint(
    folder: str | Path, kind: ArKind = "granite_speech", seed: int = 0, drafts: bool = False
) -> Path:
    """Write an AR or Plus checkpoint with random weights and a token per letter; it babbles, but it loads.

    With `drafts` it has the extra head by which the encoder writes a draft.
    """
    core = letter_tokenizer(CONTROL, digits + ascii_uppercase + ":.,[]_?'")

    def build() -> ArModel:
        config = tiny_ar_config(kind, core.get_vocab_size())
        model = ArModel(config)
        if drafts:
            rows, encoder = config.text.vocab_size, config.encoder
            head = DraftHead(encoder.hidden_dim, rows, blank=rows - 1, window=encoder.bpe_pooling_window)
            head.bias.data[: 1 + len(CONTROL)] = -9.0  # no control token, no lone space
            head.bias.data[head.blank] = -9.0
            model.draft_head = head
        return model

    return _save(folder, core, seed, build, ar.save_ar)
