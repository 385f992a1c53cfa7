"""Seams and silence with the bundled model: words at seams are whole, and where nobody speaks there are none."""

from __future__ import annotations

import numpy as np
import pytest

import redline
from redline.evaluate.seams import segment_errors
from redline.longform.session import SessionOptions
from redline.longform.windows import WindowOptions
from redline.normalize import normalised
from redline.testing import silence, tone
from redline.types import Waveform
from tests.scripts.loading import script

SHIFTS_S = (0.0, 0.37, 1.21)


def test_words_at_seams_are_neither_lost_nor_doubled(tiny: redline.Model, jfk: Waveform) -> None:
    """The same speech three times in a row, in windows of at most 8 s, so that most seams lie in a sentence."""
    whole = normalised(tiny.transcribe(jfk, language="en").text, "en").split()
    options = SessionOptions(window=WindowOptions(join_s=2.0, max_s=8.0))
    seams = lost = added = 0
    for shift_s in SHIFTS_S:
        samples = np.concatenate((silence(shift_s).samples, *[jfk.samples] * 3))
        transcript = tiny.transcribe(Waveform(samples), language="en", session_options=options)
        errors = segment_errors(" ".join(whole * 3), [normalised(each.text, "en") for each in transcript.segments])
        seams += len(errors.seams)
        for seam in errors.seams:
            words, gaps = errors.near(seam)
            lost += sum(not errors.matched[word] for word in words)
            added += sum(len(errors.added[gap]) for gap in gaps)
    assert seams >= 9 and lost <= seams / 4 and added <= seams / 4, "with less around it the model changes its mind"


@pytest.mark.parametrize("options", [SessionOptions(), SessionOptions(window=WindowOptions(max_s=8.0))])
def test_longest_windows_are_kept(options: SessionOptions, tiny: redline.Model, jfk: Waveform) -> None:
    transcript = tiny.transcribe(jfk, session_options=options)
    assert all(each.end - each.start <= (options.window.max_s or 30.0) for each in transcript.segments)
    assert transcript.segments[0].start == 0.0 and transcript.segments[-1].end == jfk.duration


def test_where_nobody_speaks_there_are_no_words(tiny: redline.Model) -> None:
    sounds = script("no_speech").sounds
    names = []
    for name, samples in sounds(20.0):
        transcript = tiny.transcribe(Waveform(samples, name), language="en")
        names.append(name)
        assert transcript.text == "" and "no-speech" in {notice.code for notice in transcript.warnings}, name
    assert len(names) == 13 and tiny.transcribe(tone(20.0)).text == ""
