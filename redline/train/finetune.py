"""Fine-tuning: a checkpoint learns from a manifest and comes back in the layout it came in."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from redline.checkpoints import ar, nar, vocabulary
from redline.checkpoints.ctc import is_ctc
from redline.checkpoints.draft_lm import find_draft_lm
from redline.checkpoints.folder import resolve
from redline.errors import ConfigError, DataError, DivergedError
from redline.features import Rule
from redline.manifest import Utterance, write_manifest
from redline.normalize import letters_of
from redline.prompts import PromptTemplate
from redline.train.data.augment import SpecAugmentOptions
from redline.train.data.batches import BatchSource, SpeechBatchOptions
from redline.train.data.feature_cache import AugmentOptions, FeatureCache, feature_caches, measured
from redline.train.data.rows import training_rows
from redline.train.data.tasks import Asker, TaskOptions
from redline.train.loop.checkpointing import BEST, load_best, make_folder, write_errors
from redline.train.loop.distributed import Say, is_first_process, only_first, training_device, wait_for_all
from redline.train.loop.loop import fit
from redline.train.loop.optim import TrainingOptions, check_ranges
from redline.train.loop.run_record import RUN_RECORD, checkpoint_digest, keep_record, run_record, write_record
from redline.train.loop.stage import TrainingStage
from redline.train.objectives.ar import AnswerObjective, AnswerOptions, AnswerSource, AnswerStage, Questions
from redline.train.objectives.nar import EditOptions, EditorObjective, EditorStage, merge_adapters
from redline.train.run import dtype_of

Rows = list[Utterance]
HELD_OUT = (4, 200)
"""Fewest and most utterances that are held out where the manifest names no dev split."""
UNCERTAIN_POINTS = 5.0
"""Where the error rate on dev is less certain than this, it is reported."""
LARGE = 500_000_000
"""Parameters from which a model learns through adapters (LoRA), its encoder frozen, unless asked otherwise."""


@dataclass(frozen=True)
class FinetuneOptions:
    """How a model learns from new data; None chooses by the size of model and data."""

    passes: float = 20.0  # epochs at most; learning ends earlier when dev WER no longer falls
    steps: int | None = None  # updates, in place of passes
    lr: float = 1e-4
    lora_rank: int | None = None  # of the adapters in the language model; 0 trains all of it
    train_encoder: bool | None = None  # whether the encoder learns too, by its own CTC losses
    blend: float | None = None
    """How far the weights go from where they began to what was learned; 1 is all the way.

    Half way keeps nearly all of what a few minutes teach, and most of what they would make the model forget
    (weight-space ensembles, arXiv 2109.01903).
    """
    batch_s: float = 60.0
    text: Literal["as-is", "spoken"] = "as-is"  # spoken: lower-case words without punctuation
    noise_dir: str | None = None
    rir_dir: str | None = None
    patience: int = 4  # evaluations without a better score after which learning ends
    seed: int = 0
    tensorboard: bool = False  # whether the log is also written for TensorBoard

    def __post_init__(self) -> None:
        if self.text not in ("as-is", "spoken"):
            raise ConfigError(f"text is {self.text!r}; allowed are 'as-is' and 'spoken'")
        check_ranges(self, "passes batch_s lr", 0, above=True)
        check_ranges(self, "blend", 0, 1, above=True)
        check_ranges(self, "lora_rank patience", 0)
        check_ranges(self, "steps", 1)


@dataclass(frozen=True)
class FinetunePlan:
    """The options with every choice made."""

    steps: int
    lr: float
    lora_rank: int
    train_encoder: bool
    blend: float

    @classmethod
    def choose(cls, options: FinetuneOptions, parameters: int, seconds: float) -> FinetunePlan:
        """Choose what the user left open: parameters of the model, seconds of speech to learn from.

        Large models get adapters, of rank 128 as published from ten hours on and less below; small ones learn as a
        whole.
        """
        large, hours = parameters >= LARGE, seconds / 3600
        rank = 0 if not large else 128 if hours >= 10 else 64 if hours >= 1 else 16
        return cls(
            steps=options.steps or max(1, round(options.passes * seconds / options.batch_s)),
            lr=options.lr,
            lora_rank=rank if options.lora_rank is None else options.lora_rank,
            train_encoder=not large if options.train_encoder is None else options.train_encoder,
            blend=options.blend or (0.5 if hours < 1 else 1.0),
        )

    def __str__(self) -> str:
        how = f"adapters of rank {self.lora_rank}" if self.lora_rank else "the whole language model"
        encoder = "the encoder learns too" if self.train_encoder else "the encoder is frozen"
        blend = "" if self.blend == 1 else f"; {self.blend:g} of the way is kept"
        return f"{self.steps} steps at {self.lr:g} through {how}; {encoder}{blend}"


class NarTuning:
    """A NAR model, by the NLE loss, and the encoder's own where it learns too."""

    keep_best = "edited_wer"

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.model, config, _ = nar.load_nar(folder, device=device)
        self.rule: Rule = config.frame_rule
        self.tokenizer = vocabulary.load_tokenizer(folder, config)
        self.draft_lm = find_draft_lm(folder, "own", config.text.vocab_size)

    def objective(self, plan: FinetunePlan) -> EditorObjective:
        options = EditOptions(lora_rank=plan.lora_rank, encoder_weight=float(plan.train_encoder))
        return EditorObjective(self.model, self.tokenizer, options, self.draft_lm)

    def stage(self, objective: EditorObjective, source: BatchSource, dev: Rows, view: FeatureCache) -> TrainingStage:
        return EditorStage(objective, source, dev, view)

    def save(self, target: Path, tokenizer: Path, dtype: torch.dtype) -> None:
        nar.save_nar(target, self.model, tokenizer, self.draft_lm, dtype=dtype, overwrite=True)


