"""What the recipes of small models say beside the others: keys and sections."""

from __future__ import annotations

from dataclasses import dataclass

from redline.decoding.ngram import DraftOptions
from redline.train.data.augment import SpecAugmentOptions
from redline.train.data.batches import SpeechBatchOptions
from redline.train.loop.optim import TrainingOptions
from redline.train.run import Run
from redline_recipes.distillation.objective import DistillationOptions
from redline_recipes.tiny.aligned_mixing import MixingOptions
from redline_recipes.tiny.corruption import CorruptionOptions
from redline_recipes.tiny.editor import AuxiliaryOptions
from redline_recipes.tiny.encoder import EncoderLossOptions
from redline_recipes.tiny.encoder_cache import EncoderCacheOptions
from redline_recipes.tiny.language_model import TextOptions
from redline_recipes.tiny.mel_augment import MelAugmentOptions
from redline_recipes.tiny.ngram import NgramOptions
from redline_recipes.tiny.resident import ResidentOptions
from redline_recipes.tiny.speaker_embedding import EmbeddingOptions
from redline_recipes.tiny.unit_selection import UnitSelectionOptions


@dataclass(frozen=True)
class EditDecision:
    """When greedy drafts are edited; of drafts that n-grams read along `[draft_search]` says it."""

    keep_bias: float = 0.0
    sound_weight: float = 0.0


@dataclass(frozen=True)
class TinySections:
    """Further sections of a recipe; every one may be left out."""

    encoder_from: str = ""
    """A NAR checkpoint (a bundled name, a folder or a hub id) whose encoder this model begins with."""
    whisper_from: str = ""
    """A CTranslate2 folder of a Whisper model with whose encoder this one begins; NAR recipes only."""
    whisper_steps: int = 300
    """Batches from which the first block learns to do what Whisper's convolutions do."""
    imitation_loss: EncoderLossOptions = EncoderLossOptions(top=0.03, middle=0.02, tokens=0.03)
    """CTC beside a teacher's states, of an encoder that begins with Whisper's."""
    imitation_training: TrainingOptions = TrainingOptions(steps=500, lr=4e-4, warmup_steps=50, decay_share=0.2)
    encoder_batches: SpeechBatchOptions = SpeechBatchOptions(curriculum=(0.34, 0.67), augment_from_epoch=2)
    encoder_loss: EncoderLossOptions = EncoderLossOptions()
    encoder_training: TrainingOptions = TrainingOptions()
    """The encoder learns by CTC; NAR recipes only."""
    frozen_blocks: int = 0
    """So many of the encoder's lowest blocks stay as they are: an update without them takes less time; NAR only."""
    distillation: DistillationOptions = DistillationOptions()
    """A teacher of the encoder; NAR recipes only."""
    aligned_mixing: MixingOptions = MixingOptions()
    mel_augment: MelAugmentOptions = MelAugmentOptions()
    """Speeds, rooms and noises of the encoder's batches, drawn anew in every epoch."""
    resident: ResidentOptions = ResidentOptions()
    """The encoder's training set in the memory of its device, augmented there: for GPUs; NAR recipes only."""
    draft_lm: NgramOptions = NgramOptions(order=0)
    """An n-gram LM for shallow fusion while drafts are searched; it needs --text."""
    draft_search: DraftOptions = DraftOptions()
    greedy_edits: EditDecision = EditDecision()
    text: TextOptions = TextOptions()
    corruption: CorruptionOptions = CorruptionOptions()
    lm_training: TrainingOptions = TrainingOptions()
    """The language model learns to edit damaged books; NAR recipes only."""
    language_model_from_base: bool = False
    """Whether the language model of an AR recipe begins with that of `encoder_from`, whose shape it then has."""
    auxiliary: AuxiliaryOptions = AuxiliaryOptions()
    encoder_cache: EncoderCacheOptions = EncoderCacheOptions()
    cache_augment: SpecAugmentOptions = SpecAugmentOptions(time_warp_frames=0)
    cache_mel_augment: MelAugmentOptions = MelAugmentOptions()
    """Speeds, rooms and noises of the renderings."""
    projector_training: TrainingOptions = TrainingOptions(steps=0)
    """The projector learns by CTC on its audio embeddings alone, before it edits; NAR recipes only."""
    unit_selection: UnitSelectionOptions = UnitSelectionOptions()
    voices: EmbeddingOptions = EmbeddingOptions()
    voice_training: TrainingOptions = TrainingOptions(steps=0)
    """The speaker embedding head; without it the language model alone says who speaks. AR recipes only."""


def sections_of(run: Run) -> TinySections:
    """The sections of a run's recipe."""
    assert isinstance(run.recipe, TinySections)
    return run.recipe
