"""An AR model that begins with the answers of another, on an encoder of its own.

Projector and language model know how prompts are answered; only the projector's cross-attention reads the encoder. It
begins as if the other encoder's states were a linear map of ours: least squares over frames that both heard.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice

import torch
from torch import Tensor

from redline.checkpoints import ar
from redline.errors import ConfigError
from redline.features import pad
from redline.models.ar import ArModel

HEARD = 40
"""Utterances over which the map is found."""
BATCH = 8
RIDGE = 1e-3
"""Of the mean square of our states."""
READS_STATES = re.compile(r"(qformer\.encoder\.layer\.\d+\.crossattention\.attention\.(?:key|value))\.weight")


@torch.no_grad()
def begin_with_answers(model: ArModel, source: str, features: Iterable[Tensor]) -> float:
    """Give a model the projector and language model of a checkpoint -> share of its states that ours explain.

    `features` are utterances [T, 160]. Raises `ConfigError` where anything but the encoder differs.
    """
    other = ar.load_ar(source).model
    if model.config.encoder.subsampling != other.config.encoder.subsampling:
        raise ConfigError(f"answers_from: {source} has another frame rate than the encoder here; choose another")
    weight, bias, explained = states_map(model, other, features)
    projector = other.projector.state_dict()
    for name, reads in list(projector.items()):
        if match := READS_STATES.fullmatch(name):
            projector[f"{match[1]}.bias"] = projector[f"{match[1]}.bias"] + reads @ bias
            projector[name] = reads @ weight
    for own, theirs in ((model.projector, projector), (model.language_model, other.language_model.state_dict())):
        shapes, has = ({key: list(x.shape) for key, x in part.items()} for part in (own.state_dict(), theirs))
        if differ := sorted(key for key in shapes.keys() | has.keys() if shapes.get(key) != has.get(key)):
            name = differ[0]
            raise ConfigError(
                f"answers_from: {name} is {shapes.get(name, 'absent')} here and {has.get(name, 'absent')} in {source}; "
                "projector and language model must have its shape"
            )
        own.load_state_dict(theirs)
    return explained


def states_map(model: ArModel, other: ArModel, features: Iterable[Tensor]) -> tuple[Tensor, Tensor, float]:
    """Least squares from our states to the other's: weight [theirs, ours], bias [theirs], share explained."""
    rows = iter(features)
    ours: list[Tensor] = []
    theirs: list[Tensor] = []
    while batch := list(islice(rows, BATCH)):
        for part, states in ((model, ours), (other, theirs)):
            encoded = part.eval().encode(*pad(batch))
            joined = torch.cat((*encoded.exports, encoded.hidden), dim=-1)
            states += [row[:length] for row, length in zip(joined, encoded.lengths.tolist(), strict=True)]
    x, y = torch.cat(ours).double(), torch.cat(theirs).double()  # [N, ours], [N, theirs]
    mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
    x, y = x - mean_x, y - mean_y
    square = x.T @ x
    square += RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
    weight = torch.linalg.solve(square, x.T @ y).T
    explained = 1 - float((y - x @ weight.T).square().sum() / y.square().sum())
    return weight.float(), (mean_y - weight @ mean_x).float(), explained
