"""Forced alignment: when each word of an utterance is spoken, by the character head of a NAR model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from redline import audio
from redline.decoding.word_times import scored_word_times
from redline.engine.scheduler import batches_by_length
from redline.errors import RedlineError
from redline.features import FRAME_RATE, FRAME_SAMPLES, batch_features
from redline.manifest import Utterance
from redline.models.nar import NarModel
from redline.normalize import letters_of, spoken
from redline.types import SAMPLE_RATE, Waveform


@dataclass(frozen=True)
class AlignmentOptions:
    """How texts are aligned, and which alignments are believed."""

    least_score: float = -2.5  # mean log probability of a frame below which a text does not fit its recording
    batch_s: float = 120.0


def samples_of(utterance: Utterance) -> NDArray[np.float32]:
    """Its part of its recording, [N]; raises `AudioError` where that cannot be read."""
    whole = audio.load(utterance.audio).samples
    end = None if utterance.end is None else round(utterance.end * SAMPLE_RATE)
    return whole[round(utterance.start * SAMPLE_RATE) : end]


@torch.inference_mode()
def time_words(
    model: NarModel,
    utterances: Sequence[Utterance],
    options: AlignmentOptions = AlignmentOptions(),
    progress: Callable[[float], None] = lambda seconds: None,
) -> tuple[list[Utterance], dict[str, str]]:
    """The utterances with the times of their words in spoken form, in order, and the dropped ones: id -> reason.

    Times are seconds from the start of the utterance. `progress` gets the seconds of each batch.
    """
    weight = model.encoder.input_linear.weight
    frame_s = model.config.encoder.subsampling / FRAME_RATE
    timed: dict[int, Utterance] = {}
    dropped: dict[str, str] = {}
    for group in batches_by_length([row.duration for row in utterances], options.batch_s):
        clips: dict[int, tuple[str, Waveform]] = {}
        for index in group:
            row = utterances[index]
            text = spoken(row.text, letters_of(row.language))
            try:
                clip = Waveform(samples_of(row), str(row.audio))
            except RedlineError as error:
                dropped[row.id] = str(error)
                continue
            if text and len(clip.samples) >= FRAME_SAMPLES:
                clips[index] = (text, clip)
            else:
                dropped[row.id] = "no sound" if text else "no words"
        if clips:
            features, lengths = batch_features([clip for _, clip in clips.values()], model.config.frame_rule)
            encoded = model.encoder(features.to(weight.device, weight.dtype), lengths.to(weight.device))
            texts = [text for text, _ in clips.values()]
            aligned = scored_word_times(texts, encoded.char_logits, encoded.lengths, frame_s)
            for index, (words, score) in zip(clips, aligned, strict=True):
                row = utterances[index]
                if score >= options.least_score:
                    timed[index] = replace(row, words=tuple(words))
                else:
                    dropped[row.id] = f"does not fit the sound: {score:.2f}, allowed is {options.least_score:g}"
        progress(sum(utterances[index].duration for index in group))
    return [timed[index] for index in sorted(timed)], dropped
