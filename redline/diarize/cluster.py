"""Diarization of one clip's words: agglomerative clustering of speaker embeddings, then a Viterbi path over the words.

Speaker embeddings are unit vectors, compared by cosine similarity. Windows of about a second over the words are
clustered by average linkage; then every word takes the speaker that it and the words around it are most similar to, on
a path that changes speakers rarely and rather in pauses. Overlapped speech gets one speaker.

W words, N windows, K speakers, E dimensions of an embedding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from redline.types import Word

TimeSpan = tuple[float, float]
Track = Callable[[Sequence[TimeSpan]], Tensor]
"""Spans in seconds -> their speaker embeddings [N, E]."""
LONG_PAUSE_S = 0.5
MIN_WEIGHT_S = 0.1
"""What a shorter window or word weighs."""


@dataclass(frozen=True)
class ClusterOptions:
    """How words are given to speakers; similarities are cosines."""

    window_s: float = 0.8
    hop_s: float = 0.3
    pause_s: float = 0.15
    """A longer pause between words may be a change of speakers: no window reaches over it."""
    window_similarity: float = 0.52
    """Clusters of windows that are on average more similar than this are merged."""
    speaker_similarity: float = 0.75
    """Clusters that are more similar than this, each over all its words, are merged."""
    min_speaker_s: float = 1.6
    """A cluster of less speech is dropped; its words go to the others."""
    max_speakers: int = 4
    context_s: float = 0.4
    """How far to both sides of a word its surroundings reach."""
    emission_weight: float = 40.0
    """Worth of a second of full similarity, beside the cost of a change of speakers."""
    change_cost: float = 4.0
    pause_change_cost: float = 2.0
    """What a change costs after a pause of half a second."""
    iterations: int = 3


def assign_speakers(words: Sequence[Word], track: Track, options: ClusterOptions) -> tuple[list[int], Tensor]:
    """Words in time order -> the speaker of each, numbered as they come, and the speakers' embeddings [K, E]."""
    runs = _runs(words, options.pause_s)
    windows = [span for run in runs for span in _windows(run[0].start, run[-1].end, options)]
    embeddings, seconds = track(windows), _seconds(windows)  # [N, E], [N]
    labels = agglomerate(embeddings @ embeddings.T, seconds, options.window_similarity)
    speakers = _centroids(embeddings, seconds, labels, options)
    embeddings = track([_surroundings(word, run, options.context_s) for run in runs for word in run])  # [W, E]
    seconds = _seconds([(word.start, word.end) for word in words])
    gaps = [0.0, *(max(0.0, after.start - before.end) for before, after in pairwise(words))]
    shares = torch.tensor(gaps).clamp(max=LONG_PAUSE_S) / LONG_PAUSE_S
    costs = options.change_cost + shares * (options.pause_change_cost - options.change_cost)
    for iteration in range(options.iterations):
        path = viterbi_path(options.emission_weight * seconds[:, None] * (embeddings @ speakers.T), costs)
        if iteration + 1 < options.iterations:
            speakers = _centroids(embeddings, seconds, path, options)
    order = list(dict.fromkeys(path))
    speakers = torch.stack([_centroid(embeddings, seconds, path, speaker) for speaker in order])
    return [order.index(speaker) for speaker in path], speakers


def agglomerate(similarity: Tensor, weights: Tensor, least: float) -> list[int]:
    """Agglomerative clustering by average linkage: similarities [N, N] and weights [N] -> a label for each.

    The two most similar clusters are merged as long as they are more similar than `least` on average.
    """
    similarity, weights = similarity.double().clone(), weights.double().clone()
    similarity.fill_diagonal_(-torch.inf)
    labels = torch.arange(len(similarity))
    while len(similarity) > 1:
        a, b = sorted(divmod(int(similarity.argmax()), len(similarity)))
        if not similarity[a, b] >= least:
            break
        merged = (weights[a] * similarity[a] + weights[b] * similarity[b]) / (weights[a] + weights[b])
        similarity[a], similarity[:, a] = merged, merged
        similarity[a, a] = -torch.inf
        similarity[b], similarity[:, b] = -torch.inf, -torch.inf
        weights[a] += weights[b]
        labels[labels == b] = a
    return [int(label) for label in labels]


