"""The encoder of a run with its teacher."""

from __future__ import annotations

from pathlib import Path

from redline.errors import ConfigError
from redline.models.nar import NarModel
from redline.train.run import Run
from redline_recipes.distillation.objective import DistillationObjective, DistillationOptions
from redline_recipes.distillation.teacher import opened_states, teacher_posteriors
from redline_recipes.tiny.encoder import EncoderLossOptions


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
