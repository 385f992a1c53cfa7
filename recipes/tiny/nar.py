"""The run of a NAR recipe from scratch: a tokenizer and a model of its own, in place of a checkpoint's."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from redline.models.config import EncoderConfig, LMConfig, NarConfig, ProjectorConfig
from redline.models.nar import NarModel
from redline.punctuation import strip_punctuation
from redline.tokenizer import Tokenizer
from redline.train.loop.distributed import Say, is_first_process
from redline.train.nar import NarRun
from redline.train.recipe import NarRecipe, filled
from redline.train.run import Materials, Run
from redline_recipes.tiny.books import books_of
from redline_recipes.tiny.bpe import END, PAD, train_tokenizer

VOCAB_SIZE = 768
ENCODER_LAYERS = (2, 4, 6, -1)


@dataclass(frozen=True)
class ScratchRecipe(NarRecipe):
    """A recipe of a model that begins with random weights, of the shape that its sections tell."""

    def run(self, materials: Materials, say: Say, device: str | None = None) -> ScratchRun:
        return ScratchRun(self, materials, say, device)


class ScratchRun(NarRun):
    """One run of such a recipe."""

    def __init__(self, recipe: ScratchRecipe, materials: Materials, say: Say, device: str | None = None) -> None:
        Run.__init__(self, recipe, materials, say, device)  # there is no checkpoint

    def make_tokenizer(self) -> None:
        """Byte-level BPE of the transcripts and every fourth paragraph, and more of what there is less of."""
        if self.tokenizer_path.exists():
            return
        lines = [row.text for row in self.train_set]
        if self.materials.text is not None:
            paragraphs = books_of(self).values()
            largest = max(map(len, paragraphs))
            for own in paragraphs:
                lines += [strip_punctuation(line) for line in own[:: max(1, round(4 * len(own) / largest))]]
        if is_first_process():
            tokenizer = train_tokenizer(lines, self.recipe.vocab_size or VOCAB_SIZE, self.tokenizer_path)
            self.say(f"tokenizer: {tokenizer.vocab_size} tokens")

    def model(self) -> NarModel:
        return NarModel(nar_config(self.recipe, self.tokenizer()))

    def draft_lm(self) -> None:
        return None

    def precision(self) -> torch.dtype:
        return torch.float16


def nar_config(recipe: NarRecipe, tokenizer: Tokenizer) -> NarConfig:
    """The model of a recipe's own sections, sized to a tokenizer."""
    ids = special_ids(tokenizer)
    end, rows = ids["eos_token_id"], tokenizer.vocab_size
    encoder_values = {**recipe.encoder, "bpe_output_dim": rows, "blank_token_id": end}
    encoder = filled(EncoderConfig(), encoder_values, "recipe [encoder]")
    text = filled(LMConfig(), {**recipe.language_model, **ids}, "recipe [language_model]")
    layers = recipe.encoder_layer_indices or ENCODER_LAYERS
    widths = {"encoder_dim": encoder.hidden_dim, "llm_dim": text.hidden_size, "num_encoder_layers": len(layers)}
    return NarConfig(
        encoder=encoder,
        projector=filled(ProjectorConfig(), {**recipe.projector, **widths}, "recipe [projector]"),
        text=text,
        encoder_layer_indices=layers,
        blank_token_id=end,
        languages=recipe.languages,
    )


def special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """The fields of a language model's configuration that the tokenizer decides."""
    end, pad = tokenizer.id_of(END), tokenizer.id_of(PAD)
    assert end is not None and pad is not None
    return {"vocab_size": tokenizer.vocab_size, "pad_token_id": pad, "eos_token_id": end, "bos_token_id": end}