class ArTuning:
    """An AR or Plus model, by cross-entropy of its answers; the fields of the manifest tell which are asked for."""

    keep_best = "loss"
    rule: Rule = "ar"

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.checkpoint = folder, ar.load_ar(folder, device=device)
        self.model, self.config = self.checkpoint.model, self.checkpoint.model.config
        self.tokenizer = vocabulary.load_tokenizer(folder, self.config)

    def objective(self, plan: FinetunePlan) -> AnswerObjective:
        options = AnswerOptions(lora_rank=plan.lora_rank, train_encoder=plan.train_encoder)
        return AnswerObjective(self.model, self.tokenizer, options)

    def stage(self, objective: AnswerObjective, source: BatchSource, dev: Rows, view: FeatureCache) -> TrainingStage:
        rows = (*source.utterances, *dev)
        asker = Asker((row.text for row in rows), TaskOptions(tick_s=0.01), self.config.kind)
        template = PromptTemplate.from_folder(self.folder, self.config.kind, self.config.names_language)
        questions = Questions(rows, asker, template, self.tokenizer)
        return AnswerStage(objective, AnswerSource(source, questions), questions, dev, view)

    def save(self, target: Path, tokenizer: Path, dtype: torch.dtype) -> None:
        template = self.folder / "chat_template.jinja"
        text = template.read_text(encoding="utf-8") if template.is_file() else None
        ar.save_ar(
            target,
            self.model,
            tokenizer,
            self.checkpoint.draft_lm,
            self.checkpoint.speaker_embedder,
            trusts_draft=self.checkpoint.trusts_draft,
            chat_template=text,
            dtype=dtype,
            overwrite=True,
        )


