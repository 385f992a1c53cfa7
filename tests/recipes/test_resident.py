"""Resident speech: what is augmented for whole batches on a device is what rows get one by one, and it teaches."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from redline.errors import ConfigError
from redline.features import N_MELS
from redline.models.conformer import _ShiftedProducts, depthwise
from redline.train.data.augment import SpecAugmentOptions
from redline.train.data.batches import SpeechBatchOptions
from redline.train.data.rows import training_rows
from redline.train.run import Materials, build
from redline_recipes.distillation.resident import ListeningTeacher, view_divergence
from redline_recipes.distillation.whisper import WhisperEncoder
from redline_recipes.distillation.whisper_start import halved
from redline_recipes.tiny.batch_augment import BatchAugment, between, echoes, loudest_mean, stretched
from redline_recipes.tiny.mel_augment import MelAugmentOptions, loudness, power, reverberation, stretch
from redline_recipes.tiny.resident import ResidentBatch, ResidentOptions, ResidentSource, ResidentSpeech, measure_all
from tests.corpus import silent, small_tiny_recipe

CPU = torch.device("cpu")
NOTHING = MelAugmentOptions()
QUIET = SpecAugmentOptions(time_warp_frames=0, feature_masks=0, frame_masks=0, probability=0.0)


def rows_of(lengths: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features like speech [R, M, 80] and lengths; what stands behind the end is no number."""
    draw = torch.Generator().manual_seed(seed)
    mel = torch.full((len(lengths), max(lengths), N_MELS), torch.nan)
    for row, length in zip(mel, lengths, strict=True):
        row[:length] = torch.rand(length, N_MELS, generator=draw) * 2 - 1
    return mel, torch.tensor(lengths)


def test_a_batch_is_stretched_as_its_rows_are() -> None:
    mel, lengths = rows_of((40, 26, 90))
    factors = torch.tensor([1.0, 1.15, 0.87])
    batch, longer = stretched(mel, lengths, factors)
    for row, length in enumerate(lengths.tolist()):
        alone = stretch(mel[row, :length], float(factors[row]))
        assert len(alone) == longer[row]
        torch.testing.assert_close(batch[row, : len(alone)], alone, atol=1e-4, rtol=1e-4)


def test_echoes_and_loudness_of_a_batch_are_those_of_its_rows() -> None:
    mel, lengths = rows_of((80, 51))
    powers, seconds = power(mel.nan_to_num(-1.5)), torch.tensor([0.2, 0.7])
    together = echoes(powers, seconds)
    for row in range(2):
        alone = reverberation(powers[row], float(seconds[row]))
        torch.testing.assert_close(together[row], alone, atol=1e-6, rtol=1e-3)
        own = powers[row, : int(lengths[row])]
        assert float(loudest_mean(powers, lengths)[row]) == pytest.approx(loudness(own), rel=1e-4)


def augment(mel: MelAugmentOptions = NOTHING, spec: SpecAugmentOptions = QUIET) -> BatchAugment:
    return BatchAugment(mel, spec, [torch.rand(300, N_MELS)] if mel.noise else [], CPU)


def test_the_same_seed_gives_the_same_batch_and_another_one_another() -> None:
    mel, lengths = rows_of((60, 60))
    everything = augment(
        MelAugmentOptions(rooms=0.7, noise=0.7),
        SpecAugmentOptions(time_warp_frames=0, probability=1.0, tract_warp=0.1, colour_db=3.0),
    )
    assert torch.equal(everything(mel, lengths, 1), everything(mel, lengths, 1))
    assert not torch.equal(everything(mel, lengths, 1), everything(mel, lengths, 2))


def test_without_anything_to_change_a_batch_stays() -> None:
    mel, lengths = rows_of((60, 60))
    assert torch.equal(augment()(mel, lengths, 1), mel)


def test_masks_cover_no_more_than_their_share_of_each_row() -> None:
    mel, lengths = rows_of((400, 60))
    mel = mel.nan_to_num(0.0)
    spec = replace(QUIET, probability=1.0, frame_masks=4, frame_mask_size=30, max_masked_share=0.2)
    hidden = [(augment(spec=spec)(mel, lengths, seed) != mel).any(dim=-1) for seed in range(40)]
    shares = torch.stack([each[row, : int(lengths[row])].float().mean() for each in hidden for row in range(2)])
    assert 0.02 < shares.mean() < 0.15 and shares.max() <= 0.2 + 4 / 60


def test_noise_without_recordings_is_refused() -> None:
    with pytest.raises(Exception, match="give --noise"):
        BatchAugment(MelAugmentOptions(noise=0.5), QUIET, [], CPU)


def test_views_that_agree_have_no_divergence_and_a_label_counts_once() -> None:
    logits = torch.randn(1, 9, 5).repeat(2, 1, 1).requires_grad_()
    assert float(view_divergence(logits, torch.tensor([9, 9]), 2, 3)) == pytest.approx(0.0, abs=1e-6)
    other = torch.randn(2, 9, 5, requires_grad=True)
    loss = view_divergence(other, torch.tensor([7, 7]), 2, 3)
    loss.backward()
    assert other.grad is not None and other.grad[:, :7].any() and not other.grad[:, 7:].any()
    assert float(view_divergence(other, torch.tensor([7, 7]), 2, 6)) == pytest.approx(float(loss) / 2)


