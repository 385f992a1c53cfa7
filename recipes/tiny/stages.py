"""What stages of small models share: n-grams from books, encoder caches, a speaker embedding head."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from redline.checkpoints.draft_lm import load_draft_lm
from redline.checkpoints.shared import DRAFT_LM
from redline.decoding.ngram import NgramLM
from redline.diarize.embedder import SPEAKER_HEAD, SpeakerEmbedder, load_embedder, save_embedder
from redline.errors import DataError
from redline.manifest import Utterance, read_manifest
from redline.models.nar import NarModel
from redline.punctuation import strip_punctuation
from redline.tokenizer import Tokenizer
from redline.train.loop.distributed import first_process_first, is_first_process
from redline.train.loop.optim import TrainingOptions
from redline.train.loop.stage import share_done
from redline.train.run import Run
from redline_recipes.tiny.books import books_of
from redline_recipes.tiny.encoder_cache import Augmentation, EncoderCache, EncoderReader, build_encoder_cache
from redline_recipes.tiny.mel_augment import MelAugment, noise_powers
from redline_recipes.tiny.ngram import make_draft_lm, split_text
from redline_recipes.tiny.sections import sections_of
from redline_recipes.tiny.speaker_embedding import EmbeddingStage, Segments, read_pretrained


def make_ngrams(run: Run, tokenizer: Tokenizer, boundary: int, hold_out: bool) -> None:
    """The n-gram LM of the drafts, in their tokens; with `hold_out`, an editor learns on paragraphs kept from it."""
    sections, folder = sections_of(run), run.out / "draft_lm"
    options = sections.draft_lm
    if options.order and not (folder / DRAFT_LM).exists():
        paragraphs = books_of(run).values()
        if is_first_process():
            read = [split_text(own, options)[0] if hold_out else own for own in paragraphs]
            lines = [strip_punctuation(line) for own in read for line in own]
            make_draft_lm(lines, tokenizer, boundary, options, sections.draft_search, folder, run.say)


def load_ngrams(run: Run, vocab_size: int) -> NgramLM | None:
    """The n-gram LM of the drafts, where one was made, with the search options of today's recipe."""
    sections, path = sections_of(run), run.out / "draft_lm" / DRAFT_LM
    if not sections.draft_lm.order or not path.exists():
        return None
    lm = load_draft_lm(path, vocab_size)
    lm.options = sections.draft_search
    return lm


def encoder_caches(
    run: Run, model: NarModel, layers: tuple[int, ...], tokenizer: Tokenizer, training: TrainingOptions
) -> list[EncoderCache]:
    """The training set encoded by a model's encoder, on the run's device; done once and kept."""
    sections, total = sections_of(run), sum(row.duration for row in run.train_set)
    dtype = torch.bfloat16 if training.uses_bf16(run.device) else torch.float32
    noises = noise_powers(run.materials.noise) if sections.cache_mel_augment.noise else []
    reader = EncoderReader(model.encoder, layers, tokenizer, model.config.blank_token_id, run.device, dtype)
    with first_process_first():
        return build_encoder_cache(
            reader,
            run.train_set,
            run.views[0],
            sections.encoder_cache,
            Augmentation(sections.cache_augment, MelAugment(sections.cache_mel_augment, noises)),
            run.out / "states",
            lambda label: share_done(run.say, label, total),
        )


def train_embedding(run: Run) -> None:
    """The speaker embedding head."""
    sections, weights = sections_of(run), run.materials.voice_weights
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


def load_embedding(run: Run) -> SpeakerEmbedder | None:
    """The speaker embedding head, if the recipe has one; raises `DataError` where it is not trained yet."""
    if not sections_of(run).voice_training.steps:
        return None
    path = run.out / "voices" / SPEAKER_HEAD
    if not path.exists():
        raise DataError(f"{run.out} has no trained voices yet: run the stage 'voices' first")
    return load_embedder(path)


def _readers(run: Run) -> Sequence[Utterance]:
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
