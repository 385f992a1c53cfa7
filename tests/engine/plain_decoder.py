"""The plain twin of the running decode: one text after the other, each token by reading all before it once more."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from redline.decoding import speculative
from redline.decoding.generate import GenerateOptions, Generation, Search, decode
from redline.decoding.speculative import SpeculativeOptions
from redline.models.ar import ArModel
from redline.recognizer.ar_batch import Decoding


def read(model: ArModel, text: Decoding, ids: Sequence[int]) -> Tensor:
    """Logits [L, V] at every place of a prompt and the tokens behind it; nothing is kept."""
    embeddings, lengths = model.embed([[*text.prompt, *ids]], text.audio[None])
    return model.language_model.logits(model.language_model.hidden(embeddings, lengths))[0]


@torch.inference_mode()
def write(model: ArModel, text: Decoding, drafts: SpeculativeOptions | None = None) -> Generation:
    """The text, by prefill, verification and `decode` as they are described."""
    behind = len(text.prompt) - 1
    logits = read(model, text, text.draft)[behind:]
    accepted: list[int] = []
    if text.draft and drafts is not None:
        ids = torch.tensor(text.draft)
        judged = speculative.judge(logits[:-1], ids, text.search.options).tolist()
        accepted = text.draft[: speculative.verify(text.search, text.draft, judged, drafts)]
        text.accepted = round(len(accepted) / len(text.draft), 3)
    histories = [accepted]

    def step(ids: Sequence[int], parents: Sequence[int]) -> Tensor:
        histories[:] = [[*histories[parent], id] for parent, id in zip(parents, ids, strict=True)]
        return torch.stack([read(model, text, history)[-1] for history in histories])

    (generation,) = decode([text.search], logits[len(accepted)][None], step)
    return generation


class Asked:
    """What a text is made of, to ask for it again and again."""

    def __init__(self, model: ArModel, seed: int, options: GenerateOptions, budget: int = 20) -> None:
        self.model, self.options, self.seed, self.budget = model, options, seed, budget
        generator = torch.Generator().manual_seed(seed)
        size, audio = model.config.text.vocab_size, model.config.audio_token_index
        count = int(torch.randint(1, 9, (), generator=generator))
        before, behind = (
            torch.randint(8, size, (int(torch.randint(1, 30, (), generator=generator)),), generator=generator).tolist()
            for _ in range(2)
        )
        self.prompt = [*before, *[audio] * count, *behind]
        weight = model.language_model.model.embed_tokens.weight
        self.audio = (torch.randn(count, weight.shape[1], generator=generator) * weight.float().std()).to(weight.dtype)
        self.draft: list[int] = []

    def text(self) -> Decoding:
        digest = hashlib.blake2b(str(self.seed).encode(), digest_size=4).digest()
        search = Search(0, self.budget, self.options, seed=int.from_bytes(digest, "big"))
        return Decoding(self.prompt, self.audio, self.draft[: self.budget], search)
