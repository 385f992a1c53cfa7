"""The encoder stage of a run whose training set is resident: read once, after that the host only names utterances."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from redline.models.nar import NarModel
from redline.train.data.feature_cache import build_feature_cache
from redline.train.loop.checkpointing import STATE
from redline.train.loop.optim import TrainingOptions
from redline.train.run import Run
from redline_recipes.distillation.resident import ListeningTeacher, ResidentObjective, sample_of
from redline_recipes.distillation.stage import fit_maps
from redline_recipes.distillation.whisper import load_whisper
from redline_recipes.tiny.batch_augment import BatchAugment
from redline_recipes.tiny.encoder import EncoderStage
from redline_recipes.tiny.resident import ResidentSource, resident_speech
from redline_recipes.tiny.sections import sections_of

SAMPLE_BATCHES = 8
"""From which the scales of a teacher's states are found."""


def resident_stage(run: Run, model: NarModel, noises: list[Tensor], training: TrainingOptions) -> EncoderStage:
    """The stage of an encoder that learns from a resident training set."""
    sections, device = sections_of(run), run.device
    options, distillation = sections.resident, sections.distillation
    has_teacher = bool(options.teacher)
    speech = resident_speech(run.train_set, options, device, has_teacher, run.say)
    augment = BatchAugment(sections.mel_augment, run.recipe.spec_augment, noises, device)
    source = ResidentSource(
        run.train_set, speech, options, sections.encoder_batches, augment, sections.mel_augment, run.say
    )
    uses_bf16 = training.uses_bf16(device)
    teacher = None
    if has_teacher:
        whisper = load_whisper(Path(options.teacher)).to(device, torch.bfloat16 if uses_bf16 else torch.float32)
        teacher = ListeningTeacher(whisper, options.teacher_layers, sample_of(source.epoch(0), SAMPLE_BATCHES))
    objective = ResidentObjective(
        model.encoder,
        run.tokenizer(),
        sections.encoder_loss,
        model.language_head,
        options.consistency,
        distillation,
        teacher,
    )
    if not (run.out / "encoder" / STATE).exists():
        fit_maps(objective.to(device), source.epoch(0), uses_bf16, run.say)
    if options.dropout:
        for module in model.encoder.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = options.dropout
    dev_view = build_feature_cache(run.dev_set, 0, run.recipe.augment, run.out / "views", rule=run.rule)
    return EncoderStage(objective, source, run.dev_set, dev_view)
