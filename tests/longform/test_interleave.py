"""Channels of a recording, one voice each, as one transcript."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from redline import formats
from redline.errors import AudioError, ConfigError
from redline.longform.interleave import interleaved
from redline.testing import FakeRecognizer
from redline.transcriber import Transcriber
from redline.types import SAMPLE_RATE, Hypothesis, Notice, Overlap, Segment, Transcript, Waveform, Word


def said(*words: tuple[float, str]) -> Transcript:
    """A channel with words of 0.3 s, in one segment."""
    own = tuple(Word(start, round(start + 0.3, 3), text) for start, text in words)
    text = " ".join(word.text for word in own)
    return Transcript(text, (Segment(0, 0.0, 9.0, text, draft=text, words=own),), "en", 9.0, "fake")


def test_channels_are_in_the_order_of_time() -> None:
    left = said((0.0, "how"), (0.3, "are"), (0.6, "you"), (4.0, "fine"))
    right = said((0.7, "good"), (1.0, "and"), (1.3, "you"))
    whole = interleaved([left, right])
    assert isinstance(whole, Transcript) and whole.text == "how are you good and you fine"
    assert [(part.id, part.speaker, part.start, part.end, part.text, part.draft) for part in whole.segments] == [
        (0, "1", 0.0, 0.9, "how are you", "how are you"),
        (1, "2", 0.7, 1.6, "good and you", "good and you"),
        (2, "1", 4.0, 4.3, "fine", "fine"),
    ]
    assert [(turn.speaker, turn.text) for turn in whole.turns] == [
        ("1", "how are you"),
        ("2", "good and you"),
        ("1", "fine"),
    ]
    assert [part.overlaps for part in whole.segments] == [(Overlap(0.7, 0.9, "2"),), (Overlap(0.7, 0.9, "1"),), ()]
    named = formats.rename_speakers(whole, {"2": "Ana"})
    assert named.segments[0].overlaps == (Overlap(0.7, 0.9, "Ana"),) and named.segments[1].speaker == "Ana"
    assert {word.speaker for word in whole.words[:3]} == {"1"} and Transcript.from_dict(whole.to_dict()).turns


def test_a_channel_that_fails_or_is_not_done_is_told_and_not_lost() -> None:
    failed, left = AudioError("a.wav: broken"), said((0.0, "yes"))
    whole = interleaved([left, failed, None])
    assert isinstance(whole, Transcript) and whole.text == "yes"
    assert [(notice.code, notice.message[:10]) for notice in whole.warnings] == [
        ("failed", "channel 2:"),
        ("interrupted", "channel 3:"),
    ]
    assert interleaved([failed, failed]) is failed and interleaved([None, None]) is None
    noted = interleaved([Transcript("", warnings=(Notice("no-speech", "nothing"),))])
    assert isinstance(noted, Transcript) and [notice.code for notice in noted.warnings] == ["no-speech", "one-channel"]


def loudness(clip: Waveform) -> Hypothesis:
    """One word, which tells how loud a clip is, as long as it is loud."""
    loud = np.flatnonzero(np.abs(clip.samples) > 1e-3)
    word = f"{np.abs(clip.samples[loud]).max():.1f}"
    return Hypothesis(word, words=(Word(int(loud[0]) / SAMPLE_RATE, int(loud[-1]) / SAMPLE_RATE, word),))


@pytest.fixture
def model() -> Transcriber:
    return Transcriber(FakeRecognizer(loudness))


@pytest.fixture
def stereo() -> NDArray[np.float32]:
    """The second channel speaks first."""
    sound = np.zeros((4 * SAMPLE_RATE, 2), np.float32)
    tone = np.sin(2 * np.pi * 500 / SAMPLE_RATE * np.arange(SAMPLE_RATE)).astype(np.float32)
    sound[2 * SAMPLE_RATE : 3 * SAMPLE_RATE, 0], sound[:SAMPLE_RATE, 1] = 0.2 * tone, 0.4 * tone
    return sound


def test_every_kind_of_source_is_split(model: Transcriber, stereo: NDArray[np.float32], tmp_path: Path) -> None:
    path, pipe = tmp_path / "a.wav", tmp_path / "pipe"
    soundfile.write(path, stereo, SAMPLE_RATE)
    data = path.read_bytes()
    os.mkfifo(pipe)
    threading.Thread(target=lambda: pipe.write_bytes(data), daemon=True).start()
    sources: list[Any] = [path, data, io.BytesIO(data), path.open("rb"), pipe]
    results = model.transcribe(sources, channels="split", vad=False)
    results.append(model.transcribe(stereo, sample_rate=SAMPLE_RATE, channels="split", vad=False))
    for result in results:
        assert [(turn.speaker, turn.text) for turn in result.turns] == [("2", "0.4"), ("1", "0.2")]
        assert not result.warnings
    mixed = model.transcribe(path, vad=False)
    assert not mixed.turns and mixed.text != results[0].text


def test_a_bad_source_harms_only_itself(model: Transcriber, stereo: NDArray[np.float32], tmp_path: Path) -> None:
    path, mono = tmp_path / "a.wav", tmp_path / "mono.wav"
    soundfile.write(path, stereo, SAMPLE_RATE)
    soundfile.write(mono, stereo[:, 1], SAMPLE_RATE)
    bad, good, single = model.transcribe_each([tmp_path / "none.wav", path, mono], channels="split", vad=False)
    assert isinstance(bad, AudioError) and isinstance(good, Transcript) and len(good.turns) == 2
    assert isinstance(single, Transcript) and [notice.code for notice in single.warnings] == ["one-channel"]


@pytest.mark.parametrize(
    "options", [{"channels": "both"}, {"channels": "split", "speakers": 2}, {"channels": "split", "speaker_db": "a"}]
)
def test_what_does_not_go_with_channels_is_refused(model: Transcriber, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="channels is"):
        model.transcribe(Waveform(np.zeros(SAMPLE_RATE, np.float32)), **options)
    with pytest.raises(ConfigError, match="not stream"):
        model.stream(Waveform(np.zeros(SAMPLE_RATE, np.float32)), channels="split")
