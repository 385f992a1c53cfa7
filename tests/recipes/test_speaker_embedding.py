"""The stage of the voice head: what it is shown, what it begins with, what it learns."""

from __future__ import annotations

import itertools
import pickle
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from redline.diarize.embedder import SpeakerEmbedder
from redline.errors import CheckpointError, ConfigError, DataError
from redline.features import FEATURE_DIM, N_MELS
from redline.manifest import Utterance
from redline.train.data.feature_cache import FeatureCache
from redline.train.loop.loop import fit
from redline.train.loop.optim import TrainingOptions
from redline.types import Word
from redline_recipes.tiny.speaker_embedding import (
    EmbeddingOptions,
    EmbeddingStage,
    Segments,
    cut,
    equal_error_rate,
    noisy,
    read_pretrained,
    similarity,
)


@pytest.fixture
def material() -> tuple[list[Utterance], FeatureCache]:
    """Four speakers, each a smooth curve over the bands that comes and goes, two utterances each."""
    draw = np.random.default_rng(0)
    rows, offsets, frames, at = [], {}, [], 0
    for speaker in range(4):
        curve = np.repeat(draw.normal(0, 0.15, 10), 8)
        for take in range(2):
            features = draw.normal(0, 0.1, (60, 1)) + np.tile(curve, 2) + draw.normal(0, 0.1, (60, FEATURE_DIM))
            rows.append(Utterance(f"{speaker}-{take}", Path("x"), "a", 1.2, speaker=f"s{speaker}"))
            offsets[rows[-1].id], at = (at, at + 60), at + 60
            frames.append(features.astype(np.float16))
    return rows, FeatureCache(np.concatenate(frames), offsets)


OPTIONS = EmbeddingOptions(size=8, voices=4, pieces=6, piece_s=(0.3, 0.5), tracts=(0.0,), colour_db=2.0)


def test_training_tells_voices_apart_and_goes_on_where_it_stopped(
    material: tuple[list[Utterance], FeatureCache], tmp_path: Path
) -> None:
    rows, view = material
    pieces = Segments(rows, [view])
    torch.manual_seed(0)
    network = SpeakerEmbedder().state_dict()
    for name in network:  # a random network that lets sound through
        network[name] *= 3.0
    torch.save({"model_state": network}, tmp_path / "network.pt")

    def stage() -> EmbeddingStage:
        return EmbeddingStage(pieces, pieces, OPTIONS, pretrained=read_pretrained(tmp_path / "network.pt"))

    before = stage().evaluate()["eer"]
    loop = TrainingOptions(steps=40, lr=0.01, warmup_steps=2, precision="no", average_decay=0.5, evaluate_every=40)
    after = fit(stage(), loop, tmp_path / "voices", lambda line: None)["eer"]
    assert after < 0.75 * before and before > 5
    short = replace(loop, steps=8, decay_share=0.0, evaluate_every=8)
    half, other = stage(), stage()
    for steps in (4, 8):
        fit(half, replace(short, steps=steps), tmp_path / "half", lambda line: None)
    fit(other, short, tmp_path / "whole", lambda line: None)
    for name, tensor in half.objective.state_dict().items():
        torch.testing.assert_close(tensor, other.objective.state_dict()[name])


def test_the_silence_around_the_words_is_left_out(material: tuple[list[Utterance], FeatureCache]) -> None:
    rows, view = material
    row = replace(rows[0], words=(Word(0.5, 0.6, "a"), Word(0.6, 0.8, "b")))
    assert torch.equal(Segments([row], [view]).draw(("s0", 100), random.Random(0)), view[row.id][20:45])
    mel = torch.arange(6.0)[:, None].expand(6, 40)
    assert {float(cut(mel, 4, random.Random(seed))[0, 0]) for seed in range(20)} == {0.0, 1.0, 2.0}
    assert cut(mel, 8, random.Random(0))[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 0, 1]


def test_another_speed_is_another_voice(material: tuple[list[Utterance], FeatureCache]) -> None:
    rows, view = material
    faster = FeatureCache(view.frames, {"0-0": (0, 54), "0-1": (60, 115)})
    pieces = Segments(rows, [view, faster])
    assert pieces.speakers == 4
    assert pieces.voices == [("s0", 100), ("s0", 110), ("s1", 100), ("s2", 100), ("s3", 100)]
    assert {len(own) for own in pieces.takes.values()} == {2}
    pieces.add([replace(row, speaker="more") for row in rows], [faster])
    assert pieces.speakers == 5 and len(pieces.takes["s0", 100]) == 2, "ids of one manifest are not those of another"


def test_a_piece_is_no_part_of_its_own_voice() -> None:
    directions = F.normalize(torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)), dim=-1)
    scores = similarity(directions)
    for voice, piece, other in itertools.product(range(3), range(4), range(3)):
        members = [direction for number, direction in enumerate(directions[other]) if other != voice or number != piece]
        centre = F.normalize(torch.stack(members).sum(dim=0), dim=0)
        torch.testing.assert_close(scores[voice, piece, other], directions[voice, piece] @ centre)


