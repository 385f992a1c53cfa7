"""The AR and Plus models: the encoder's states become embeddings in the prompt of a causal language model.

features -> encoder -> (exported layers ++ last) -> window Q-Former -> audio embeddings
prompt ids, the `<|audio|>` placeholders replaced by them -> language model -> next-token logits

`prefill` reads prompts into a key-value cache that the caller holds, `language_model.advance` tokens behind them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

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

    def encode(self, features: Tensor, lengths: Tensor) -> EncoderOutput:
        """Features [B, T, 160] with lengths [B] -> encoder output with the states that the projector reads."""
        return self.encoder(features, lengths, self.config.export_layers)

    def embed_audio(self, encoded: EncoderOutput) -> tuple[Tensor, Tensor]:
        """Encoder output -> audio embeddings [B, S, H] and lengths [B]."""
        states = torch.cat((*encoded.exports, encoded.hidden), dim=-1)  # [B, T, layers * D]
        return self.projector(states, encoded.lengths)

    def embed(self, prompts: Sequence[Sequence[int]], audio: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts whose placeholders stand for the audio embeddings [B, S, H] in order -> [B, L, H] and lengths [B].

        Prompt b holds as many placeholders as its clip has embeddings.
        """
        longest = max(map(len, prompts))
        ids = torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts], device=audio.device)
        spoken = ids == self.config.audio_token_index  # [B, L]
        embeddings = self.language_model.embed(ids.masked_fill(spoken, 0))  # [B, L, H]
        order = (spoken.cumsum(dim=1) - 1).clamp(min=0)  # which embedding each placeholder stands for
        placed = audio.gather(1, order[..., None].expand(-1, -1, audio.shape[-1])).to(embeddings.dtype)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=audio.device)
        return torch.where(spoken[..., None], placed, embeddings), lengths

    def prefill(self, prompts: Sequence[Sequence[int]], audio: Tensor, cache: KVCache, slots: Tensor) -> Tensor:
        """Read prompts, as of `embed`, into slots [B] of a cache -> hidden states [B, L, H]."""
        embeddings, lengths = self.embed(prompts, audio)
        return self.language_model.hidden(embeddings, lengths, into=(cache, slots))

    def forward(self, features: Tensor, lengths: Tensor, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Next-token logits at every position of the prompts, answers included -> [B, L, V] and lengths [B]."""
        audio, _ = self.embed_audio(self.encode(features, lengths))
        embeddings, sizes = self.embed(prompts, audio)
        return self.language_model.logits(self.language_model.hidden(embeddings, sizes)), sizes
