"""Recordings on their way through a scheduler."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from redline.engine.recordings import Recording, WaveformSound
from redline.longform.session import Session
from redline.testing import FakeRecognizer, tone
from redline.types import Task


def test_a_recording_that_has_been_read_lets_its_sound_go() -> None:
    sounds: list[weakref.ref[WaveformSound]] = []

    @contextmanager
    def opened() -> Iterator[WaveformSound]:
        sound = WaveformSound(tone(1.0))
        sounds.append(weakref.ref(sound))
        yield sound

    recording = Recording(opened, Session(FakeRecognizer().limits(Task()), Task()))
    recording.read()
    assert sounds[0]() is not None and recording.known_s == 1.0
    while not recording.ended:
        recording.read()
    assert sounds[0]() is None and recording.known_s == 1.0
