"""Small pieces for tests of code that uses Redline: a recognizer without a model, simple sounds, a tiny config."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Any

import numpy as np

from redline.models.config import (
    EncoderConfig,
    LMConfig,
    NarConfig,
    ProjectorConfig,
    QFormerConfig,
    SpeechConfig,
    SpeechKind,
)
from redline.types import SAMPLE_RATE, Hypothesis, Task, Waveform, listed


class FakeRecognizer:
    """A `Recognizer` that hears what a function says, and remembers the batches it was given.

    `hear` takes a clip and gives its text or its `Hypothesis`, or raises; by default the text tells the clip's length.
    """

    def __init__(
        self,
        hear: Callable[[Waveform], str | Hypothesis] = lambda clip: f"{clip.duration:.2f} seconds",
        *,
        name: str = "fake",
        languages: str | Iterable[str] = ("en",),
        max_clip_s: float = 30.0,
    ) -> None:
        self.hear = hear
        self.name = name
        self.languages = listed(languages)
        self.max_clip_s = max_clip_s
        self.batches: list[list[float]] = []
        """The durations of the clips of each call, in seconds."""

    def window_s(self, task: Task) -> float:
        """The same for every task."""
        return self.max_clip_s

    def carries(self, task: Task) -> bool:
        """No clip needs another."""
        return False

    def recognize(self, clips: Sequence[Waveform], task: Task) -> list[Hypothesis]:
        """One hypothesis per clip, in order."""
        self.batches.append([clip.duration for clip in clips])
        heard = [self.hear(clip) for clip in clips]
        return [Hypothesis(one) if isinstance(one, str) else one for one in heard]


def tone(seconds: float, hertz: float = 440.0, level_db: float = -20.0) -> Waveform:
    """A sine wave; `level_db` is its power against full scale."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    amplitude = np.sqrt(2) * 10 ** (level_db / 20)
    return Waveform((amplitude * np.sin(2 * np.pi * hertz * time)).astype(np.float32), "<tone>")


def silence(seconds: float) -> Waveform:
    """Digital silence."""
    return Waveform(np.zeros(round(seconds * SAMPLE_RATE), dtype=np.float32), "<silence>")


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
    import tempfile

    import torch

    from redline.models import checkpoint
    from redline.models.editor import NarEditor

    core = _letters(CONTROL[:1])
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as temporary:
        torch.manual_seed(seed)
        model = NarEditor(tiny_config(core.get_vocab_size())).eval()
        with torch.no_grad():  # fresh layers say so little that the editor would keep every token
            for weight in model.language_model.model.layers.parameters():
                weight.mul_(12 if weight.dim() == 2 else 1)
        core.save(str(Path(temporary) / "tokenizer.json"))
        return checkpoint.save(folder, model, Path(temporary) / "tokenizer.json")


CONTROL = ("<|end_of_text|>", "<|audio|>", "<|start_of_role|>", "<|end_of_role|>")


def _letters(control: Sequence[str], others: str = "") -> Any:
    """A tokenizer with a token per letter, alone and behind a space, and one for each of some other characters."""
    import tokenizers

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


def tiny_speech_config(kind: SpeechKind = "granite_speech", vocab_size: int = 101) -> SpeechConfig:
    """An AR or Plus configuration small enough to run in milliseconds with random weights."""
    exports = (1,) if kind == "granite_speech_plus" else ()
    nar = tiny_config(vocab_size)
    return SpeechConfig(
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


def tiny_speech_checkpoint(
    folder: str | Path, kind: SpeechKind = "granite_speech", seed: int = 0, drafts: bool = False
) -> Path:
    """Write an AR or Plus checkpoint with random weights and a token per letter; it babbles, but it loads.

    With `drafts` it has the extra head by which the encoder writes a draft.
    """
    import tempfile

    import torch

    from redline.models import speech_checkpoint
    from redline.models.speech_lm import DraftHead, SpeechLM

    core = _letters(CONTROL, digits + ascii_uppercase + ":.,[]_?'")
    config = tiny_speech_config(kind, core.get_vocab_size())
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as temporary:
        torch.manual_seed(seed)
        model = SpeechLM(config).eval()
        with torch.no_grad():  # fresh layers hardly look at the audio
            for weight in model.language_model.model.layers.parameters():
                weight.mul_(12 if weight.dim() == 2 else 1)
        if drafts:
            model.draft_head = DraftHead(config)
            model.draft_head.out.bias.data[: 2 + len(CONTROL)] = -9.0  # no blank, no control token, no lone space
        core.save(str(Path(temporary) / "tokenizer.json"))
        return speech_checkpoint.save(folder, model, Path(temporary) / "tokenizer.json")
