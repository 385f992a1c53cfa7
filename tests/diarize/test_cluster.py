"""Diarization of a clip's words: agglomerative clustering, the Viterbi path over speakers, and their names."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor

from redline.diarize.cluster import (
    ClusterOptions,
    Track,
    assign_speakers,
    assign_speakers_to_all,
    embed_words,
    joined_spans,
    name_speakers,
    viterbi_path,
)
from redline.diarize.linkage import cut, merges
from redline.features import FRAME_RATE
from redline.types import Word


def agglomerate(similarity: Tensor, weights: Tensor, least: float) -> list[int]:
    """Labels where the two most similar clusters are merged as long as they are more similar than `least`."""
    history = merges(similarity, weights)
    return cut(history, len(similarity), sum(merge.similarity >= least for merge in history))


@pytest.mark.parametrize("seed", range(5))
def test_linking_is_average_linkage(seed: int) -> None:
    points = F.normalize(torch.randn(14, 3, generator=torch.Generator().manual_seed(seed)), dim=-1)
    alike = points @ points.T
    apart = (1.0 - alike.double().numpy())[np.triu_indices(14, 1)]
    for same in (-0.2, 0.3, 0.8):
        wanted = fcluster(linkage(apart, "average"), 1.0 - same, "distance")
        labels = agglomerate(alike, torch.ones(14), same)
        assert [[a == b for b in labels] for a in labels] == [[bool(a == b) for b in wanted] for a in wanted]


def test_linking_weighs_what_is_heard_longer() -> None:
    alike = torch.tensor([[1.0, 0.9, 0.6], [0.9, 1.0, 0.0], [0.6, 0.0, 1.0]])
    assert agglomerate(alike, torch.tensor([9.0, 1.0, 1.0]), 0.5) == [0, 0, 0]
    assert agglomerate(alike, torch.tensor([1.0, 9.0, 1.0]), 0.5) == [0, 0, 2]


@pytest.mark.parametrize("seed", range(10))
def test_the_viterbi_path_is_the_best_of_all(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores, costs = torch.randn(6, 3, generator=generator), torch.rand(6, generator=generator)

    def worth(path: Sequence[int]) -> float:
        changes = sum(float(costs[at]) for at in range(1, 6) if path[at] != path[at - 1])
        return sum(float(scores[at, state]) for at, state in enumerate(path)) - changes

    best = max(itertools.product(range(3), repeat=6), key=worth)
    assert worth(viterbi_path(scores, costs)) == pytest.approx(worth(best), abs=1e-5)


def speech(*turns: tuple[int, int], gap_s: float = 0.05) -> tuple[list[Word], list[int]]:
    """Words of 0.3 s of voices, so many each; the voices of the words."""
    words, owners, now = [], list[int](), 0.2
    for voice, count in turns:
        for number in range(count):
            words.append(Word(round(now, 3), round(now + 0.3, 3), f"w{number}"))
            owners.append(voice)
            now += 0.35
        now += gap_s
    return words, owners


def sounding(words: Sequence[Word], owners: Sequence[int], spread: float = 0.3, seed: int = 0) -> Track:
    """A track on which each frame sounds like the owner of the word that is said, and a little at random."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.eye(6)
    frames = spread * torch.randn(2000, 6, generator=generator)
    for word, owner in zip(words, owners, strict=True):
        frames[int(word.start * FRAME_RATE) : int(word.end * FRAME_RATE)] += centres[owner]

    def track(spans: Sequence[tuple[float, float]]) -> Tensor:
        cuts = [(int(start * FRAME_RATE), int(end * FRAME_RATE)) for start, end in spans]
        return torch.stack([F.normalize(frames[start : max(end, start + 1)].mean(dim=0), dim=0) for start, end in cuts])

    return track


@pytest.mark.parametrize(
    "turns",
    [
        [(0, 12)],
        [(0, 8), (1, 7)],
        [(0, 6), (1, 5), (0, 7), (1, 4)],
        [(0, 6), (1, 6), (2, 6), (0, 5)],
    ],
)
@pytest.mark.parametrize("gap_s", [0.0, 0.6])
def test_words_find_their_voices(turns: list[tuple[int, int]], gap_s: float) -> None:
    words, owners = speech(*turns, gap_s=gap_s)
    labels, embeddings = assign_speakers(words, sounding(words, owners), ClusterOptions())
    assert len(embeddings) == len(set(owners)), "a voice was missed or invented"
    wrong = sum(label != owner for label, owner in zip(labels, owners, strict=True))
    # Where nobody pauses, a word beside the change may go either way.
    assert wrong <= (0 if gap_s else len(turns) - 1)
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(len(embeddings)))


def test_one_short_word_is_one_voice() -> None:
    words = [Word(0.0, 0.02, "a")]
    labels, embeddings = assign_speakers(words, sounding(words, [0]), ClusterOptions())
    assert labels == [0] and embeddings.shape == (1, 6)


def test_names_that_are_given_stay() -> None:
    assert name_speakers([0, 0, 1, 2, 1], ["2", "2", "2"]) == ["2", "2", "2", "1", "2"]
    assert name_speakers([0, 1, 0], ["3"]) == ["3", "1", "3"]
    assert name_speakers([0, 1, 2], []) == ["1", "2", "3"]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_as_many_speakers_are_found_as_are_asked_for(count: int) -> None:
    words, owners = speech((0, 8), (1, 7), (2, 8), (0, 6), (2, 5), (1, 6))
    labels, embeddings = assign_speakers(words, sounding(words, owners), ClusterOptions(least=count, most=count))
    assert len(embeddings) == count == len(set(labels))
    if count == 3:
        assert sum(label != owner for label, owner in zip(labels, owners, strict=True)) <= 5


