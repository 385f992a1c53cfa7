"""Diarization of words: agglomerative clustering of speaker embeddings, then a Viterbi path over the words.

Speaker embeddings are unit vectors, compared by cosine similarity. Spans of about a second over the words of all
windows of a recording are clustered by average linkage (`linkage`), which is cut where the clusters are no longer alike
or where there are as many as are asked for; then every word takes the speaker that it and the words around it are most
similar to, on a path that changes speakers rarely and rather in pauses.

W words, N spans, K speakers, E dimensions of an embedding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from redline.diarize.linkage import Merge, cut, merges
from redline.diarize.track import TimeSpan
from redline.types import Word

Track = Callable[[Sequence[TimeSpan]], Tensor]
"""Spans in seconds -> their speaker embeddings [N, E]."""
LONG_PAUSE_S = 0.5
LONG_VOICE_S = 60.0
LEFTOVER_SHARE = 0.4
MIN_WEIGHT_S = 0.1
"""What a shorter span or word weighs."""


@dataclass(frozen=True)
class ClusterOptions:
    """How words are given to speakers; similarities are cosines."""

    least: int = 1
    most: int | None = None
    """How many speakers there may be; None: as many as are heard."""
    span_s: float = 0.8
    hop_s: float = 0.3
    pause_s: float = 0.15
    """A longer pause between words may be a change of speakers: no span reaches over it."""
    span_similarity: float = 0.5
    """Clusters of spans that are on average more similar than this are merged."""
    speaker_similarity: float = 0.7
    """Clusters that are more similar than this, each over all its words, are merged."""
    leftover_similarity: float = 0.58
    """A cluster with 0.4 or less of the speech of one of a minute or more is merged with it above this."""
    min_speaker_s: float = 1.6
    """A cluster of less speech is dropped; its words go to the others."""
    min_cluster_s: float = 1.6
    """The same of spans, which lap over each other."""
    min_share: float = 0.0025
    """The same as a share of all speech, up to `most_min_s`."""
    most_min_s: float = 5.0
    context_s: float = 0.4
    """How far to both sides of a word its surroundings reach."""
    emission_weight: float = 40.0
    """Worth of a second of full similarity, beside the cost of a change of speakers."""
    change_cost: float = 4.0
    pause_change_cost: float = 2.0
    """What a change costs after a pause of half a second."""
    iterations: int = 3
    block: int = 1500
    """Spans that are clustered at once; more are first clustered in blocks of as many."""
    block_similarity: float = 0.7
    """Clusters of a block that are more similar than this are one span from then on."""

    def for_speech(self, spoken_s: float) -> ClusterOptions:
        """The same for so much speech: in an hour of it there are odd seconds that are like nobody, and are nobody."""
        least_s = min(self.most_min_s, self.min_share * spoken_s)
        laps = self.span_s / self.hop_s
        return replace(
            self,
            min_speaker_s=max(self.min_speaker_s, least_s),
            min_cluster_s=max(self.min_cluster_s, laps * least_s),
        )


@dataclass(frozen=True, eq=False)
class EmbeddedWords:
    """The words of a window in time order, at least one, and how the voices in it sound."""

    words: Sequence[Word]
    seconds: Tensor
    """Of the spans over the words [N]."""
    spans: Tensor
    """The embeddings of these [N, E]."""
    around: Tensor
    """The embeddings of the words' surroundings [W, E]."""


def embed_words(words: Sequence[Word], track: Track, options: ClusterOptions) -> EmbeddedWords:
    """The words of a window with the embeddings that speakers are told by; the track is in the same times."""
    runs = _runs(words, options.pause_s)
    spans = [span for run in runs for span in _spans(run[0].start, run[-1].end, options)]
    around = [_surroundings(word, run, options.context_s) for run in runs for word in run]
    embeddings = track([*spans, *around])
    return EmbeddedWords(words, _seconds(spans), embeddings[: len(spans)], embeddings[len(spans) :])


