"""The AR and Plus models: the encoder's states become embeddings in the prompt of a causal language model.

features -> encoder -> (exported layers ++ last) -> window Q-Former -> audio embeddings
prompt ids, the `<|audio|>` placeholders replaced by them -> language model -> next-token logits

`embed` makes what is read first, `prefill` reads it into a cache, `step` reads one token more; the caller holds the
cache. A draft by the encoder's own token head (`out_llm.safetensors`), where there is one, can be verified in the same
prefill (arXiv 2603.11243).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from redline.decoding import ctc, ctc_beam
from redline.decoding.ctc_beam import BeamOptions
from redline.decoding.keyword_patches import KeywordBias, splice
from redline.decoding.ngram import NgramLM
from redline.diarize.embedder import SpeakerEmbedder
from redline.models.config import ArConfig
from redline.models.conformer import ConformerEncoder, EncoderOutput
from redline.models.draft_head import DraftHead
from redline.models.granite import GraniteLM, KVCache
from redline.models.qformer import WindowQFormer


class ArModel(nn.Module):
    """Encoder, window Q-Former and causal language model under the published tensor names."""

    def __init__(self, config: ArConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ConformerEncoder(config.encoder)
        self.projector = WindowQFormer(config)
        self.language_model = GraniteLM(config.text)
        self.draft_head: DraftHead | None = None
        """The optional head of `out_llm.safetensors`."""
        self.draft_lm: NgramLM | None = None
        """Reads along while the draft is written; without it the draft is greedy. It is not one of the weights."""
        self.voices: SpeakerEmbedder | None = None
        """The optional head of `out_voices.safetensors`, which tells speakers apart."""

    def encode(self, features: Tensor, lengths: Tensor) -> EncoderOutput:
        """Features [B, T, 160] with lengths [B] -> encoder output with the states that the projector reads."""
        encoded: EncoderOutput = self.encoder(features, lengths, self.config.export_layers)
        return encoded

    @property
    def search_options(self) -> BeamOptions:
        """How drafts are searched for, where they are."""
        return self.draft_lm.options if self.draft_lm else ctc_beam.ALONE

    @torch.no_grad()
    def draft(self, logits: Tensor, lengths: Tensor, expected: KeywordBias | None = None) -> list[list[int]]:
        """What the draft head heard, as token ids: logits [B, W, rows], lengths [B].

        Words that are `expected` are favoured where they are found; elsewhere the draft is what it is without them.
        """
        assert self.draft_head is not None
        blank, options = self.draft_head.blank, self.search_options
        plain = ctc.greedy(logits, lengths, blank)
        if self.draft_lm is None and expected is None:
            return plain
        candidates = ctc_beam.Candidates.of(logits, lengths, blank, options)
        if self.draft_lm is not None:
            plain = ctc_beam.search(candidates, self.draft_lm, options)
        if expected is None:
            return plain
        drawn = ctc_beam.search(candidates, self.draft_lm, options, expected.trie)
        return [splice(one, other, expected)[0] for one, other in zip(plain, drawn, strict=True)]

    def embed_audio(self, encoded: EncoderOutput) -> tuple[Tensor, Tensor]:
        """Encoder output -> audio embeddings [B, S, H] and lengths [B]."""
        states = torch.cat((*encoded.exports, encoded.hidden), dim=-1)  # [B, T, layers * D]
        embeds: Tensor
        embeds, lengths = self.projector(states, encoded.lengths)
        return embeds, lengths

    def embed(self, prompts: Sequence[Sequence[int]], audio: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts whose placeholders stand for the audio embeddings [B, S, H] in order -> [B, L, H] and lengths [B].

        Prompt b holds as many placeholders as its clip has embeddings.
        """
        rows = [torch.tensor(prompt, device=audio.device) for prompt in prompts]
        lengths = torch.tensor([len(row) for row in rows], device=audio.device)
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)  # [B, L]
        spoken = ids == self.config.audio_token_index
        embeddings = self.language_model.embed(ids.masked_fill(spoken, 0))  # [B, L, H]
        order = (spoken.cumsum(dim=1) - 1).clamp(min=0)  # which embedding each placeholder stands for
        heard = audio.gather(1, order[..., None].expand(-1, -1, audio.shape[-1]))
        return torch.where(spoken[..., None], heard.to(embeddings.dtype), embeddings), lengths

    def cache(self, rows: int, positions: int) -> KVCache:
        """An empty cache on the model's device, in its precision."""
        weight = self.language_model.model.embed_tokens.weight
        return KVCache(self.config.text, rows, positions, weight.device, weight.dtype)

    def prefill(self, embeddings: Tensor, lengths: Tensor, cache: KVCache, last: int = 1) -> Tensor:
        """Read [B, L, H] with lengths [B] into the cache -> logits [B, last, V] after each of the last positions.

        The rows are right-aligned: [:, -1] is what follows the last position of each.
        """
        hidden = self.language_model.extend(embeddings, lengths, cache)
        places = (lengths[:, None] - last + torch.arange(last, device=lengths.device)).clamp(min=0)  # [B, last]
        return self.language_model.logits(hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1])))

    def step(self, ids: Tensor, cache: KVCache, rows: Tensor | None = None) -> Tensor:
        """Read one token per row: ids [R], of which row i goes on from row `rows[i]` of the cache -> logits [R, V]."""
        if rows is not None:
            cache.select(rows)
        embeddings = self.language_model.embed(ids[:, None])
        hidden = self.language_model.extend(embeddings, torch.ones_like(ids), cache)
        return self.language_model.logits(hidden[:, 0])

    def forward(self, features: Tensor, lengths: Tensor, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Next-token logits at every position of the prompts, answers included -> [B, L, V] and lengths [B]."""
        audio, _ = self.embed_audio(self.encode(features, lengths))
        embeddings, sizes = self.embed(prompts, audio)
        return self.language_model.logits(self.language_model.hidden(embeddings, sizes)), sizes
