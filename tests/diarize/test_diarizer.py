"""Speakers of a recording for any recognizer that tells when words are said."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from redline.diarize.diarizer import ClipVoices, Diarizer
from redline.diarize.options import SpeakerCount, SpeakerOptions, speaker_options
from redline.diarize.track import VoiceTrack
from redline.errors import ConfigError, UnsupportedTaskError
from redline.longform.stitch import drafts_of
from redline.testing import FakeRecognizer
from redline.transcriber import Transcriber
from redline.types import SAMPLE_RATE, Edit, Hypothesis, Task, Turn, Waveform, Word
from tests.diarize.networks import ByPitch

WORD_S = 0.4


def hum(seconds: float, hertz: float, seed: int = 0) -> NDArray[np.float32]:
    """A voice: a tone with a little noise."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    noise = np.random.default_rng(seed).normal(0, 1e-3, len(time))
    return (0.1 * np.sin(2 * np.pi * hertz * time) + noise).astype(np.float32)


def evenly(clip: Waveform) -> Hypothesis:
    """A word every 0.4 s."""
    words = tuple(
        Word(round(at * WORD_S, 3), round((at + 1) * WORD_S, 3), f"w{at}") for at in range(int(clip.duration / WORD_S))
    )
    return Hypothesis(" ".join(word.text for word in words), words=words)


@pytest.fixture
def model() -> Transcriber:
    return Transcriber(FakeRecognizer(evenly, max_clip_s=12.0), embedder=ByPitch)


def talk(*hertz: float, seconds: float = 6.0) -> NDArray[np.float32]:
    return np.concatenate([hum(seconds, tone, seed) for seed, tone in enumerate(hertz)])


