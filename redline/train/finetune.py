"""Fine-tuning: a model that is there learns from recordings of yours, and comes back in the layout it came in."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn

from redline.checkpoints import ar, nar, vocabulary
from redline.checkpoints.ar import is_ar
from redline.checkpoints.folder import resolve
from redline.errors import ConfigError, DataError, DivergedError
from redline.features import Rule
from redline.manifest import Utterance, write_manifest
from redline.prompts import PromptTemplate
from redline.train.data.augment import SpecAugmentOptions
from redline.train.data.batches import (
    AugmentOptions,
    BatchOptions,
    BatchSource,
    FeatureView,
    letters_of,
    spoken,
    taught,
)
from redline.train.data.feature_cache import make_views, measured
from redline.train.data.tasks import Asker, TaskOptions, said_of
from redline.train.init_from import dtype_of
from redline.train.loop import run_record
from redline.train.loop.checkpointing import BEST, BEST_SCORES, load_best, make_folder, told_where_full
from redline.train.loop.distributed import is_first_process, only_first, wait_for_all
from redline.train.loop.loop import Say, fit
from redline.train.loop.optim import TrainingOptions, between
from redline.train.objectives.ar import AnswerObjective, AnswerOptions, AnswerStage, AskedSource, Prompter
from redline.train.objectives.nar import EditOptions, EditorObjective, EditorStage, merge_adapters

TextStyle = Literal["as-is", "spoken"]
HELD_OUT = (4, 200)
"""Fewest and most utterances that are held out where the manifest names no dev split."""
SURE_POINTS = 5.0
"""Where the error rate of what is watched is less certain than this, it is said."""
LARGE = 500_000_000
"""Parameters from which a model learns through adapters, its encoder frozen, unless asked otherwise."""


@dataclass(frozen=True)
class FinetuneOptions:
    """How a model learns from new data; None chooses by the size of model and data."""

    passes: float = 20.0
    """How often each utterance is heard at most; learning ends earlier when dev WER no longer falls."""
    steps: int | None = None
    """Updates, in place of `passes`."""
    lr: float | None = None
    lora_rank: int | None = None
    """Rank of the adapters in the language model; 0 trains all of it."""
    train_encoder: bool | None = None
    """Whether the encoder learns too, by its own CTC losses."""
    blend: float | None = None
    """How far the weights go from where they began to what was learned; 1 is all the way.

    Half way keeps nearly all of what a few minutes teach, and most of what they would make the model forget
    (arXiv 2109.01903).
    """
    batch_s: float = 60.0
    text: TextStyle = "as-is"
    """`spoken` turns transcripts into lower-case words without punctuation."""
    noise_dir: str | None = None
    rir_dir: str | None = None
    patience: int = 4
    seed: int = 0
    tensorboard: bool = False
    """Whether the log is also written for TensorBoard."""

    def __post_init__(self) -> None:
        if self.text not in ("as-is", "spoken"):
            raise ConfigError(f"text is {self.text!r}; allowed are 'as-is' and 'spoken'")
        for name in ("passes", "batch_s", "lr"):
            if getattr(self, name) is not None:
                between(name, getattr(self, name), 0, math.inf, open_below=True)
        for name, least in (("steps", 1), ("patience", 0), ("lora_rank", 0)):
            if getattr(self, name) is not None:
                between(name, getattr(self, name), least, math.inf)
        if self.blend is not None and not 0 < self.blend <= 1:
            raise ConfigError(
                f"blend is {self.blend}; allowed is above 0 (where it began) up to 1 (all that was learned)"
            )


@dataclass(frozen=True)
class Plan:
    """The options with every choice made."""

    steps: int
    evaluate_every: int
    lr: float
    lora_rank: int
    train_encoder: bool
    blend: float

    def __str__(self) -> str:
        how = f"adapters of rank {self.lora_rank}" if self.lora_rank else "the whole language model"
        encoder = "the encoder learns too" if self.train_encoder else "the encoder is frozen"
        way = "" if self.blend == 1 else f"; {self.blend:g} of the way is kept"
        return f"{self.steps} steps at {self.lr:g} through {how}; {encoder}{way}"


def plan(options: FinetuneOptions, parameters: int, seconds: float) -> Plan:
    """Choose what the user left open: parameters of the model, seconds of speech to learn from.

    Large models get adapters, of rank 128 as published from ten hours on and less below; small ones learn as a whole.
    """
    large, hours = parameters >= LARGE, seconds / 3600
    rank = options.lora_rank
    if rank is None:
        rank = 0 if not large else 128 if hours >= 10 else 64 if hours >= 1 else 16
    steps = options.steps if options.steps is not None else round(options.passes * seconds / options.batch_s)
    steps = max(1, steps)
    encoder = options.train_encoder if options.train_encoder is not None else not large
    lr = options.lr if options.lr is not None else 1e-4
    blend = options.blend if options.blend is not None else (0.5 if hours < 1 else 1.0)
    return Plan(steps, max(1, min(200, steps // 10)), lr, rank, encoder, blend)


class Pupil(Protocol):
    """A model that can be taught: how it learns, and how it is kept."""

    model: Any
    keep_best: str
    """The score by which its best weights are known."""
    rule: Rule
    """Its front end."""

    def __init__(self, folder: Path) -> None: ...

    def objective(self, plan: Plan) -> nn.Module:
        """What it learns by."""
        ...

    def stage(self, source: BatchSource, dev: Sequence[Utterance], watched: FeatureView, plan: Plan) -> Any:
        """How it is trained and watched."""
        ...

    def save(self, target: Path) -> Path:
        """Write it in the layout in which it came."""
        ...


class EditPupil:
    """A NAR model, by the NLE loss."""

    keep_best = "edited_wer"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = nar.load(folder)[0]
        self.rule: Rule = self.model.config.frame_rule
        self.tokenizer = vocabulary.load(folder, self.model.config)

    def objective(self, plan: Plan) -> EditorObjective:
        """The NLE loss, and the encoder's own where it learns too."""
        weight = 1.0 if plan.train_encoder else 0.0
        options = EditOptions(lora_rank=plan.lora_rank, audio_ctc_weight=0.0, encoder_weight=weight)
        return EditorObjective(self.model, self.tokenizer, options)

    def stage(self, source: BatchSource, dev: Sequence[Utterance], watched: FeatureView, plan: Plan) -> EditorStage:
        """WER of drafts and of edited texts."""
        return EditorStage(self.objective(plan), source, dev, watched)

    def save(self, target: Path) -> Path:
        """Write it in the layout in which it came."""
        tokenizer = self.folder / "tokenizer.json"
        return nar.save(target, self.model, tokenizer, dtype=dtype_of(self.folder), overwrite=True)


