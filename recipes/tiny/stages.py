"""Stages of small models: tokenizer and language models from books, encoder caches, a speaker embedding head."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from redline.checkpoints.draft_lm import DRAFT_LM, load_draft_lm
from redline.checkpoints.nar import load_nar
from redline.decoding.ngram import NgramLM
from redline.diarize.embedder import SPEAKER_HEAD, SpeakerEmbedder, load_embedder, save_embedder
from redline.errors import DataError
from redline.manifest import Utterance, read_manifest
from redline.models.heads import LanguageHead
from redline.models.nar import NarModel
from redline.punctuation import strip_punctuation
from redline.tokenizer import Tokenizer
from redline.train.loop.distributed import first_process_first, is_first_process
from redline.train.loop.optim import TrainingOptions
from redline.train.loop.stage import share_done
from redline.train.nar import NarRun
from redline.train.run import Run
from redline_recipes.tiny.aligned_mixing import MixedSource
from redline_recipes.tiny.ar import ArRun
from redline_recipes.tiny.books import books_of
from redline_recipes.tiny.encoder import EncoderObjective, EncoderStage, transfer_encoder
from redline_recipes.tiny.encoder_cache import EncoderCache, EncoderReader, build_encoder_cache
from redline_recipes.tiny.language_model import LMObjective, LMStage
from redline_recipes.tiny.ngram import make_draft_lm, split_text
from redline_recipes.tiny.speaker_embedding import EmbeddingStage, Segments, read_pretrained


def with_language_head(run: NarRun, model: NarModel) -> NarModel:
    """The model with a head that tells the language, where several are learned."""
    languages = run.recipe.languages
    if len(languages) > 1 and model.language_head is None:
        model.language_head = LanguageHead(model.config.encoder.hidden_dim, languages)
    return model


def train_encoder(run: NarRun) -> None:
    """The encoder learns by CTC, from utterances some of which are mixed anew."""
    recipe, sections = run.recipe, run.recipe.sections
    options, mixing = sections.encoder_training, sections.aligned_mixing
    if not options.steps:
        return
    torch.manual_seed(options.seed)
    model = with_language_head(run, run.model())
    if sections.encoder_from:
        new = transfer_encoder(model.encoder, load_nar(sections.encoder_from)[0].encoder)
        run.say(f"encoder: begins with that of {sections.encoder_from}; new are {', '.join(new)}")
    objective = EncoderObjective(model.encoder, run.tokenizer(), sections.encoder_loss, model.language_head)
    source = MixedSource(run.train_set, run.views[0], sections.encoder_batches, recipe.spec_augment, mixing)
    run.report(source)
    if mixing.share:
        run.say(
            f"mixed: {mixing.share:.0%} of the {source.timed} utterances whose word times the manifest tells "
            "(python -m redline_recipes.tiny.dialogues --count 0 finds them)"
        )
    run.fit("encoder", EncoderStage(objective, source, run.dev_set, run.views[1]), options)


def make_ngrams(run: Run) -> None:
    """The n-gram LM of the drafts, in their tokens; an editor learns on the paragraphs that are kept from it."""
    options, folder = run.recipe.sections.draft_lm, run.out / "draft_lm"
    if not options.order or (folder / DRAFT_LM).exists():
        return
    paragraphs = books_of(run)
    if not is_first_process():
        return
    if isinstance(run, ArRun):
        tokenizer = Tokenizer.from_file(run.base_folder / "tokenizer.json")
        boundary = run.base.config.blank_token_id
        lines = [strip_punctuation(line) for own in paragraphs.values() for line in own]
    else:
        assert isinstance(run, NarRun)
        tokenizer, boundary = run.tokenizer(), run.model().config.blank_token_id
        lines = [strip_punctuation(line) for own in paragraphs.values() for line in split_text(own, options)[0]]
    make_draft_lm(lines, tokenizer, boundary, options, run.recipe.sections.draft_search, folder, run.say)


def load_ngrams(run: Run, vocab_size: int) -> NgramLM | None:
    """The n-gram LM of the drafts, where one was made, with the search options of today's recipe."""
    path = run.out / "draft_lm" / DRAFT_LM
    if not run.recipe.sections.draft_lm.order or not path.exists():
        return run.draft_lm() if isinstance(run, NarRun) else None
    lm = load_draft_lm(path, vocab_size)
    lm.options = run.recipe.sections.draft_search
    return lm


def train_lm(run: NarRun) -> None:
    """The language model learns to edit damaged books."""
    sections = run.recipe.sections
    if sections.lm_training.steps:
        torch.manual_seed(sections.lm_training.seed)
        model = run.model()
        lines = [strip_punctuation(line) for own in books_of(run).values() for line in own]
        objective = LMObjective(model.language_model, run.tokenizer(), sections.text, model.config.blank_token_id)
        run.fit("lm", LMStage(objective, lines, sections.corruption), sections.lm_training)


def encoder_caches(
    run: Run, model: NarModel, layers: tuple[int, ...], tokenizer: Tokenizer, training: TrainingOptions
) -> list[EncoderCache]:
    """The training set encoded by a model's encoder, on the run's device; done once and kept."""
    sections = run.recipe.sections
    total = sum(row.duration for row in run.train_set)
    blank = model.config.blank_token_id
    reader = EncoderReader(model.encoder, layers, tokenizer, blank, run.device, run.dtype(training))
    with first_process_first():
        return build_encoder_cache(
            reader,
            run.train_set,
            run.views[0],
            sections.encoder_cache,
            sections.cache_augment,
            run.out / "states",
            lambda label: share_done(run.say, label, total),
        )


def train_embedding(run: ArRun) -> None:
    """The speaker embedding head."""
    sections, weights = run.recipe.sections, run.materials.voice_weights
    if not sections.voice_training.steps:
        return
    pretrained = read_pretrained(weights) if weights is not None else None  # before features are made for nothing
    more = _readers(run)
    segments, dev = Segments(run.train_set, run.views[0]), Segments(run.dev_set, [run.views[1]])
    if more:
        segments.add(more, run.features(more)[0])
    stage = EmbeddingStage(segments, dev, sections.voices, sections.voice_training.seed, pretrained)
    run.say(f"voices: {len(stage.voices)} of {stage.segments.speakers} speakers")
    if weights is None:
        run.say("voices: no --voice-weights, so the whole network is learned from the beginning")
    run.fit("voices", stage, sections.voice_training)
    if is_first_process():  # the average has what was trained; the file has what was held, too
        run.load("voices", stage.objective)
        save_embedder(stage.objective.head, run.out / "voices" / SPEAKER_HEAD)


def load_embedding(run: ArRun) -> SpeakerEmbedder | None:
    """The speaker embedding head, if the recipe has one; raises `DataError` where it is not trained yet."""
    if not run.recipe.sections.voice_training.steps:
        return None
    path = run.out / "voices" / SPEAKER_HEAD
    if not path.exists():
        raise DataError(f"{run.out} has no trained voices yet: run the stage 'voices' first")
    return load_embedder(path)


def _readers(run: ArRun) -> Sequence[Utterance]:
    """More readers for the speaker embedding alone."""
    path = run.materials.voices
    if path is None:
        return []
    named = read_manifest(path)
    more = [row for row in named if row.duration > 0 and row.speaker]
    if not more:
        raise DataError(f"{path}: none of {len(named)} rows tells speaker and duration")
    if len(more) < len(named):
        run.say(f"left out: {len(named) - len(more)} rows without speaker or duration")
    run.say(f"{path}: {len({row.speaker for row in more})} more readers for the voices")
    return more
