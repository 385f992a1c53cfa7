"""Recordings on their way through a scheduler."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from numpy.typing import NDArray

from redline.engine.recordings import DecodeAhead, Recording, WaveformSound
from redline.engine.scheduler import BatchOptions
from redline.errors import AudioError, RedlineError
from redline.longform.session import Session, SessionOptions
from redline.testing import FakeRecognizer, tone
from redline.transcriber import Transcriber
from redline.types import Notice, Task


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


class Reel:
    """A recording of so many blocks, which tells how many were taken and whether it was closed."""

    def __init__(self, blocks: int, error: Exception | None = None) -> None:
        self.blocks, self.error, self.taken, self.is_closed = blocks, error, 0, threading.Event()
        self.name, self.duration_s = f"{blocks} blocks", None

    @property
    def warnings(self) -> tuple[Notice, ...]:
        return (Notice("seen", f"{self.taken} blocks"),) if self.taken == self.blocks else ()

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        for number in range(self.blocks):
            self.taken += 1
            yield np.full(16_000, 0.1 * (number + 1), dtype=np.float32)
        if self.error is not None:
            raise self.error

    @contextmanager
    def opened(self) -> Iterator[Reel]:
        try:
            yield self
        finally:
            self.is_closed.set()


def transcripts(reels: list[Reel], read_ahead: int) -> list[object]:
    model = Transcriber(FakeRecognizer(), SessionOptions(vad=None), BatchOptions(read_ahead=read_ahead))
    results = model.run(Recording(reel.opened, model.session(Task(), vad=False)) for reel in reels)
    return [str(result) if isinstance(result, RedlineError) else result.to_dict() for result in results]


@pytest.mark.parametrize("read_ahead", [1, 3, 8])
def test_what_is_decoded_ahead_gives_the_same_transcripts(read_ahead: int) -> None:
    def reels() -> list[Reel]:
        return [Reel(2), Reel(40), Reel(1, AudioError("torn")), Reel(0), Reel(25)]

    ours = reels()
    assert transcripts(ours, read_ahead) == transcripts(reels(), 0)
    assert all(reel.is_closed.wait(5) for reel in ours)


def test_a_recording_is_decoded_no_further_ahead_than_there_is_room_and_closed_when_nobody_reads_on() -> None:
    reel = Reel(1_000)
    ahead = DecodeAhead(reel.opened)
    with ahead:
        block = next(iter(ahead))
        assert len(block) == 16_000
    assert reel.is_closed.wait(5) and reel.taken < 30


def test_an_error_of_opening_is_the_error_of_that_recording_alone() -> None:
    @contextmanager
    def missing() -> Iterator[WaveformSound]:
        raise AudioError("not there")
        yield

    model = Transcriber(FakeRecognizer(), SessionOptions(vad=None), BatchOptions(read_ahead=2))
    opened = [Reel(2).opened, missing, Reel(3).opened]
    results = list(model.run(Recording(each, model.session(Task(), vad=False)) for each in opened))
    assert [isinstance(result, AudioError) for result in results] == [False, True, False]