class AnswerPupil:
    """An AR or Plus model, by its answers; which are asked for is told by the fields of the manifest."""

    keep_best = "loss"
    rule: Rule = "ar"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model, self.config, _ = ar.load(folder)
        self.tokenizer = vocabulary.load(folder, self.config)
        template = PromptTemplate.from_folder(folder, self.config.kind, self.config.names_language)
        self.prompter = Prompter(template, self.tokenizer)

    def objective(self, plan: Plan) -> AnswerObjective:
        """Cross-entropy of the answers."""
        options = AnswerOptions(lora_rank=plan.lora_rank, train_encoder=plan.train_encoder)
        return AnswerObjective(self.model, self.tokenizer, options)

    def stage(self, source: BatchSource, dev: Sequence[Utterance], watched: FeatureView, plan: Plan) -> AnswerStage:
        """Losses by task, and WER of plain transcription."""
        rows = [*source.utterances, *dev]
        asker = Asker((row.text for row in rows), TaskOptions(tick_s=0.01), self.config.kind)
        said = {row.id: said_of(row) for row in rows}
        asked = AskedSource(source, said, asker, self.prompter)
        once = BatchSource(dev, [watched], BatchOptions(batch_s=60.0, curriculum=(), seed=1), None)
        fixed = AskedSource(once, said, asker, self.prompter)
        return AnswerStage(self.objective(plan), asked, list(fixed.epoch(0)))

    def save(self, target: Path) -> Path:
        """Write it in the layout in which it came, with the chat template it had."""
        template = self.folder / "chat_template.jinja"
        return ar.save(
            target,
            self.model,
            self.folder / "tokenizer.json",
            chat_template=template.read_text(encoding="utf-8") if template.is_file() else None,
            dtype=dtype_of(self.folder),
            overwrite=True,
        )


