"""Seams and silence with the bundled model: words at seams are whole, and where nobody speaks there are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import redline
from redline import audio
from redline.evaluate.seams import segment_errors
from redline.longform.session import SessionOptions
from redline.longform.windows import WindowOptions
from redline.normalize import normalised
from redline.testing import silence, tone
from redline.types import SAMPLE_RATE, Waveform
from tests.scripts.loading import script

DATA = Path(__file__).parents[1] / "data"
LONGEST_S = (6.0, 8.0, 10.0, 12.0)


def test_words_at_seams_are_neither_lost_nor_doubled(jfk: Waveform) -> None:
    """The same speech three times in a row, in windows so short that most seams lie in a sentence."""
    tiny = redline.load_model("tiny", device="cpu", dtype="float32")  # so few words near seams that rounding counts
    whole = normalised(tiny.transcribe(jfk, language="en").text, "en").split()
    seams = lost = added = 0
    samples = np.concatenate([jfk.samples] * 3)
    for max_s in LONGEST_S:
        options = SessionOptions(window=WindowOptions(join_s=2.0, max_s=max_s))
        transcript = tiny.transcribe(Waveform(samples), language="en", session_options=options)
        errors = segment_errors(" ".join(whole * 3), [normalised(each.text, "en") for each in transcript.segments])
        seams += len(errors.seams)
        for seam in errors.seams:
            words, gaps = errors.near(seam)
            lost += sum(not errors.matched[word] for word in words)
            added += sum(len(errors.added[gap]) for gap in gaps)
    assert seams >= 9 and lost <= seams / 4 and added <= seams / 4, "with less around it the model changes its mind"


def test_silence_in_front_changes_no_word(tiny: redline.Model, jfk: Waveform) -> None:
    samples = np.concatenate([jfk.samples] * 3)
    plain = tiny.transcribe(Waveform(samples), language="en")
    digital = np.concatenate((silence(1.21).samples, samples))
    assert tiny.transcribe(Waveform(digital), language="en").text == plain.text and len(plain.segments) > 1
    room = np.concatenate((script("seams").room_tone(samples, 20_001), samples))
    behind = tiny.transcribe(Waveform(room), language="en").segments[1:]
    assert [each.text for each in behind] == [each.text for each in plain.segments[1:]]


@pytest.mark.parametrize("options", [SessionOptions(), SessionOptions(window=WindowOptions(max_s=8.0))])
def test_longest_windows_are_kept(options: SessionOptions, tiny: redline.Model, jfk: Waveform) -> None:
    transcript = tiny.transcribe(jfk, session_options=options)
    assert all(each.end - each.start <= (options.window.max_s or 30.0) for each in transcript.segments)
    assert transcript.segments[0].start < 0.1 and transcript.segments[-1].end > jfk.duration - 0.4


def test_where_nobody_speaks_there_are_no_words(tiny: redline.Model) -> None:
    sounds = script("no_speech").sounds
    names = []
    for name, samples in sounds(20.0):
        transcript = tiny.transcribe(Waveform(samples, name), language="en")
        names.append(name)
        assert transcript.text == "" and "no-speech" in {notice.code for notice in transcript.warnings}, name
    assert len(names) == 13 and tiny.transcribe(tone(20.0)).text == ""


def test_babble_in_another_language_gives_no_words_that_anybody_would_believe(tiny: redline.Model) -> None:
    no_speech = script("no_speech")
    german = audio.load(DATA / "audio" / "de_rhasspy-0018.opus").samples
    parts = [german[: len(german) // 2], german[len(german) // 2 :], german[len(german) // 4 : -len(german) // 4]]
    babble = Waveform(no_speech.babble(parts, 8, 15 * SAMPLE_RATE), "eight at once")
    confidences = [word.confidence for word in tiny.transcribe(babble, language="en", words=True).words]
    assert np.mean([each or 0.0 for each in confidences] or [0.0]) < 0.3
    assert sum((each or 0.0) >= no_speech.SURE for each in confidences) <= 0.1 * len(confidences)