def split_rows(rows: Rows) -> tuple[Rows, Rows]:
    """Utterances to train on and to evaluate: the splits train and dev, or a tenth held out by its id.

    Rows of any other named split, such as test, are never trained on.
    """
    train = [row for row in rows if row.split in ("", "train")]
    dev = [row for row in rows if row.split == "dev"]
    if not dev and len(train) > HELD_OUT[0]:
        count = min(max(HELD_OUT[0], len(train) // 10), HELD_OUT[1], len(train) // 2)
        order = sorted(train, key=lambda row: hashlib.sha256(row.id.encode()).digest())
        dev, held = order[:count], {row.id for row in order[:count]}
        train = [row for row in train if row.id not in held]
    if not train or not dev:
        raise DataError(
            f"{len(train)} utterances to learn from and {len(dev)} to watch; at least {HELD_OUT[0] + 1} are needed, "
            'or rows with "split": "train" and "split": "dev"'
        )
    return train, dev


def _read_rows(data: Path, text: str, say: Say) -> tuple[Rows, Rows]:
    """The train and dev rows with the texts that are taught; what is left out is reported."""
    train, dev = split_rows(training_rows(data, letters=letters_of if text == "spoken" else None, say=say))
    if dev[0].split != "dev":
        say(f"no split named dev: {len(dev)} utterances are held out to watch progress")
    words = sum(len(row.text.split()) for row in dev)
    # Half the width of the interval of a share near a half; words of one utterance are not even independent.
    points = 98 / math.sqrt(max(1, words))
    if points > UNCERTAIN_POINTS:
        say(
            f"only {len(dev)} utterances with {words} words are watched: their error rate is known to within about "
            f"{points:.0f} points (95 %), so which weights are best is partly chance; more rows with split dev help"
        )
    return train, dev


def finetune(
    model: str | Path, data: Path, out: Path, options: FinetuneOptions, say: Say, device: str | None = None
) -> Path:
    """Teach a model the utterances of a manifest; returns the folder of the new checkpoint, `out/model`.

    `out/dev.jsonl` are the rows by which its best weights are known.

    A NAR model learns by the NLE loss, an AR or Plus model by its answers to the tasks of the manifest. An interrupted
    run goes on from `out`; one that is finished trains no more. Raises `DataError` for data that cannot be used or a
    disk that is full, `ConfigError` for options, also where those of the run in `out` were others, and `DivergedError`
    after the best weights were written all the same.
    """
    say, place, folder = only_first(say), training_device(device), resolve(model)
    if is_ctc(folder):
        raise ConfigError(f"{model} is a CTC model; those that can be fine-tuned are NAR, AR and Plus models")
    train, dev = _read_rows(data, options.text, say)
    make_folder(out)
    settings = asdict(options) | {"model_sha256": checkpoint_digest(folder)}
    record = run_record("finetune", str(model), settings, {"train": train, "dev": dev})
    if is_first_process():
        keep_record(out / "run.json", record, free=("passes", "steps", "tensorboard"))
        write_manifest(out / "dev.jsonl", (row.to_dict() for row in dev))
    wait_for_all()
    torch.manual_seed(options.seed)
    tuning: Any = ArTuning if ar.is_ar(folder) else NarTuning
    tuned = tuning(folder, place)
    augment = AugmentOptions(views=3, noise_dir=options.noise_dir, rir_dir=options.rir_dir)
    views, dev_view = feature_caches(train, dev, augment, out / "views", say, tuned.rule)
    train, dev = measured(train, views[0], say), measured(dev, dev_view, say)
    seconds = sum(row.duration for row in train)
    plan = FinetunePlan.choose(options, sum(tensor.numel() for tensor in tuned.model.parameters()), seconds)
    say(f"{len(train)} utterances, {seconds / 60:.1f} min to learn from; {len(dev)} to watch; {plan}")
    batches = SpeechBatchOptions(batch_s=options.batch_s, seed=options.seed)
    source = BatchSource(train, views, batches, SpecAugmentOptions(tract_warp=0.03, colour_db=1.0), say)
    stage = tuned.stage(tuned.objective(plan), source, dev, dev_view)
    stage.name = "finetune"
    often = max(1, min(200, plan.steps // 10))
    training = TrainingOptions(
        steps=plan.steps,
        lr=plan.lr,
        warmup_steps=min(50, plan.steps // 10),
        decay_share=0.5,
        average_decay=0.98,
        log_every=often,
        evaluate_every=often,
        keep_best=tuned.keep_best,
        patience=options.patience,
        seed=options.seed,
        tensorboard=options.tensorboard,
    )
    failure: DivergedError | None = None
    try:
        fit(stage, training, out / "finetune", say, device)
    except DivergedError as error:
        failure = error
    if is_first_process() and (out / "finetune" / BEST).exists():
        # The weights in memory may be one part of many; those on disk are whole.
        tuned = tuning(folder, place)
        best = load_best(out / "finetune", tuned.objective(plan))
        if not best["step"]:
            say("nothing that was learned is better on dev than the weights it began with, which are kept")
        if plan.lora_rank:
            merge_adapters(tuned.model.language_model)
        if plan.blend < 1:
            start = tuning(folder, place).model.state_dict()
            for name, tensor in tuned.model.state_dict().items():
                if tensor.is_floating_point():
                    tensor.lerp_(start[name], 1 - plan.blend)
        with write_errors(out / "model", f"the best weights are kept in {out / 'finetune'}"):
            tuned.save(out / "model", folder / "tokenizer.json", dtype_of(folder))
            write_record(out / "model" / RUN_RECORD, record | {"plan": asdict(plan), "best": best})
    wait_for_all()
    if failure is not None:
        raise DivergedError(f"{failure}; {out / 'model'} holds the best weights so far") from failure
    return out / "model"