def spoken_row(row: Utterance) -> Utterance:
    """An utterance whose texts are lower-case words without punctuation."""
    letters = letters_of(row.language)
    return replace(
        row,
        text=spoken(row.text, letters),
        words=tuple(replace(word, text=spoken(word.text, letters)) for word in row.words),
        turns=tuple(replace(turn, text=spoken(turn.text, letters)) for turn in row.turns),
        keywords=tuple(filter(None, (spoken(word, letters) for word in row.keywords))),
    )


def split_of(rows: Sequence[Utterance]) -> tuple[list[Utterance], list[Utterance]]:
    """Utterances to learn from and to watch: the splits train and dev, or a tenth held out by its id.

    Rows of any other named split, such as test, are never trained on.
    """
    train = [row for row in rows if row.split in ("", "train")]
    dev = [row for row in rows if row.split == "dev"]
    if not dev and len(train) > HELD_OUT[0]:
        count = min(max(HELD_OUT[0], len(train) // 10), HELD_OUT[1], len(train) // 2)
        order = sorted(train, key=lambda row: hashlib.sha256(row.id.encode()).digest())
        dev = order[:count]
        held = {row.id for row in dev}
        train = [row for row in train if row.id not in held]
    if not train or not dev:
        raise DataError(
            f"{len(train)} utterances to learn from and {len(dev)} to watch; at least {HELD_OUT[0] + 1} are needed, "
            'or rows with "split": "train" and "split": "dev"'
        )
    return train, dev


def watched_rows(data: Path, out: Path) -> Path:
    """A manifest of what is watched while learning, `out/dev.jsonl`: the split dev of the data, or a held-out tenth."""
    _, dev = split_of(taught(data))
    make_folder(out)
    if is_first_process():
        write_manifest(out / "dev.jsonl", (row.to_dict() for row in dev))
    wait_for_all()
    return out / "dev.jsonl"


def _rows(data: Path, style: TextStyle, say: Say) -> tuple[list[Utterance], list[Utterance]]:
    """What is learned from and what is watched, as it will be written; what is left out is told."""
    rows = taught(data, say=say)
    if style == "spoken":
        given, rows = rows, [one for row in rows if (one := spoken_row(row)).text]
        if empty := len(given) - len(rows):
            say(f"{empty} of {len(given)} rows have no words that are spoken (signs or digits only) and are left out")
    train, dev = split_of(rows)
    if not any(row.split == "dev" for row in dev):
        say(f"no split named dev: {len(dev)} utterances are held out to watch progress")
    return train, dev


def _tell_small(dev: Sequence[Utterance], say: Say) -> None:
    """Say so where what is watched is too little to decide which weights are best."""
    words = sum(len(row.text.split()) for row in dev)
    # Half the width of the interval of a share near a half; words of one utterance are not even independent.
    points = 98 / math.sqrt(max(1, words))
    if points > SURE_POINTS:
        say(
            f"only {len(dev)} utterances with {words} words are watched: their error rate is known to within about "
            f"{points:.0f} points (95 %), so which weights are best is partly chance; more rows with split dev help"
        )


def finetune(model: str | Path, data: Path, out: Path, options: FinetuneOptions, say: Say) -> Path:
    """Teach a model the utterances of a manifest; returns the folder of the new checkpoint, `out/model`.

    A model that edits learns by the NLE loss, one that answers prompts by its answers to the tasks of the manifest. An
    interrupted run goes on from `out`; one that is finished trains no more. Raises `DataError` for data that cannot be
    used or a disk that is full, `ConfigError` for options, also where those of the run in `out` were others, and
    `DivergedError` after the best weights were written all the same.
    """
    say = only_first(say)
    make_folder(out)
    torch.manual_seed(options.seed)
    folder = resolve(model)
    make: type[Pupil] = AnswerPupil if is_ar(folder) else EditPupil
    train, dev = _rows(data, options.text, say)
    settings = asdict(options) | {"model_sha256": run_record.fingerprint(folder)}
    run = run_record.describe("finetune", str(model), settings, {"train": train, "dev": dev})
    if is_first_process():
        run_record.begin(out / "run.json", run, free=("passes", "steps", "tensorboard"))
    wait_for_all()
    pupil = make(folder)
    augment = AugmentOptions(views=3, noise_dir=options.noise_dir, rir_dir=options.rir_dir)
    views, watched = make_views(train, dev, augment, out / "views", say, pupil.rule)
    train, dev = measured(train, views[0], say), measured(dev, watched, say)
    seconds = sum(row.duration for row in train)
    chosen = plan(options, sum(tensor.numel() for tensor in pupil.model.parameters()), seconds)
    say(f"{len(train)} utterances, {seconds / 60:.1f} min to learn from; {len(dev)} to watch; {chosen}")
    _tell_small(dev, say)
    batches = BatchOptions(batch_s=options.batch_s, curriculum=(), augment_from_epoch=0, seed=options.seed)
    source = BatchSource(train, views, batches, SpecAugmentOptions(tract_warp=0.03, colour_db=1.0))
    if source.left_out:
        say(f"left out: {source.why_left_out}")
    stage = pupil.stage(source, dev, watched, chosen)
    stage.name = "finetune"
    loop = TrainingOptions(
        steps=chosen.steps,
        lr=chosen.lr,
        warmup_steps=min(50, chosen.steps // 10),
        decay_share=0.5,
        average_decay=0.98,
        log_every=chosen.evaluate_every,
        evaluate_every=chosen.evaluate_every,
        keep_best=pupil.keep_best,
        patience=options.patience,
        seed=options.seed,
        tensorboard=options.tensorboard,
    )
    failure: DivergedError | None = None
    try:
        fit(stage, loop, out / "finetune", say)
    except DivergedError as error:
        failure = error
    if is_first_process() and (out / "finetune" / BEST).exists():
        # The weights in memory may be one part of many; those on disk are whole.
        pupil = make(folder)
        load_best(out / "finetune", pupil.objective(chosen))
        if chosen.lora_rank:
            merge_adapters(pupil.model.language_model)
        if chosen.blend < 1:
            began = make(folder).model.state_dict()
            for name, tensor in pupil.model.state_dict().items():
                if tensor.is_floating_point():
                    tensor.lerp_(began[name], 1 - chosen.blend)
        best = json.loads((out / "finetune" / BEST_SCORES).read_text(encoding="utf-8"))
        if not best["step"]:
            say("nothing that was learned is better on dev than the weights it began with, which are kept")
        with told_where_full(out / "model.partial", f"the best weights are kept in {out / 'finetune'}"):
            pupil.save(out / "model")
            run_record.write(out / "model" / run_record.NAME, run | {"plan": asdict(chosen), "best": best})
    wait_for_all()
    if failure is not None:
        raise DivergedError(f"{failure}; {out / 'model'} holds the best weights so far") from failure
    return out / "model"
