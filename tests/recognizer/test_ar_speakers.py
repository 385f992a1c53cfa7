"""Speakers told by their embeddings, where the encoder's draft is the text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from redline import load_model
from redline.decoding.speculative import SpeculativeOptions
from redline.errors import UnsupportedTaskError
from redline.recognizer import ArRecognizer
from redline.types import SAMPLE_RATE, Request, Task, Waveform, Word, share
from tests.builders import recognize_clips
from tests.recognizer.ar_models import hears, recognizer_of, two_sounds


@pytest.fixture
def recognizer(folders: dict[str, Path]) -> ArRecognizer:
    return recognizer_of(folders["speakers"], SpeculativeOptions("trust"))


def even_times(texts: Sequence[str], logits: Tensor, lengths: Tensor, frame_s: float) -> list[tuple[list[Word], float]]:
    """Words over all of their clip; where a random encoder hears them means nothing."""
    spans = [length * frame_s for length in lengths.tolist()]
    return [(share(text.split(), 0.0, span), 0.0) for text, span in zip(texts, spans, strict=True)]


def test_each_word_has_a_speaker_and_each_speaker_an_embedding(
    recognizer: ArRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redline.recognizer.ar_batch.scored_word_times", even_times)
    hears(monkeypatch, "so it is and it was so")
    clips = [two_sounds(5.0, 1), two_sounds(6.1, 2), two_sounds(0.7, 3)]
    together = recognize_clips(recognizer, clips, Task(speakers=True))
    assert together == [recognize_clips(recognizer, [clip], Task(speakers=True))[0] for clip in clips]
    for hypothesis in together:
        assert hypothesis.text == " ".join(turn.text for turn in hypothesis.turns) == "so it is and it was so"
        assert [word.speaker for word in hypothesis.words] == [
            turn.speaker for turn in hypothesis.turns for _ in turn.text.split()
        ]
        assert {voice.speaker for voice in hypothesis.speaker_embeddings} == {turn.speaker for turn in hypothesis.turns}
        assert all(
            np.linalg.norm(voice.vector) == pytest.approx(1.0, abs=1e-5) for voice in hypothesis.speaker_embeddings
        )
    assert len(together[0].speaker_embeddings) > 1, "the two halves sound alike: the test proves nothing"
    limits = recognizer.limits(Task(speakers=True))
    assert not limits.needs_previous and limits.max_s == 30.0


def test_a_prefix_keeps_its_speakers_and_is_left_out(recognizer: ArRecognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    hears(monkeypatch, "so it is and it was so")
    (hypothesis,) = recognize_clips(recognizer, [two_sounds(2.0, 1)], Task(speakers=True, prefix="[Speaker 4]: so it"))
    assert hypothesis.text == "is and it was so" == " ".join(turn.text for turn in hypothesis.turns)
    assert hypothesis.turns[0].speaker == "4"


def test_what_is_asked_is_checked_without_a_prompt_too(recognizer: ArRecognizer) -> None:
    tasks = (Task(speakers=True, keywords=("a",) * 101), Task(speakers=True, language="fr"))
    answers = recognizer.recognize([Request(two_sounds(1.0, 1), task) for task in tasks])
    for answer, task, message in zip(answers, tasks, ("allowed are 100", "does not know the language"), strict=True):
        assert isinstance(answer, UnsupportedTaskError) and message in str(answer)
        with pytest.raises(UnsupportedTaskError, match=message):
            recognizer.limits(task)


def test_a_telephone_is_warned_of(recognizer: ArRecognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    hears(monkeypatch, "so it is")
    wide = np.random.default_rng(5).normal(0, 0.1, 2 * SAMPLE_RATE)
    spectrum = np.fft.rfft(wide)
    spectrum[round(len(spectrum) * 3400 / 8000) :] = 0.0
    clips = [Waveform(wave.astype(np.float32)) for wave in (wide, np.fft.irfft(spectrum))]
    hypotheses = recognize_clips(recognizer, clips, Task(speakers=True))
    assert [[notice.code for notice in hypothesis.warnings] for hypothesis in hypotheses] == [[], ["narrow-band"]]
    assert recognize_clips(recognizer, clips[1:], Task())[0].warnings == ()


def test_the_language_model_names_speakers_where_it_writes(folders: dict[str, Path]) -> None:
    recognizer = load_model(folders["speakers"], drafts="none").recognizer
    assert isinstance(recognizer, ArRecognizer) and recognizer.limits(Task(speakers=True)).needs_previous
    assert not recognizer.plan(Task(speakers=True)).by_embedding
    recognizer.drafts = SpeculativeOptions("trust")
    assert recognizer.plan(Task(speakers=True)).by_embedding