def viterbi_path(scores: Tensor, costs: Tensor) -> list[int]:
    """The best sequence of states: scores [W, K] of each place, costs [W] of another state than at the place before."""
    total, came_from = scores[0], list[Tensor]()
    for row, cost in zip(scores[1:], costs[1:], strict=True):
        change = total.max() - cost
        came_from.append(torch.where(total >= change, torch.arange(len(total)), total.argmax()))
        total = torch.maximum(total, change) + row
    path = [int(total.argmax())]
    for places in reversed(came_from):
        path.append(int(places[path[-1]]))
    return path[::-1]


def name_speakers(labels: Sequence[int], given: Sequence[str]) -> list[str]:
    """Names of the words' speakers: those of the first words are given, and a speaker has the name it has most.

    Speakers without one are numbered.
    """
    votes: dict[int, Counter[str]] = {}
    for label, name in zip(labels, given, strict=False):
        votes.setdefault(label, Counter())[name] += 1
    names = {label: count.most_common(1)[0][0] for label, count in votes.items()}
    free = (str(number) for number in range(1, len(labels) + len(given) + 1) if str(number) not in set(given))
    return [names[label] if label in names else names.setdefault(label, next(free)) for label in labels]


def _runs(words: Sequence[Word], pause_s: float) -> list[Sequence[Word]]:
    """The words of each stretch without a pause."""
    starts = [at for at in range(len(words)) if not at or words[at].start - words[at - 1].end >= pause_s]
    return [words[start:end] for start, end in pairwise([*starts, len(words)])]


def _windows(start: float, end: float, options: ClusterOptions) -> list[TimeSpan]:
    """Windows that cover a stretch of speech evenly."""
    room = end - start - options.window_s
    if room <= 0:
        return [(start, end)]
    count = max(2, round(room / options.hop_s) + 1)
    starts = [start + room * number / (count - 1) for number in range(count)]
    return [(begin, begin + options.window_s) for begin in starts]


def _surroundings(word: Word, run: Sequence[Word], context_s: float) -> TimeSpan:
    """From the start of the first to the end of the last of the words near a word in its run."""
    middle = (word.start + word.end) / 2
    near = [
        other
        for other in run
        if other is word or (other.start >= middle - context_s and other.end <= middle + context_s)
    ]
    return near[0].start, near[-1].end


def _seconds(spans: Sequence[TimeSpan]) -> Tensor:
    return torch.tensor([max(end - start, MIN_WEIGHT_S) for start, end in spans])


def _centroids(embeddings: Tensor, seconds: Tensor, labels: Sequence[int], options: ClusterOptions) -> Tensor:
    """Embeddings [K, E] of the speakers with enough speech, most speech first; at least of one."""
    length: dict[int, float] = {}
    for label, amount in zip(labels, seconds.tolist(), strict=True):
        length[label] = length.get(label, 0.0) + amount
    ranked = sorted(length, key=lambda label: -length[label])[: options.max_speakers]
    kept = [label for label in ranked if length[label] >= options.min_speaker_s] or ranked[:1]
    centroids = torch.stack([_centroid(embeddings, seconds, labels, label) for label in kept])
    amounts = torch.tensor([length[label] for label in kept])
    merged = agglomerate(centroids @ centroids.T, amounts, options.speaker_similarity)
    return torch.stack([_centroid(centroids, amounts, merged, label) for label in dict.fromkeys(merged)])


def _centroid(embeddings: Tensor, seconds: Tensor, labels: Sequence[int], label: int) -> Tensor:
    own = torch.tensor(labels) == label
    return F.normalize((embeddings[own] * seconds[own, None]).sum(dim=0), dim=0)