def test_a_lost_band_is_lost_to_a_whole_batch(material: tuple[list[Utterance], FeatureCache]) -> None:
    rows, view = material
    pieces = Segments(rows, [view])
    for share in (0.0, 1.0):
        stage = EmbeddingStage(pieces, pieces, replace(OPTIONS, band_share=share, noise_share=0.0))
        for batch in itertools.islice(stage.epoch(0), 5):
            level = batch.mel.log10().mean(dim=2)  # [V, P, 40]
            faint = level < level.amax(dim=-1, keepdim=True) - 4.0
            assert bool(faint.all(dim=0).all(dim=0).any()) == bool(share) and not faint.all(dim=-1).any()


def test_noise_fills_what_is_not_as_loud() -> None:
    speech = torch.randn(100, N_MELS, generator=torch.Generator().manual_seed(0))
    faint, loud = (torch.full((N_MELS,), level) for level in (-9.0, 9.0))
    torch.testing.assert_close(noisy(speech, faint, random.Random(0)), speech, atol=1e-4, rtol=1e-4)
    mixed = noisy(speech, loud, random.Random(0))
    assert float(mixed.std(dim=0).mean()) < 0.2 * float(speech.std()), "speech is heard through a louder noise"


def test_published_weights_are_read_and_held_and_code_is_not(
    material: tuple[list[Utterance], FeatureCache], tmp_path: Path
) -> None:
    rows, view = material
    pieces = Segments(rows, [view])
    known = {
        name: tensor
        for name, tensor in SpeakerEmbedder(8).state_dict().items()
        if name.startswith(("lstm.", "linear."))
    }
    torch.save({"step": 7, "model_state": {**known, "similarity_weight": torch.ones(1)}}, tmp_path / "pretrained.pt")
    stage = EmbeddingStage(pieces, pieces, OPTIONS, pretrained=read_pretrained(tmp_path / "pretrained.pt"))
    before = {name: tensor.clone() for name, tensor in stage.objective.head.state_dict().items()}
    loop = TrainingOptions(steps=3, lr=0.01, warmup_steps=1, precision="no", evaluate_every=3)
    fit(stage, loop, tmp_path / "voices", lambda line: None)
    for name, tensor in stage.objective.head.state_dict().items():
        assert torch.equal(tensor, before[name]) == name.startswith(("lstm.", "linear.", "bands")), name
        assert name not in known or torch.equal(tensor, known[name])
    (tmp_path / "code.pt").write_bytes(pickle.dumps({"model_state": Path("elsewhere")}, protocol=2))
    torch.save({"model_state": {"lstm.weight_ih_l0": torch.ones(2)}}, tmp_path / "part.pt")
    for name in ("code.pt", "part.pt", "missing.pt"):
        with pytest.raises(CheckpointError, match=f"{name} does not hold a network for voices"):
            read_pretrained(tmp_path / name)


def test_how_alike_voices_are_counts_and_not_only_which_is_most(
    material: tuple[list[Utterance], FeatureCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, view = material
    pieces = Segments(rows, [view])
    stage = EmbeddingStage(pieces, pieces, OPTIONS)
    (batch,) = itertools.islice(stage.epoch(0), 1)
    apart = torch.eye(4, OPTIONS.size).repeat_interleave(6, dim=0)  # each voice in a direction of its own
    metrics = []
    for shared in (0.0, 1.0):  # what all voices have in common, as in a telephone's band
        directions = F.normalize(apart + shared, dim=-1)
        monkeypatch.setattr(stage.objective.head, "forward", lambda mel, directions=directions: directions)
        metrics.append(stage.objective(batch)[1])
    assert metrics[0]["right"] == metrics[1]["right"] == 1
    assert metrics[0]["known"] < 0.1 and metrics[1]["known"] > 2


def test_what_cannot_be_trained_on_is_told(material: tuple[list[Utterance], FeatureCache]) -> None:
    rows, view = material
    pieces = Segments(rows, [view])
    with pytest.raises(DataError, match="1 speakers in the dev split"):
        EmbeddingStage(pieces, Segments(rows[:2], [view]), OPTIONS)
    with pytest.raises(ConfigError, match="piece_s"):
        EmbeddingOptions(piece_s=(2.0, 1.0))
    with pytest.raises(ConfigError, match="tracts"):
        EmbeddingOptions(tracts=(0.6,))
    with pytest.raises(ConfigError, match="both are at least 2"):
        EmbeddingOptions(pieces=1)


def test_the_equal_error_rate_is_where_both_errors_meet() -> None:
    scores, same = torch.tensor([0.9, 0.8, 0.7, 0.2, 0.1]), torch.tensor([True, True, False, True, False])
    assert equal_error_rate(scores, same) == pytest.approx(100 * (1 / 3 + 1 / 2) / 2, abs=0.01)
    assert equal_error_rate(torch.tensor([0.9, 0.1]), torch.tensor([True, False])) == 0.0
