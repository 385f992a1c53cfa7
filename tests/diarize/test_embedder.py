"""Speaker embeddings: the network's front end, spans of a clip, and its file."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

from redline.diarize.cluster import ClusterOptions
from redline.diarize.embedder import HOP_S, SPEAKER_HEAD, SpeakerEmbedder, load_embedder, save_embedder
from redline.engine.crew import run_launches
from redline.errors import CheckpointError
from redline.features import FEATURE_DIM, clip_features
from redline.types import SAMPLE_RATE
from redline_recipes.tiny.speaker_embedding import band_weights, slaney_filters
from tests.diarize.networks import hearing_all_bands


@pytest.fixture
def head() -> SpeakerEmbedder:
    torch.manual_seed(0)
    return hearing_all_bands(SpeakerEmbedder(8))


def test_a_clip_no_longer_than_a_window_has_one_embedding(head: SpeakerEmbedder) -> None:
    for length in (31, 1):
        row = torch.randn(length, FEATURE_DIM)
        track = head.track(row)
        spans = [(0.0, length / 50), (length / 150, length / 100), ((length - 1) / 50, length / 50)]
        torch.testing.assert_close(track(spans), head(head.mel(row)[None]).expand(3, -1), atol=1e-5, rtol=1e-4)


def test_a_span_has_the_mean_embedding_of_the_windows_in_it(head: SpeakerEmbedder) -> None:
    row = torch.randn(200, FEATURE_DIM)
    track = head.track(row, 0.2)
    mel = head.mel(row)
    windows = torch.stack([head(mel[20 * at : 20 * at + 140][None])[0] for at in range(14)])  # 1.4 s every 0.2 s
    wanted = [windows.mean(dim=0), windows[2:6].mean(dim=0), windows[0], windows[13], windows[6]]
    embeddings = track([(start / 50, end / 50) for start, end in ((0, 200), (55, 85), (0, 3), (190, 200), (97, 102))])
    torch.testing.assert_close(embeddings, F.normalize(torch.stack(wanted), dim=-1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("start", [1.0, 1.13, 1.27, 1.39])
def test_the_windows_of_a_short_turn_are_heard_wherever_it_begins(head: SpeakerEmbedder, start: float) -> None:
    """A second between two other voices: at least two windows lie mostly in it, and decide what it sounds like."""
    row = torch.randn(500, FEATURE_DIM)
    middles = head.track(row).middles_s
    inside = (middles >= start) & (middles <= start + ClusterOptions.span_s)
    assert int(inside.sum()) >= 2
    torch.testing.assert_close(middles.diff(), torch.full((len(middles) - 1,), HOP_S))


@pytest.mark.parametrize("count", range(1, 7))
def test_every_window_has_an_embedding_of_its_own(head: SpeakerEmbedder, count: int) -> None:
    row = torch.randn(70 + 20 * (count - 1) + 7, FEATURE_DIM)
    mel, track = head.mel(row), head.track(row)
    windows = torch.stack([mel[40 * at : 40 * at + 140] for at in range(count)])  # 1.4 s every 0.4 s
    torch.testing.assert_close(track.embeddings, head(windows), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(track.middles_s, 0.7 + 0.4 * torch.arange(count))


def test_only_windows_in_spans_are_heard(head: SpeakerEmbedder) -> None:
    row = torch.randn(1000, FEATURE_DIM)
    track, marks = head.track(row), list[Tensor]()

    def embed(marked: Tensor) -> Tensor:
        marks.append(marked)
        return track.embed(marked)

    spans = [(1.8, 2.4), (2.2, 3.2), (9.21, 9.23), (19.3, 20.0)]  # the third has no middle, the last is behind all
    embeddings = replace(track, embed=embed)(spans)
    assert [marked.nonzero()[:, 0].tolist() for marked in marks] == [[3, 4, 5, 6, 21, 46]]
    everything = track.embeddings
    wanted = torch.stack([everything[3:5].mean(0), everything[4:7].mean(0), everything[21], everything[46]])
    torch.testing.assert_close(embeddings, F.normalize(wanted, dim=-1), atol=1e-5, rtol=1e-4)


def test_threads_hear_what_one_hears(head: SpeakerEmbedder) -> None:
    track = head.track(torch.randn(1000, FEATURE_DIM))
    alone = track.embeddings
    head.run_launches = partial(run_launches, is_sequential=True)
    assert len(alone) == 47 and torch.equal(track.embeddings, alone)
    assert head.alone(torch.get_num_threads) == 1 and head.alone(lambda: torch.equal(track.embeddings, alone))


def test_loudness_changes_nothing(head: SpeakerEmbedder) -> None:
    clip = torch.randn(90, FEATURE_DIM)
    quiet, loud = (head.track(part)([(0.0, 1.8), (0.06, 0.4)]) for part in (clip, clip + 0.7))
    torch.testing.assert_close(quiet, loud, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("gain", [0.01, 1.0])
def test_the_network_hears_what_it_was_trained_on(gain: float) -> None:
    head = SpeakerEmbedder(8).eval()
    head.bands.copy_(band_weights())
    time = torch.arange(round(1.6 * SAMPLE_RATE)) / SAMPLE_RATE
    voice = torch.stack([torch.sin(2 * torch.pi * 140.0 * n * time) / n for n in range(1, 30)]).sum(dim=0)
    samples = gain * (voice + 0.2 * torch.randn(len(time), generator=torch.Generator().manual_seed(0)))
    # Its own front end: 25 ms Hann windows, 30 dB below full scale, the power in 40 bands of Slaney's scale.
    level = samples * 10.0 ** (-30.0 / 20.0) / samples.square().mean().sqrt()
    window = torch.hann_window(400)
    spectrum = torch.stft(level, 400, 160, window=window, center=True, pad_mode="constant", return_complex=True)
    filters = mel_filter_bank(201, 40, 0.0, 8000.0, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
    wanted = spectrum.abs().square().T @ torch.from_numpy(filters).float()
    mel = head.mel(clip_features(samples))
    middle = slice(10, 150)  # edges are padded in another way
    wrong = (mel[middle] - wanted[middle]).abs().mean(dim=0) / wanted[middle].mean(dim=0)
    assert float(wrong.median()) < 0.1 and float((mel[middle].sum() / wanted[middle].sum()).log().abs()) < 0.05
    expected = mel_filter_bank(257, 40, 0.0, 8000.0, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
    torch.testing.assert_close(slaney_filters(), torch.from_numpy(expected).float(), atol=1e-7, rtol=1e-5)


def test_an_embedder_is_written_and_read(head: SpeakerEmbedder, tmp_path: Path) -> None:
    read = load_embedder(save_embedder(head, tmp_path / SPEAKER_HEAD))
    mel = 0.1 * torch.rand(2, 40, 40)
    torch.testing.assert_close(read(mel), head(mel), atol=0.02, rtol=0.05)
    assert (tmp_path / SPEAKER_HEAD).stat().st_size < 1.1 * sum(weight.numel() for weight in head.parameters())
    again = load_embedder(save_embedder(read, tmp_path / SPEAKER_HEAD))
    for name, tensor in read.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor)
    (tmp_path / SPEAKER_HEAD).write_bytes(b"no")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_embedder(tmp_path / SPEAKER_HEAD)
