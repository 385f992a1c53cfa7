"""The objective of answers, and fine-tuning by it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import tokenizers
import torch

from redline import load_model
from redline.checkpoints import ar, nar
from redline.manifest import Utterance, read_manifest
from redline.models.ar import ArModel
from redline.models.config import ArKind
from redline.prompts import PromptTemplate
from redline.tokenizer import Tokenizer
from redline.train.data.tasks import Asker, TaskOptions
from redline.train.finetune import ArTuning, FinetuneOptions, finetune
from redline.train.objectives.ar import AnswerOptions, Questions
from redline_recipes.tiny.answers import CachedAnswerBatch, CachedAnswerObjective
from redline_recipes.tiny.ar import TEMPLATE
from redline_recipes.tiny.editor import AuxiliaryOptions
from tests.ar_corpus import small_ar_recipe
from tests.builders import tiny_ar_checkpoint


def test_answers_are_learned(base: Path, tmp_path: Path) -> None:
    """Three clips that sound different, three answers: after some steps each clip gets its own."""
    core = tokenizers.Tokenizer.from_file(str(base / "tokenizer.json"))
    core.add_special_tokens(["<|start_of_role|>", "<|end_of_role|>", "<|audio|>"])
    core.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_file(tmp_path / "tokenizer.json")
    torch.manual_seed(1)
    model = ArModel(small_ar_recipe(base).config(nar.load_nar(base)[0].encoder.config, tokenizer))
    texts = ("the zebra", "a house", "sat")
    asker = Asker(texts, TaskOptions())
    questions = Questions((), asker, PromptTemplate.from_source(TEMPLATE, "granite_speech_plus"), tokenizer)
    asked = [asker.ask("transcribe", Utterance("", Path(), text, 0.0), random.Random(0)) for text in texts]
    batch = CachedAnswerBatch(
        torch.randn(3, 12, 32), torch.tensor([12, 9, 6]), *questions.ids(asked), texts, ("transcribe",) * 3
    )
    objective = CachedAnswerObjective(model, tokenizer, AnswerOptions(), AuxiliaryOptions(audio_ctc_weight=0.3)).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.03)
    frozen = [tensor.clone() for tensor in model.encoder.state_dict().values()]
    losses: list[float] = []
    while not losses or losses[-1] > losses[0] / 200:
        assert len(losses) < 400
        loss, parts = objective(batch)
        losses.append(float(parts["answer"]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert objective.eval().answer(batch) == list(texts)
    assert all(torch.equal(*pair) for pair in zip(frozen, model.encoder.state_dict().values(), strict=True))


@pytest.mark.parametrize(("kind", "rank", "encoder"), [("granite_speech", 2, False), ("granite_speech_plus", 0, True)])
def test_a_model_that_answers_can_be_fine_tuned(
    tmp_path: Path, manifest: Path, kind: ArKind, rank: int, encoder: bool
) -> None:
    began = tiny_ar_checkpoint(tmp_path / "began", kind)
    assert ArTuning.rule == "ar"
    options = FinetuneOptions(steps=3, lr=0.003, lora_rank=rank, train_encoder=encoder, blend=1.0, text="spoken")
    lines: list[str] = []
    tuned = finetune(began, manifest, tmp_path / "run", options, lines.append)
    assert any("loss" in line for line in lines)
    old, new = (ar.load_ar(folder).model.state_dict() for folder in (began, tuned))
    changed = {name.split(".")[0] for name, tensor in new.items() if not torch.equal(tensor, old[name])}
    assert changed == {"projector", "language_model", *(["encoder"] if encoder else [])}
    assert old.keys() == new.keys()
    assert load_model(tuned).transcribe(read_manifest(manifest)[0].audio, vad=False).duration > 0
