"""Who says each word, by the sound of voices: windows over words are grouped, then every word finds its group.

Voices are given as unit vectors; the more two point the same way, the likelier they are one. Within a clip, windows of
about a second are linked by the mean of all their similarities, and words take the voice that their surroundings sound
like, on a path that changes speakers rarely and rather in pauses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from redline.features import FRAME_RATE
from redline.types import Hypothesis, SpeakerEmbedding, Turn, Word

Track = Callable[[Sequence[tuple[int, int]]], Tensor]
"""Spans of frames -> their directions [N, E]."""


@dataclass(frozen=True)
class ClusterOptions:
    """How words are given to voices; times in seconds, similarities between -1 and 1."""

    window_s: float = 0.8
    hop_s: float = 0.3
    pause_s: float = 0.15
    """A longer pause between words may be a change of speakers: no window reaches over it."""
    same: float = 0.52
    """Windows that are on average more alike than this are of one voice."""
    known: float = 0.75
    """Voices that are more alike than this, each over all it says in the clip, are one."""
    least_s: float = 1.6
    """A voice that is heard for less is taken for one of the others."""
    most: int = 4
    """Voices in one clip."""
    around_s: float = 0.4
    """How far to both sides of a word its voice is listened to."""
    certainty: float = 40.0
    """Worth of a second that sounds alike, beside the cost of a change of speakers."""
    change: float = 4.0
    change_in_pause: float = 2.0
    """What a change costs between two words, and after a pause of half a second."""
    rounds: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.hop_s <= self.window_s:
            raise ValueError(f"hop_s is {self.hop_s}; allowed are more than 0 and at most window_s, {self.window_s}")
        if self.most < 1 or self.rounds < 1:
            raise ValueError(f"most is {self.most}, rounds is {self.rounds}; both are at least 1")


LONG_PAUSE_S = 0.5


def attribute(words: Sequence[Word], track: Track, frames: int, options: ClusterOptions) -> tuple[list[int], Tensor]:
    """Words of a clip of so many frames -> the voice of each, numbered as they come, and their directions [K, E]."""
    runs = _runs(words, options.pause_s)
    spans = [span for first, last in runs for span in _windows(words[first].start, words[last].end, options)]
    heard = track([_frames(start, end, frames) for start, end in spans])  # [N, E]
    seconds = torch.tensor([max(end - start, 0.1) for start, end in spans])
    voices = _central(heard, seconds, agglomerate(heard @ heard.T, seconds, options.same), options)
    around = track([_frames(*span, frames) for span in _surroundings(words, runs, options.around_s)])  # [W, E]
    seconds = torch.tensor([max(word.end - word.start, 0.1) for word in words])
    costs = _costs(words, options)
    for turn in range(options.rounds):
        path = best_path(options.certainty * seconds[:, None] * (around @ voices.T), costs)
        if turn + 1 < options.rounds:
            voices = _central(around, seconds, path, options)
    order = list(dict.fromkeys(path))
    voices = torch.stack([_direction(around, seconds, path, voice) for voice in order])
    return [order.index(voice) for voice in path], voices


def agglomerate(similarity: Tensor, weights: Tensor, same: float) -> list[int]:
    """Groups of things by average linkage: similarities [N, N] and weights [N] -> a label for each.

    The two groups that are most alike become one, as long as they are more alike than `same` on average.
    """
    alike, weights = similarity.double().clone(), weights.double().clone()
    alike.fill_diagonal_(-torch.inf)
    labels = torch.arange(len(alike))
    while len(alike) > 1:
        one, other = sorted(divmod(int(alike.argmax()), len(alike)))
        if not alike[one, other] >= same:
            break
        joined = (weights[one] * alike[one] + weights[other] * alike[other]) / (weights[one] + weights[other])
        alike[one], alike[:, one] = joined, joined
        alike[one, one] = -torch.inf
        alike[other], alike[:, other] = -torch.inf, -torch.inf
        weights[one] += weights[other]
        labels[labels == other] = one
    return [int(label) for label in labels]


def best_path(scores: Tensor, costs: Tensor) -> list[int]:
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


def named(labels: Sequence[int], given: Sequence[str]) -> list[str]:
    """Names of voices: those of the first words are given, each voice has the one it has most; others are numbered."""
    votes: dict[int, Counter[str]] = {}
    for label, name in zip(labels, given, strict=False):
        votes.setdefault(label, Counter())[name] += 1
    names = {label: count.most_common(1)[0][0] for label, count in votes.items()}
    free = (str(number) for number in range(1, len(labels) + len(given) + 1) if str(number) not in set(given))
    return [names[label] if label in names else names.setdefault(label, next(free)) for label in labels]


def told(words: Sequence[Word], speakers: Sequence[str], labels: Sequence[int], directions: Tensor) -> Hypothesis:
    """The hypothesis that these words were said by these speakers, whose voices have labels and directions [K, E]."""
    said = tuple(replace(word, speaker=speaker) for word, speaker in zip(words, speakers, strict=True))
    turns: list[Turn] = []
    for speaker, own in groupby(said, key=lambda word: word.speaker or ""):
        run = list(own)
        turns.append(Turn(speaker, run[0].start, run[-1].end, " ".join(word.text for word in run)))
    seconds = dict.fromkeys(sorted(labels), 0.001)
    for word, label in zip(words, labels, strict=True):
        seconds[label] += word.end - word.start
    owners = dict(zip(labels, speakers, strict=True))
    heard = tuple(
        SpeakerEmbedding(owners[label], tuple(directions[label].tolist()), round(amount, 3))
        for label, amount in seconds.items()
    )
    return Hypothesis(" ".join(word.text for word in words), words=said, turns=tuple(turns), speaker_embeddings=heard)


def _runs(words: Sequence[Word], pause_s: float) -> list[tuple[int, int]]:
    """First and last word of each stretch without a pause."""
    starts = [at for at in range(len(words)) if not at or words[at].start - words[at - 1].end >= pause_s]
    return list(zip(starts, [*(start - 1 for start in starts[1:]), len(words) - 1], strict=True))


def _windows(start: float, end: float, options: ClusterOptions) -> list[tuple[float, float]]:
    """Windows that cover a stretch of speech evenly."""
    room = end - start - options.window_s
    if room <= 0:
        return [(start, end)]
    count = max(2, round(room / options.hop_s) + 1)
    starts = [start + room * number / (count - 1) for number in range(count)]
    return [(begin, begin + options.window_s) for begin in starts]


def _surroundings(words: Sequence[Word], runs: Sequence[tuple[int, int]], around_s: float) -> list[tuple[float, float]]:
    """For each word the words near it in its run, from the start of the first to the end of the last."""
    spans = []
    for first, last in runs:
        for at in range(first, last + 1):
            middle = (words[at].start + words[at].end) / 2
            near = [n for n in range(first, last + 1) if n == at or _near(words[n], middle, around_s)]
            spans.append((words[near[0]].start, words[near[-1]].end))
    return spans


def _near(word: Word, middle: float, around_s: float) -> bool:
    return word.start >= middle - around_s and word.end <= middle + around_s


def _frames(start: float, end: float, frames: int) -> tuple[int, int]:
    first = min(frames - 1, max(0, int(start * FRAME_RATE)))
    return first, max(first + 1, min(frames, int(end * FRAME_RATE)))


def _costs(words: Sequence[Word], options: ClusterOptions) -> Tensor:
    """What a change of speakers costs before each word, the less the longer the pause."""
    gaps = [0.0, *(max(0.0, two.start - one.end) for one, two in pairwise(words))]
    shares = torch.tensor(gaps).clamp(max=LONG_PAUSE_S) / LONG_PAUSE_S
    return options.change + shares * (options.change_in_pause - options.change)


def _central(heard: Tensor, seconds: Tensor, labels: Sequence[int], options: ClusterOptions) -> Tensor:
    """The directions [K, E] of the voices that are heard long enough, the longest first; at least of one.

    Those that are more alike than `known` are one.
    """
    length: dict[int, float] = {}
    for label, amount in zip(labels, seconds.tolist(), strict=True):
        length[label] = length.get(label, 0.0) + amount
    ranked = sorted(length, key=lambda label: -length[label])[: options.most]
    kept = [label for label in ranked if length[label] >= options.least_s] or ranked[:1]
    found = torch.stack([_direction(heard, seconds, labels, label) for label in kept])
    amounts = torch.tensor([length[label] for label in kept])
    groups = agglomerate(found @ found.T, amounts, options.known)
    return torch.stack([_direction(found, amounts, groups, group) for group in dict.fromkeys(groups)])


def _direction(heard: Tensor, seconds: Tensor, labels: Sequence[int], label: int) -> Tensor:
    own = torch.tensor([one == label for one in labels])
    return F.normalize((heard[own] * seconds[own, None]).sum(dim=0), dim=0)
