"""Known voices: names by samples, and a database that keeps them from recording to recording."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from redline.diarize.known import SpeakerDatabase, joined_voices, named
from redline.errors import DataError
from redline.longform.session import SessionOptions
from redline.testing import FakeRecognizer
from redline.transcriber import Transcriber
from redline.types import SpeakerEmbedding, Waveform
from tests.diarize.networks import ByPitch
from tests.diarize.test_diarizer import evenly, hum, talk


@pytest.fixture
def model() -> Transcriber:
    return Transcriber(FakeRecognizer(evenly, max_clip_s=12.0), embedder=ByPitch)


def voice(name: str, *vector: float, seconds: float = 1.0) -> SpeakerEmbedding:
    return SpeakerEmbedding(name, vector, seconds)


def test_names_are_of_the_most_similar_voice_and_numbers_are_free_ones() -> None:
    known = [voice("Ana", 1.0, 0.0), voice("1", 0.0, 1.0)]
    heard = [voice("1", -1.0, 0.0), voice("2", 0.8, 0.6), voice("3", 0.0, 1.0), voice("4", 1.0, 0.0)]
    assert [each.speaker for each in named(heard, known)] == ["2", "Ana", "1", "Ana"]
    (ana,) = joined_voices([voice("Ana", 1.0, 0.0, seconds=3.0)], [voice("Ana", 0.0, 1.0)])
    assert ana.seconds == 4.0 and ana.vector == pytest.approx((3 / 10**0.5, 1 / 10**0.5))


def test_a_voice_names_one_of_two_who_are_like_it() -> None:
    known = [voice("Ana", 1.0, 0.0)]
    heard = [voice("1", 0.7, 0.714), voice("2", 0.95, -0.312)]
    assert [each.speaker for each in named(heard, known)] == ["1", "Ana"], "both are like Ana, one is more"
    assert [each.speaker for each in named(heard[:1], known)] == ["Ana"]
    sure = [voice("1", 0.95, 0.312), *heard[1:]]
    assert [each.speaker for each in named(sure, known)] == ["Ana", "Ana"], "a voice that was parted in two"


def speakers(model: Transcriber, sound: Any, **options: Any) -> list[str]:
    return [turn.speaker for turn in model.transcribe(Waveform(sound), vad=False, **options).turns]


def test_samples_give_names(model: Transcriber) -> None:
    samples = {"Ana": Waveform(hum(3.0, 1200.0, 7)), "Zoe": Waveform(hum(3.0, 6000.0, 8))}
    sound = talk(300.0, 1200.0, 300.0)
    everything = SessionOptions(vad=None)  # the detector hears no speech in tones
    assert speakers(model, sound, speaker_samples=samples, session_options=everything) == ["1", "Ana", "1"]


def test_a_sample_without_speech_is_refused(model: Transcriber) -> None:
    silent = Waveform(np.zeros(48_000, np.float32), "quiet.wav")
    with pytest.raises(DataError, match=r"0 s of speech for the voice of Ana; give a recording"):
        model.transcribe(Waveform(talk(300.0)), speaker_samples={"Ana": silent})


def test_names_stay_from_recording_to_recording(model: Transcriber, tmp_path: Path) -> None:
    path = tmp_path / "voices.json"
    assert speakers(model, talk(300.0, 1200.0), speaker_db=path) == ["1", "2"]
    assert speakers(model, talk(3500.0, 1200.0), speaker_db=path) == ["3", "2"]
    database = SpeakerDatabase.open(path, "", 40)
    assert [(each.speaker, round(each.seconds)) for each in database.speakers] == [("1", 6), ("2", 12), ("3", 6)]
    database.rename({"2": "Ana"})
    two = model.transcribe([Waveform(talk(1200.0)), Waveform(talk(6000.0))], speaker_db=path, vad=False)
    assert [turn.speaker for each in two for turn in each.turns] == ["Ana", "2"], (
        "a number that became a name is free again"
    )
    database.rename({"3": "Ana"})
    assert [each.speaker for each in SpeakerDatabase.open(path, "", 40).speakers] == ["1", "Ana"]


def spoil(change: Callable[[dict[str, Any]], object]) -> Callable[[str], str]:
    def spoiled(text: str) -> str:
        values = json.loads(text)
        change(values)
        return json.dumps(values)

    return spoiled


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        (lambda text: text[:40], "no database of speakers; move it away"),
        (lambda text: "[]", "no database of speakers; move it away"),
        (spoil(lambda values: values.update(format="other")), "its format is 'other'"),
        (spoil(lambda values: values.update(embedder="abc")), "of another network"),
        (spoil(lambda values: values["speakers"][0].pop("name")), "speaker 0 is damaged"),
        (spoil(lambda values: values["speakers"][0]["vector"].pop()), "a unit vector of 40 numbers"),
        (spoil(lambda values: values["speakers"][0].update(seconds=-1)), "speaker 0 is damaged"),
        (spoil(lambda values: values["speakers"][0].update(vector=[9.0] * 40)), "speaker 0 is damaged"),
        (spoil(lambda values: values["speakers"].append(values["speakers"][0])), "a name comes twice"),
        (spoil(lambda values: values.update(speakers="none")), "speaker 0 is damaged"),
    ],
)
def test_a_foreign_or_damaged_database_is_refused_and_left_alone(
    spoiled: Callable[[str], str], message: str, model: Transcriber, tmp_path: Path
) -> None:
    path = tmp_path / "voices.json"
    speakers(model, talk(300.0), speaker_db=path)
    path.write_text(bad := spoiled(path.read_text()))
    with pytest.raises(DataError, match=message):
        model.transcribe(Waveform(talk(300.0)), speaker_db=path)
    assert path.read_text() == bad


def test_a_database_that_cannot_be_written_is_refused_before_the_work(model: Transcriber, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="choose another --speaker-db"):
        model.transcribe(Waveform(talk(300.0)), speaker_db=tmp_path / "none" / "voices.json")
