"""The encoder of a run with its teacher."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from redline.errors import ConfigError
from redline.models.conformer import ConformerEncoder, EncoderOutput
from redline.models.nar import NarModel
from redline.train.loop.distributed import Say
from redline.train.objectives.losses import Terms, weighted
from redline.train.run import Run
from redline_recipes.distillation.objective import DistillationObjective, DistillationOptions
from redline_recipes.distillation.teacher import opened_states, teacher_posteriors
from redline_recipes.tiny.encoder import EncoderLossOptions

MAP_LR = 3e-3


class StateObjective(Protocol):
    """An objective whose maps lead from blocks of its encoder to the states of a teacher."""

    encoder: ConformerEncoder
    options: DistillationOptions
    maps: nn.ModuleList

    def encoded(self, batch: Any, /) -> EncoderOutput: ...

    def batch_state_terms(self, out: EncoderOutput, batch: Any, /) -> Terms: ...


def fit_maps(
    objective: StateObjective,
    batches: Iterable[Any],
    bf16: bool,
    say: Say,
) -> None:
    """Let the maps of an encoder's blocks to its teacher's states learn, and nothing else, from `map_steps` batches."""
    steps, encoder = objective.options.map_steps, objective.encoder
    if not steps or not len(objective.maps):
        return
    device = encoder.input_linear.weight.device
    optimizer = torch.optim.AdamW(objective.maps.parameters(), lr=MAP_LR, betas=(0.9, 0.95), weight_decay=0.0)
    was_training, losses = encoder.training, [torch.zeros(())]
    encoder.eval()
    for number, batch in enumerate(islice(batches, steps)):
        for group in optimizer.param_groups:
            group["lr"] = MAP_LR * (1.0 - number / steps)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            with torch.no_grad():
                out = objective.encoded(batch)
            loss, parts = weighted(objective.batch_state_terms(out, batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses = list(parts.values())
    encoder.train(was_training)
    say(f"maps to the teacher's states: {', '.join(f'{float(loss):.3f}' for loss in losses)} not explained")


def distillation_objective(
    run: Run, model: NarModel, options: DistillationOptions, weights: EncoderLossOptions
) -> DistillationObjective:
    """The encoder of a model with its teacher, whose posteriors are computed once and kept in the run's folder.

    Raises `ConfigError` where features are warped in time: their frames would have another's posteriors.
    """
    if run.recipe.spec_augment.time_warp_frames:
        raise ConfigError(
            "[distillation] teacher: frames that are warped have another teacher; set [spec_augment] "
            "time_warp_frames = 0"
        )
    stores = teacher_posteriors(
        options.teacher,
        run.tokenizer_path,
        run.train_set,
        run.views[0][0],
        options.candidates,
        model.config.encoder.blank_token_id,
        run.out / "teacher",
        run.device,
        run.say,
    )
    states = opened_states(Path(options.teacher)) if options.state_blocks else []
    counts = [f"{len(store)} utterances of {name}" for name, store in stores.items()]
    counts += [f"{len(store.frames)} of states {number}" for number, store in enumerate(states, start=1)]
    run.say(f"teacher: {', '.join(counts)}")
    texts = {row.id: row.text for row in run.train_set}
    return DistillationObjective(
        model.encoder, run.tokenizer(), weights, options, stores, texts, model.language_head, states
    )