def owners(model: Transcriber, sound: NDArray[np.float32], speakers: SpeakerCount) -> list[str]:
    """Who speaks in each six seconds."""
    result = model.transcribe(sound, sample_rate=SAMPLE_RATE, speakers=speakers, vad=False)
    middles = [word for word in result.words if 1.0 < word.start % 6.0 < 5.0]
    assert result.text == " ".join(turn.text for turn in result.turns)
    assert all(word.speaker for word in result.words)
    said: dict[int, set[str]] = {}
    for word in middles:
        said.setdefault(int(word.start // 6.0), set()).add(word.speaker or "")
    assert all(len(names) == 1 for names in said.values())
    return [names.pop() for _, names in sorted(said.items())]


def test_speakers_of_all_windows_are_told_apart_and_counted_as_they_come(model: Transcriber) -> None:
    sound = talk(300.0, 1200.0, 300.0, 3500.0, 1200.0)
    assert owners(model, sound, True) == ["1", "2", "1", "3", "2"]
    assert owners(model, sound, 3) == owners(model, sound, "2-4") == owners(model, sound, (2, 4))
    assert len(set(owners(model, sound, 2))) == 2 and set(owners(model, sound, 1)) == {"1"}


def test_alone_as_among_others_and_a_stream_names_as_it_goes(model: Transcriber) -> None:
    sounds = [talk(300.0, 1200.0), talk(1200.0, 3500.0, 1200.0)]
    waves = [Waveform(sound) for sound in sounds]
    together = model.transcribe(waves, speakers=True, vad=False)
    assert together == [model.transcribe(wave, speakers=True, vad=False) for wave in waves]
    streamed = list(model.stream(waves[1], speakers=True, vad=False))
    assert {segment.speaker for segment in streamed} == {"1", "2"}


def heard_by(online: bool, *degrees: float) -> tuple[Diarizer, list[str]]:
    """A diarizer that heard a window of ten words for each voice, a direction, and who was told to speak in each."""
    diarizer = Diarizer(ByPitch(), SpeakerOptions(online=online))
    told = []
    for id, degree in enumerate(degrees):
        direction = torch.tensor([np.cos(np.radians(degree)), np.sin(np.radians(degree))], dtype=torch.float32)
        track = VoiceTrack(torch.arange(0.2, 4.0, 0.4), direction.repeat(10, 1).__getitem__)
        diarizer._embedded[id] = ClipVoices(track, [], False)
        hypothesis = diarizer.add(id, 10.0 * id, evenly(Waveform(np.zeros(4 * SAMPLE_RATE, np.float32))))
        told.append(hypothesis.words[0].speaker or "")
    return diarizer, told


def test_what_was_told_while_it_was_spoken_stays_or_is_said_to_change() -> None:
    diarizer, told = heard_by(True, 0.0, 120.0, 0.0)
    finished = diarizer.finish()
    assert told == ["1", "2", "1"] == [hypothesis.words[0].speaker for hypothesis in finished.values()]
    assert not diarizer.notices
    # The second window is another voice by the first alone, and the same one by what lies between them.
    diarizer, told = heard_by(True, 0.0, 55.0, 26.0, 26.0)
    finished = diarizer.finish()
    assert told == ["1", "2", "1", "1"] and {word.speaker for each in finished.values() for word in each.words} == {"1"}
    (notice,) = diarizer.notices
    assert notice.code == "speakers-changed" and notice.message.startswith("10 of 40 words")


def test_a_file_tells_speakers_at_its_end_only() -> None:
    diarizer, told = heard_by(False, 0.0, 120.0)
    assert told == ["", ""]
    assert [hypothesis.words[0].speaker for hypothesis in diarizer.finish().values()] == ["1", "2"]


def test_a_live_transcript_has_the_speakers_that_were_told(model: Transcriber) -> None:
    live = model.live(speakers=True, vad=False)
    events = [*live.feed(talk(300.0, 1200.0, 300.0)), *live.close()]
    told = [word.speaker for event in events if event.kind == "committed" for word in event.words]
    transcript = live.transcript()
    kept = [word.speaker for word in transcript.words]
    changed = sum(speaker != before for speaker, before in zip(kept, told, strict=True))
    assert set(told) == set(kept) == {"1", "2"} and changed <= 3, "only words beside a change of speakers"
    assert (changed > 0) == ("speakers-changed" in [notice.code for notice in transcript.warnings])


def test_segments_that_are_not_final_are_not_given_as_such(model: Transcriber) -> None:
    with pytest.raises(ConfigError, match="voices of the whole recording"):
        next(model.transcribe_each([Waveform(talk(300.0, 1200.0))], speakers=True, on_segment=print))


def test_who_does_not_ask_gets_nobody(model: Transcriber) -> None:
    result = model.transcribe(Waveform(talk(300.0, 1200.0)), words=True, vad=False)
    assert not result.turns and {word.speaker for word in result.words} == {None}


def test_what_has_no_words_of_anybody_is_refused(model: Transcriber) -> None:
    for task in (Task("translate", speakers=True), Task(prompt="sum up", speakers=True)):
        with pytest.raises(UnsupportedTaskError, match="leave speakers out"):
            model.session(task)
    with pytest.raises(UnsupportedTaskError, match="fake has no speaker embeddings"):
        Transcriber(FakeRecognizer()).transcribe(Waveform(talk(300.0)), speakers=2)


@pytest.mark.parametrize(
    ("count", "least", "most"),
    [(True, 1, None), ("auto", 1, None), (3, 3, 3), ("3", 3, 3), (" 2 - 4", 2, 4), ((2, 4), 2, 4), ("2-2", 2, 2)],
)
def test_a_number_of_speakers_is_read(count: SpeakerCount, least: int, most: int | None) -> None:
    assert speaker_options(count) == SpeakerOptions(least, most)


def test_nobody_asks() -> None:
    assert speaker_options(False) is None and speaker_options(None) is None


@pytest.mark.parametrize("count", [0, -1, 101, "4-2", "two", "", "1-", (1, 2, 3), (2, "3"), 2.0, [3]])
def test_what_is_no_number_of_speakers_is_refused(count: object) -> None:
    with pytest.raises(ConfigError, match="allowed"):
        speaker_options(count)  # type: ignore[arg-type]


def test_draft_and_edits_are_shared_out_among_turns() -> None:
    edits = (
        Edit("keep", "good", "Good", 0),
        Edit("replace", " mourning", " morning", 1),
        Edit("delete", " uh", "", 2),
        Edit("keep", " yes", " Yes", 3),
        Edit("insert", "", ".", 4),
    )
    turns = (Turn("1", 0.0, 1.0, "Good morning"), Turn("2", 1.0, 2.0, "Yes."))
    hypothesis = Hypothesis("Good morning Yes.", draft="good mourning uh yes", edits=edits, turns=turns)
    (first, own), (second, others) = drafts_of(hypothesis, [2, 1])
    assert first == "good mourning uh" and second == "yes" and own == edits[:3]
    assert [(edit.op, edit.at) for edit in others] == [("keep", 0), ("insert", 1)]
    plain = Hypothesis("good morning yes", draft="good morning yes")
    assert drafts_of(plain, [2, 1]) == [("good morning", ()), ("yes", ())]
    odd = Hypothesis("20 yes", draft="twenty", edits=edits[:2])
    assert drafts_of(odd, [1, 1]) == [("twenty", edits[:2]), ("", ())], "what cannot be shared out is not lost"