def assign_speakers(words: Sequence[Word], track: Track, options: ClusterOptions) -> tuple[list[int], Tensor]:
    """Words of one window -> the speaker of each, numbered as they come, and the speakers' embeddings [K, E]."""
    return assign_speakers_to_all([embed_words(words, track, options)], options)


def assign_speakers_to_all(windows: Sequence[EmbeddedWords], options: ClusterOptions) -> tuple[list[int], Tensor]:
    """The words of all windows -> the speaker of each, numbered as they come, and the speakers' embeddings [K, E].

    Windows come in time order, and the times of their words are those of the recording.
    """
    all_words = [word for window in windows for word in window.words]
    options = options.for_speech(sum(word.end - word.start for word in all_words))
    embeddings = torch.cat([window.around for window in windows])  # [W, E]
    seconds = _seconds([(word.start, word.end) for word in all_words])
    spans = torch.cat([window.spans for window in windows])
    speakers = _found(spans, torch.cat([window.seconds for window in windows]), options)
    gaps = [0.0, *(max(0.0, after.start - before.end) for before, after in pairwise(all_words))]
    shares = torch.tensor(gaps).clamp(max=LONG_PAUSE_S) / LONG_PAUSE_S
    costs = options.change_cost + shares * (options.pause_change_cost - options.change_cost)
    for iteration in range(options.iterations):
        path = viterbi_path(options.emission_weight * seconds[:, None] * (embeddings @ speakers.T), costs)
        if iteration + 1 < options.iterations:
            speakers = _centroids(embeddings, seconds, path, options)
    order = list(dict.fromkeys(path))
    speakers = torch.stack([_centroid(embeddings, seconds, path, speaker) for speaker in order])
    return [order.index(speaker) for speaker in path], speakers


def viterbi_path(scores: Tensor, costs: Tensor) -> list[int]:
    """The best sequence of states: scores [W, K] of each place, costs [W] of another state than at the place before."""
    rows, penalties, states = scores.numpy(), costs.numpy(), np.arange(scores.shape[1])
    total, came_from = rows[0], np.empty(rows.shape, np.intp)
    for at in range(1, len(rows)):
        change = total.max() - penalties[at]
        came_from[at] = np.where(total >= change, states, total.argmax())
        total = np.maximum(total, change) + rows[at]
    path = [int(total.argmax())]
    for places in came_from[:0:-1]:
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


def _spans(start: float, end: float, options: ClusterOptions) -> list[TimeSpan]:
    """Spans that cover a stretch of speech evenly."""
    room = end - start - options.span_s
    if room <= 0:
        return [(start, end)]
    count = max(2, round(room / options.hop_s) + 1)
    starts = [start + room * number / (count - 1) for number in range(count)]
    return [(begin, begin + options.span_s) for begin in starts]


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


def _found(embeddings: Tensor, seconds: Tensor, options: ClusterOptions) -> Tensor:
    """Embeddings [K, E] of the speakers that spans [N, E] of so many seconds [N] tell of."""
    if len(embeddings) > options.block:
        blocks = zip(embeddings.split(options.block), seconds.split(options.block), strict=True)
        parts = [joined_spans(*block, options.block_similarity) for block in blocks]
        return _found(torch.cat([part for part, _ in parts]), torch.cat([amount for _, amount in parts]), options)
    history = merges(embeddings @ embeddings.T, seconds)
    labels = _cut(history, seconds.tolist(), options)
    return _centroids(embeddings, seconds, labels, options)


