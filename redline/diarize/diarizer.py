"""`Diarizer`: who says the words of one recording, for any recognizer that tells when they are said.

Each window is heard by the speaker embedding network where it has words. Once all have, they are clustered together.
Who cannot wait for that has speakers told apart within each window and linked with those before, online; the whole
recording is better, and keeps the names that were told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
import torch.nn.functional as F

from redline.audio.levels import levelled
from redline.decoding.tags import speaker_turns
from redline.diarize.cluster import ClusterOptions, EmbeddedWords, assign_speakers_to_all, embed_words, name_speakers
from redline.diarize.embedder import SpeakerEmbedder, is_narrow
from redline.diarize.known import joined_voices, named
from redline.diarize.link import link
from redline.diarize.options import SpeakerOptions
from redline.diarize.overlap import overlaps_of
from redline.diarize.track import TimeSpan, VoiceTrack
from redline.errors import DataError
from redline.features import FRAME_SAMPLES, clip_features, samples_on
from redline.types import Hypothesis, Notice, SpeakerEmbedding, Waveform

NARROW = Notice(
    "narrow-band",
    "nothing above 4.5 kHz is heard, as on a telephone; voices are harder to tell apart in it: tell how many speak "
    "where that is known, and check who does",
)


MIN_SAMPLE_S = 1.0
"""Less speech tells nothing of a voice."""


@dataclass
class ClipVoices:
    """What is known of a clip before its words are: how to hear it, and where two speak at once."""

    track: VoiceTrack
    overlaps: list[TimeSpan]
    is_narrow: bool


@dataclass
class EmbeddedWindow:
    """A window that has its words, and its embeddings; `embedded` is in times of the recording."""

    start_s: float
    hypothesis: Hypothesis
    embedded: EmbeddedWords
    overlaps: list[TimeSpan]


@dataclass
class Diarizer:
    """The speakers of one recording."""

    embedder: SpeakerEmbedder
    options: SpeakerOptions = SpeakerOptions()
    clustering: ClusterOptions = ClusterOptions()
    speakers: tuple[SpeakerEmbedding, ...] = ()
    """Who was heard, after `finish`."""
    notices: tuple[Notice, ...] = ()
    """About the recording as a whole, after `finish`."""
    _embedded: dict[int, ClipVoices] = field(default_factory=dict)  # of windows without words yet
    _windows: list[EmbeddedWindow] = field(default_factory=list)
    _linked: tuple[SpeakerEmbedding, ...] | None = None

    def __post_init__(self) -> None:
        self.clustering = replace(self.clustering, least=self.options.least, most=self.options.most)

    def embed(self, id: int, clip: Waveform) -> None:
        """Window number `id` of the recording."""
        if len(clip.samples) >= FRAME_SAMPLES:
            self._embedded[id] = self.embedder.alone(partial(embed_clip, self.embedder, clip))

    def add(self, id: int, start_s: float, hypothesis: Hypothesis) -> Hypothesis:
        """The words of the next window in time, which begins at `start_s`; online with the speakers known so far."""
        clip = self._embedded.pop(id, None)
        if not hypothesis.words or clip is None:
            return hypothesis
        hypothesis = replace(hypothesis, warnings=hypothesis.warnings + ((NARROW,) if clip.is_narrow else ()))
        words = [replace(word, start=word.start + start_s, end=word.end + start_s) for word in hypothesis.words]
        embedded = embed_words(words, clip.track.moved(start_s), self.clustering)
        if self.options.online:
            labels, vectors = assign_speakers_to_all([embedded], replace(self.clustering, least=1))
            known = self.options.voices if self._linked is None else self._linked
            alone = _with_speakers(hypothesis, labels, _embeddings([hypothesis], labels, vectors))
            self._linked, hypothesis = link(known, alone, self.options.most)
            hypothesis = replace(hypothesis, overlaps=overlaps_of(clip.overlaps, hypothesis.words))
        self._windows.append(EmbeddedWindow(start_s, hypothesis, embedded, clip.overlaps))
        return hypothesis

    def finish(self) -> dict[float, Hypothesis]:
        """The hypotheses of all windows with words, by their starts, with the speakers of the whole recording."""
        if not self._windows:
            return {}
        embedded = [at.embedded for at in self._windows]
        labels, vectors = self.embedder.alone(partial(assign_speakers_to_all, embedded, self.clustering))
        speakers = _embeddings([at.hypothesis for at in self._windows], labels, vectors)
        speakers = self._as_shown(labels, speakers) if self.options.online else named(speakers, self.options.voices)
        if self.options.database is not None and not self.speakers:
            self.options.database.add(speakers)
        self.speakers = joined_voices((), speakers)
        finished, first = {}, 0
        for at in self._windows:
            own = labels[first : first + len(at.hypothesis.words)]
            spoken = _with_speakers(at.hypothesis, own, speakers)
            finished[at.start_s] = replace(spoken, overlaps=overlaps_of(at.overlaps, spoken.words))
            first += len(own)
        return finished

    def _as_shown(self, labels: Sequence[int], speakers: Sequence[SpeakerEmbedding]) -> list[SpeakerEmbedding]:
        """Speakers under the names that most of their words had when they were told."""
        shown = [word.speaker or "" for at in self._windows for word in at.hypothesis.words]
        names = name_speakers(labels, shown)
        if changed := sum(name != before for name, before in zip(names, shown, strict=True)):
            message = (
                f"{changed} of {len(shown)} words have another speaker, by all that was said, than when they were shown"
            )
            self.notices = (Notice("speakers-changed", message),)
        by_label = dict(zip(labels, names, strict=True))
        return [replace(speaker, speaker=by_label[label]) for label, speaker in enumerate(speakers)]


@torch.inference_mode()
def embed_clip(embedder: SpeakerEmbedder, clip: Waveform) -> ClipVoices:
    """The windows of a clip, where two speak at once, and whether it is as narrow as a telephone's band."""
    features = clip_features(samples_on(levelled(clip).samples, embedder.out.weight.device))
    narrow = is_narrow(features)
    # In a telephone's band more than half of what was marked was wrong.
    overlaps = [] if narrow or embedder.find_overlaps is None else embedder.find_overlaps(features)
    return ClipVoices(embedder.track(features), overlaps, narrow)


