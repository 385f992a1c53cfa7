"""Random states and slots of clips, for the twins of projector and language model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from redline.models.nar import NarModel
from redline.recognizer.nar import EditorNetworks
from tests.builders import tiny_config

FRAMES = (0, 1, 2, 5, 7, 15, 16, 44, 46, 120, 333, 1000)


def random_model(dtype: torch.dtype = torch.float32) -> NarModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = NarModel(tiny_config())
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return model.to(dtype).eval()


class Clips:
    """Random states and slots of clips of so many frames."""

    def __init__(self, model: NarModel, frames: Sequence[int] = FRAMES) -> None:
        draw, config = torch.Generator().manual_seed(7), model.config
        dtype = model.projector.query.dtype
        self.states = [
            torch.randn(len(config.encoder_layer_indices), count, config.encoder.hidden_dim, generator=draw).to(dtype)
            for count in frames
        ]
        self.slots = [torch.randint(config.text.vocab_size, (8 + count // 5,), generator=draw) for count in frames]

    def run(self, networks: EditorNetworks, rows: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Audio embeddings and states of slots of each of some clips, as one batch."""
        states, slots = [self.states[row] for row in rows], [self.slots[row] for row in rows]
        frames = max(1, *(own.shape[1] for own in states))
        shape = len(rows), len(states[0]), frames, states[0].shape[2]
        padded = states[0].new_full(shape, torch.nan)
        for place, own in zip(padded, states, strict=True):
            place[:, : own.shape[1]] = own
        padded[padded.isnan()] = 3.0  # whatever stands behind the end of a clip is not seen
        lengths = torch.tensor([own.shape[1] for own in states], device=padded.device)
        with torch.inference_mode():
            audio, counts = networks.embed_audio(padded.unbind(1), lengths)
            ids = torch.nn.utils.rnn.pad_sequence(slots, batch_first=True)
            hidden = networks.read(audio, counts, ids, torch.tensor([len(own) for own in slots], device=ids.device))
        return [
            (audio[place, :count], hidden[place, : len(own)])
            for place, (count, own) in enumerate(zip(counts.tolist(), slots, strict=True))
        ]