def joined_spans(embeddings: Tensor, seconds: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Spans as clusters that are more similar than `least`, at most half as many: their embeddings and seconds."""
    history = merges(embeddings @ embeddings.T, seconds)
    alike = sum(merge.similarity >= least for merge in history)
    labels = cut(history, len(embeddings), max(alike, len(embeddings) // 2))
    clusters = list(dict.fromkeys(labels))
    amounts = torch.stack([seconds[torch.tensor(labels) == label].sum() for label in clusters])
    return torch.stack([_mean(embeddings, seconds, labels, label) for label in clusters]), amounts


def _cut(history: Sequence[Merge], seconds: Sequence[float], options: ClusterOptions) -> list[int]:
    """The clusters of spans of so many seconds where as many as may be have enough speech, or as near to it as can be.

    Without a number the clusters are those that are more similar than `span_similarity`.
    """
    amounts = list(seconds)
    enough = sum(amount >= options.min_cluster_s for amount in amounts)
    counts = [enough]  # clusters with enough speech after each merge
    for merge in history:
        before = (amounts[merge.into] >= options.min_cluster_s) + (amounts[merge.taken] >= options.min_cluster_s)
        amounts[merge.into] += amounts[merge.taken]
        enough += (amounts[merge.into] >= options.min_cluster_s) - before
        counts.append(enough)
    level = sum(merge.similarity >= options.span_similarity for merge in history)
    if options.most is not None and counts[level] > options.most:
        level = next(at for at in range(level, len(counts)) if counts[at] <= options.most or at == len(counts) - 1)
    elif counts[level] < options.least:
        reached = list(accumulate(counts[level::-1], max))
        wanted = min(options.least, reached[-1])
        level -= next(back for back, count in enumerate(reached) if count >= wanted)
    return cut(history, len(seconds), level)


def _centroids(embeddings: Tensor, seconds: Tensor, labels: Sequence[int], options: ClusterOptions) -> Tensor:
    """Embeddings [K, E] of the speakers with enough speech, most speech first; at least of as many as are asked for,
    where there are."""
    length: dict[int, float] = {}
    for label, amount in zip(labels, seconds.tolist(), strict=True):
        length[label] = length.get(label, 0.0) + amount
    ranked = sorted(length, key=lambda label: -length[label])
    kept = [label for at, label in enumerate(ranked) if at < options.least or length[label] >= options.min_speaker_s]
    kept = kept[: options.most]
    centroids = torch.stack([_centroid(embeddings, seconds, labels, label) for label in kept])
    amounts = torch.tensor([length[label] for label in kept])
    history = merges(centroids @ centroids.T, amounts)
    alike = sum(merge.similarity >= options.speaker_similarity for merge in history)
    merged = cut(history, len(kept), max(0, min(alike, len(kept) - options.least)))
    clusters = list(dict.fromkeys(merged))
    centroids = torch.stack([_centroid(centroids, amounts, merged, label) for label in clusters])
    amounts = torch.stack([amounts[torch.tensor(merged) == label].sum() for label in clusters])
    return _without_leftovers(centroids, amounts, options)


def _without_leftovers(centroids: Tensor, amounts: Tensor, options: ClusterOptions) -> Tensor:
    """Speakers [K, E] without what is left over of a voice that speaks long: it changes more than one heard briefly."""
    while len(centroids) > options.least:
        is_leftover = (LEFTOVER_SHARE * amounts >= amounts[:, None]) & (amounts >= LONG_VOICE_S)
        alike = (centroids @ centroids.T).masked_fill(~is_leftover, -1.0)
        small, large = divmod(int(alike.argmax()), len(centroids))
        if alike[small, large] < options.leftover_similarity:
            break
        centroids[large] = F.normalize(amounts[small] * centroids[small] + amounts[large] * centroids[large], dim=0)
        amounts[large] += amounts[small]
        rest = torch.arange(len(centroids)) != small
        centroids, amounts = centroids[rest], amounts[rest]
    return centroids


def _centroid(embeddings: Tensor, seconds: Tensor, labels: Sequence[int], label: int) -> Tensor:
    return F.normalize(_mean(embeddings, seconds, labels, label), dim=0)


def _mean(embeddings: Tensor, seconds: Tensor, labels: Sequence[int], label: int) -> Tensor:
    """Not a unit vector: the product of two is the mean similarity of their spans, as average linkage wants it."""
    own = torch.tensor(labels) == label
    return (embeddings[own] * seconds[own, None]).sum(dim=0) / seconds[own].sum()