def voice_of(embedder: SpeakerEmbedder, name: str, clips: Sequence[Waveform]) -> SpeakerEmbedding:
    """The embedding of somebody who alone speaks in some clips; raises `DataError` where that is too little."""
    clips = [clip for clip in clips if len(clip.samples) >= FRAME_SAMPLES]
    seconds = round(sum(clip.duration for clip in clips), 3)
    if seconds < MIN_SAMPLE_S:
        source = clips[0].source if clips else "the recording"
        raise DataError(
            f"{source}: {seconds:g} s of speech for the voice of {name}; give a recording in which {name} alone speaks "
            f"for at least {MIN_SAMPLE_S:g} s, better for 10"
        )
    embeddings = torch.cat([embed_clip(embedder, clip).track.embeddings for clip in clips])
    mean = F.normalize(embeddings.mean(dim=0), dim=0)
    return SpeakerEmbedding(name, tuple(mean.tolist()), seconds)


def _embeddings(
    hypotheses: Sequence[Hypothesis], labels: Sequence[int], vectors: torch.Tensor
) -> list[SpeakerEmbedding]:
    """The speakers of some words, numbered from 1, with the seconds of their words."""
    seconds = [0.001] * len(vectors)
    words = [word for hypothesis in hypotheses for word in hypothesis.words]
    for word, label in zip(words, labels, strict=True):
        seconds[label] += word.end - word.start
    return [
        SpeakerEmbedding(str(label + 1), tuple(vector), round(amount, 3))
        for label, (vector, amount) in enumerate(zip(vectors.tolist(), seconds, strict=True))
    ]


def _with_speakers(hypothesis: Hypothesis, labels: Sequence[int], speakers: Sequence[SpeakerEmbedding]) -> Hypothesis:
    """A hypothesis whose words are said by these speakers."""
    pairs = zip(hypothesis.words, labels, strict=True)
    words = tuple(replace(word, speaker=speakers[label].speaker) for word, label in pairs)
    own = tuple(speakers[label] for label in sorted(set(labels)))
    return replace(hypothesis, words=words, turns=speaker_turns(words), speaker_embeddings=own)