def batch_of(mel: torch.Tensor, speeds: torch.Tensor) -> ResidentBatch:
    lengths = torch.full((len(mel),), mel.shape[1])
    own = (lengths * speeds).long()
    features = torch.zeros(len(mel), int(own.max()) // 2, 160)
    texts = ("a",) * len(mel)
    return ResidentBatch(features, own // 2, texts, texts, texts, 1, mel.mT, lengths, speeds, 1.0)


def test_a_teacher_says_the_same_of_a_frame_whatever_the_speed() -> None:
    torch.manual_seed(0)
    whisper = WhisperEncoder(64, 3, positions=200)
    mel = torch.randn(2, 120, N_MELS)
    teacher = ListeningTeacher(whisper, (1, 3), [batch_of(mel, torch.ones(2))])
    at_speed, lengths = teacher.targets(batch_of(mel, torch.ones(2)), torch.tensor([30, 30])), torch.tensor([60, 60])
    raw = [(each - mean) / spread for each, mean, spread in zip(
        whisper(mel.mT)[::2], teacher.means, teacher.spreads, strict=True)]  # fmt: skip
    for ours, theirs in zip(at_speed, raw, strict=True):
        torch.testing.assert_close(ours[0], halved(theirs[0]), atol=1e-4, rtol=1e-4)
    slow = teacher.targets(batch_of(mel, torch.full((2,), 2.0)), torch.tensor([60, 60]))
    for ours, theirs in zip(slow, raw, strict=True):
        at = (torch.arange(60) + 0.5)[None] - 0.5
        torch.testing.assert_close(ours, between(theirs, at.expand(2, -1), lengths), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kernel", "stride"), [(15, 1), (15, 2), (3, 1)])
def test_shifted_products_are_the_depthwise_convolution_with_its_gradients(kernel: int, stride: int) -> None:
    torch.manual_seed(1)
    x, weight = torch.randn(2, 41, 32, requires_grad=True), torch.randn(32, 1, kernel, requires_grad=True)
    plain = depthwise(x, weight, stride=stride, padding=kernel // 2)
    gradient = torch.randn_like(plain)
    shifted = _ShiftedProducts.apply(x, weight.squeeze(1), kernel // 2)[:, ::stride]  # type: ignore[no-untyped-call]
    torch.testing.assert_close(plain, shifted, atol=1e-5, rtol=1e-5)
    ours, theirs = (torch.autograd.grad(each, (x, weight), gradient) for each in (shifted, plain))
    for one_side, other_side in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one_side, other_side, atol=1e-4, rtol=1e-4)


def resident_source(corpus: Path, views: int = 2) -> ResidentSource:
    utterances = training_rows(corpus, split="train", letters=lambda language: "a-z")
    speech = ResidentSpeech(measure_all(utterances, False, 1), CPU)
    stretch = MelAugmentOptions(stretch=0.5)
    options = ResidentOptions(views=views, consistency=0.0)
    return ResidentSource(utterances, speech, options, SpeechBatchOptions(batch_s=8), augment(), stretch)


def test_an_epoch_goes_on_at_any_batch(corpus: Path) -> None:
    source = resident_source(corpus)
    whole, later = list(source.epoch(3)), list(source.epoch(3, skip=1))
    assert len(whole) == len(later) + 1
    assert torch.equal(whole[1].features, later[0].features) and whole[1].texts == later[0].texts
    assert all(len(batch.features) == 2 * len(batch.texts) for batch in whole)


def test_what_stands_behind_an_utterance_is_zero(corpus: Path) -> None:
    for batch in resident_source(corpus).epoch(0):
        for row, length in zip(batch.features, batch.lengths.tolist(), strict=True):
            assert not row[length:].any() and row[:length].any()


def test_a_recording_that_cannot_be_read_is_told_and_left_out(corpus: Path, tmp_path: Path) -> None:
    rows = training_rows(corpus, split="train")
    broken = replace(rows[0], id="broken", audio=tmp_path / "none.flac")
    told: list[str] = []
    speech = ResidentSpeech(measure_all([broken, rows[1]], False, 1), CPU, told.append)
    assert set(speech.offsets) == {rows[1].id} and "broken" in told[0] and "no such file" in told[0]


def test_a_resident_set_teaches_an_encoder(corpus: Path, books: Path, tmp_path: Path) -> None:
    sections = {"resident": {"views": 2, "processes": 1, "dropout": 0.1}, "encoder_batches": {"batch_s": 8}}
    recipe = small_tiny_recipe(sections, steps=2, evaluate_every=2, log_every=1)
    build(recipe, Materials(corpus, tmp_path / "out", books), ("tokenizer", "encoder"), silent)
    rows = [json.loads(line) for line in (tmp_path / "out" / "encoder" / "log.jsonl").read_text().splitlines()]
    assert any("views_tokens" in row and row["views_tokens"] > 0 for row in rows) and "token_wer" in rows[-1]


def test_consistency_without_views_is_refused() -> None:
    with pytest.raises(ConfigError, match="set views = 2, or consistency = 0"):
        ResidentOptions(views=1)


def test_interpolation_is_that_of_pytorch() -> None:
    frames, lengths = rows_of((12,))
    at = (torch.arange(30) + 0.5)[None] * 12 / 30 - 0.5
    plain = F.interpolate(frames.mT, size=30, mode="linear", align_corners=False).mT
    torch.testing.assert_close(between(frames, at, lengths), plain, atol=1e-5, rtol=1e-5)


def test_batches_differ_between_epochs(corpus: Path) -> None:
    source = resident_source(corpus)
    order = [[batch.texts for batch in source.epoch(epoch)] for epoch in (0, 1)]
    assert order[0] != order[1]
