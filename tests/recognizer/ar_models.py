"""AR and Plus models with random weights, and scripts in their place, for tests of the recognizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from redline import load_model
from redline.decoding.generate import GenerateOptions, Generation
from redline.decoding.repetition import RepetitionOptions
from redline.decoding.speculative import SpeculativeOptions
from redline.diarize.embedder import SPEAKER_HEAD, SpeakerEmbedder, save_embedder
from redline.engine.decoder import Decoders
from redline.features import clip_features
from redline.recognizer import ArRecognizer
from redline.recognizer.ar_batch import ArBatch, ArRow, Decoding
from redline.testing import tone
from redline.types import SAMPLE_RATE, Waveform
from tests.builders import tiny_ar_checkpoint
from tests.diarize.networks import hearing_all_bands

NO_LOOPS = RepetitionOptions(max_n=0)


def noise(seconds: float, seed: int) -> Waveform:
    samples = np.random.default_rng(seed).normal(0, 0.1, round(seconds * SAMPLE_RATE)).astype(np.float32)
    return Waveform(samples)


def two_sounds(seconds: float, seed: int) -> Waveform:
    """Noise, then a tone."""
    first = noise(seconds / 2, seed).samples
    return Waveform(np.concatenate((first, 0.3 * np.sin(np.arange(len(first)) / 9))).astype(np.float32))


CLIPS = [noise(1.3, 1), noise(0.31, 2), noise(2.0, 3), tone(0.9)]


def recognizer_of(
    folder: Path, drafts: SpeculativeOptions | None = None, dtype: torch.dtype | None = None, **options: Any
) -> ArRecognizer:
    """A model with loops let pass, because random weights hardly say anything else."""
    recognizer = load_model(folder, dtype=dtype).recognizer
    assert isinstance(recognizer, ArRecognizer)
    own = recognizer.options
    recognizer.options = GenerateOptions(own.eos_id, suppress=own.suppress, **{"loops": NO_LOOPS} | options)
    recognizer.drafts = drafts
    return recognizer


def with_speaker_embedder(folder: Path) -> Path:
    """A Plus checkpoint whose speaker embedder tells noise from tones."""
    checkpoint = tiny_ar_checkpoint(folder, "granite_speech_plus", drafts=True)
    torch.manual_seed(3)
    embedder = hearing_all_bands(SpeakerEmbedder(8))
    with torch.no_grad():  # what all sound has in common is taken away, so that two kinds point to two sides
        halves = embedder.mel(clip_features(two_sounds(4.0, 1), "ar"))[:400].reshape(2, 200, 40)
        states = F.normalize(F.relu(embedder.linear(embedder.lstm(halves)[1][0][-1])), dim=-1)
        embedder.centre.copy_(states.mean(dim=0))
        embedder.out.bias.zero_()
    save_embedder(embedder, checkpoint / SPEAKER_HEAD)
    return checkpoint


def hears(monkeypatch: pytest.MonkeyPatch, *texts: str) -> None:
    """Let the encoder transcribe these texts, row by row, whatever it hears."""

    def transcribe(self: ArBatch, rows: Sequence[ArRow]) -> None:
        for row in rows:
            row.transcript = texts[row.place % len(texts)]

    monkeypatch.setattr(ArBatch, "_transcribe", transcribe)


def says(monkeypatch: pytest.MonkeyPatch, *texts: str) -> list[str]:
    """Let the language model answer these texts in turn; returns what it was asked, as texts grow."""
    asked: list[str] = []
    answers = iter(texts)

    def write(self: Decoders, texts: Sequence[Decoding]) -> None:
        tokenizer = self.recognizer.tokenizer
        for text in texts:
            asked.append(tokenizer.decode(text.prompt))
            ids = tuple(tokenizer.encode(next(answers)))
            text.search.live, text.search.ended = [], [(0.0, Generation(ids, "end", (-0.1,) * len(ids)))]

    monkeypatch.setattr(Decoders, "__call__", write)
    return asked


class Script:
    """A language model that writes one text whatever it hears, and reads drafts and a cache like a real one."""

    def __init__(self, recognizer: ArRecognizer, monkeypatch: pytest.MonkeyPatch, text: str, draft: str = "") -> None:
        self.ids = recognizer.tokenizer.encode(text)
        self.end = recognizer.options.eos_id
        self.size = recognizer.model.config.text.vocab_size
        self.drafted = len(recognizer.tokenizer.encode(draft)) if recognizer.drafts else 0
        lm = recognizer.model.language_model
        monkeypatch.setattr(recognizer.model, "prefill", self.prefill)
        monkeypatch.setattr(lm, "advance", self.advance)
        monkeypatch.setattr(lm, "logits", self.logits)

    def prefill(self, prompts: Sequence[Sequence[int]], audio: Tensor, cache: Any, slots: Tensor) -> Tensor:
        """States [1, L, 1] that are the places in the script."""
        (prompt,) = prompts
        self.start = len(prompt) - self.drafted
        return (torch.arange(len(prompt)) - self.start + 1.0)[None, :, None]

    def logits(self, places: Tensor) -> Tensor:
        at = places[..., 0].long()
        ids = torch.tensor([*self.ids, *[self.end] * 1000])[at.clamp(min=0)]
        return F.one_hot(ids, self.size) * 20.0

    def advance(self, embeddings: Tensor, positions: Tensor, *rest: Any) -> Tensor:
        return (positions - self.start + 1.0)[..., None]