def test_a_range_holds_on_both_sides() -> None:
    words, owners = speech((0, 8), (1, 7), (2, 8), (0, 6))
    for options, count in ((ClusterOptions(1, 2), 2), (ClusterOptions(1, 6), 3), (ClusterOptions(3, 6), 3)):
        assert len(assign_speakers(words, sounding(words, owners), options)[1]) == count


def test_windows_are_clustered_together_and_in_blocks_as_at_once() -> None:
    words, owners = speech(*[(voice, 9) for voice in (0, 1, 2, 1, 0, 2, 1, 0)])
    track = sounding(words, owners)
    windows = [embed_words(words[at : at + 18], track, ClusterOptions()) for at in range(0, len(words), 18)]
    whole, _ = assign_speakers(words, track, ClusterOptions())
    assert assign_speakers_to_all(windows, ClusterOptions())[0] == whole
    in_blocks, _ = assign_speakers_to_all(windows, ClusterOptions(block=20))
    assert sum(a != b for a, b in zip(in_blocks, whole, strict=True)) <= len(words) // 20


def test_cuts_of_the_merges_are_those_of_scipy() -> None:
    points = F.normalize(torch.randn(40, 3, generator=torch.Generator().manual_seed(3)), dim=-1)
    alike = points @ points.T
    history = merges(alike, torch.ones(40))
    tree = linkage((1.0 - alike.double().numpy())[np.triu_indices(40, 1)], "average")
    np.testing.assert_allclose([1.0 - merge.similarity for merge in history], tree[:, 2], atol=1e-6)
    for clusters in (1, 2, 5, 39, 40):
        labels, wanted = cut(history, 40, 40 - clusters), fcluster(tree, clusters, "maxclust")
        assert [[a == b for b in labels] for a in labels] == [[bool(a == b) for b in wanted] for a in wanted]


def directed(words: Sequence[Word], owners: Sequence[int], directions: Tensor) -> Track:
    """A track on which each span sounds like whoever says its words, a little at random."""
    middles = torch.tensor([(word.start + word.end) / 2 for word in words])
    noise = 0.1 * torch.randn(len(words), directions.shape[1], generator=torch.Generator().manual_seed(0))
    heard = directions[torch.tensor(owners)] + noise

    def track(spans: Sequence[tuple[float, float]]) -> Tensor:
        inside = [(middles >= start - 0.2) & (middles <= end + 0.2) for start, end in spans]
        return torch.stack([F.normalize(heard[own].mean(dim=0), dim=0) for own in inside])

    return track


def test_odd_seconds_in_long_speech_are_nobody_and_a_short_speaker_stays() -> None:
    words, owners = speech((0, 150), (1, 150), (2, 8), (0, 100), (3, 30), (1, 50), gap_s=0.6)
    track = directed(words, owners, torch.eye(6))
    short, _ = assign_speakers(words, track, ClusterOptions())
    assert len(set(short)) == 4, "in a minute or two everybody counts"
    labels, speakers = assign_speakers(words, track, ClusterOptions(min_share=0.03))  # as in an hour: 4.4 s
    assert len(speakers) == 3
    guest = {label for label, owner in zip(labels, owners, strict=True) if owner == 3}
    assert len(guest) == 1 and guest.isdisjoint(label for label, own in zip(labels, owners, strict=True) if own != 3)
    least = ClusterOptions().for_speech(36_000.0)
    assert least.min_speaker_s == 5.0 and ClusterOptions().for_speech(100.0) == ClusterOptions()


@pytest.mark.parametrize(("cosine", "speakers"), [(0.62, 2), (0.3, 3)])
def test_what_is_left_over_of_a_long_voice_is_that_voice(cosine: float, speakers: int) -> None:
    words, owners = speech((0, 250), (1, 100), (2, 60), gap_s=0.6)  # 75, 30 and 18 s
    directions = torch.eye(6)
    directions[2] = cosine * directions[0] + (1 - cosine**2) ** 0.5 * directions[2]
    track = directed(words, owners, directions)
    options = ClusterOptions(span_similarity=0.8)  # which alone parts all three
    assert len(assign_speakers(words, track, options)[1]) == speakers
    assert len(assign_speakers(words, track, ClusterOptions(least=3, span_similarity=0.8))[1]) == 3, "unless told"


def test_a_joined_block_is_as_similar_as_its_spans_are_on_average() -> None:
    generator = torch.Generator().manual_seed(0)
    spans = [F.normalize(torch.randn(1, 5, generator=generator) + 0.7 * torch.randn(9, 5, generator=generator), dim=-1)]
    spans += [
        F.normalize(torch.randn(1, 5, generator=generator) + 0.7 * torch.randn(7, 5, generator=generator), dim=-1)
    ]
    means = [joined_spans(each, torch.ones(len(each)), -1.0) for each in spans]
    assert [seconds.tolist() for _, seconds in means] == [[9.0], [7.0]]
    torch.testing.assert_close(means[0][0] @ means[1][0].T, (spans[0] @ spans[1].T).mean()[None, None])
