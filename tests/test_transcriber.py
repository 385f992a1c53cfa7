"""`Transcriber`: what a Python user touches."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import redline
from redline import audio
from redline.engine.recordings import Recording, WaveformSound
from redline.engine.scheduler import BatchOptions
from redline.errors import AudioError, RecognitionError, UnsupportedTaskError
from redline.longform.session import SessionOptions
from redline.testing import FakeRecognizer, silence, tone
from redline.transcriber import Interrupted, Transcriber
from redline.types import SAMPLE_RATE, Hypothesis, Notice, Request, Task, Transcript, Waveform
from tests.builders import tiny_checkpoint

JFK = Path(__file__).parent / "data" / "jfk.flac"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Transcriber:
    return redline.load_model(tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model"), device="cpu")


@pytest.fixture(scope="module")
def jfk() -> Waveform:
    return audio.load(JFK)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.wav"
    path.write_bytes(b"this is no recording")
    return path


def fake(respond: object = None, **options: object) -> Transcriber:
    return Transcriber(FakeRecognizer(respond, **options) if respond else FakeRecognizer(**options))  # type: ignore[arg-type]


def test_from_a_file_to_a_saved_transcript(tiny: Transcriber, tmp_path: Path) -> None:
    transcript = tiny.transcribe(JFK)
    assert transcript.text and transcript.text == " ".join(segment.text for segment in transcript.segments)
    assert (
        transcript.language == "en"
        and transcript.duration == 11.0
        and transcript.model == tiny.name
        and transcript.warnings == ()
    )
    assert all(segment.draft is not None and segment.edits for segment in transcript.segments)
    assert transcript.save(tmp_path / "jfk.srt").read_text(encoding="utf-8").startswith("1\n00:00:0")
    assert transcript.to_dict()["text"] == transcript.text


def test_every_kind_of_source_gives_the_same_text(tiny: Transcriber, jfk: Waveform) -> None:
    expected = tiny.transcribe(JFK).text
    with JFK.open("rb") as file:
        assert tiny.transcribe(file).text == expected
    assert tiny.transcribe(str(JFK)).text == expected
    assert tiny.transcribe(JFK.read_bytes()).text == expected
    assert tiny.transcribe(io.BytesIO(JFK.read_bytes())).text == expected
    assert tiny.transcribe(jfk.samples, sample_rate=SAMPLE_RATE).text == expected
    assert tiny.transcribe({"array": jfk.samples, "sampling_rate": SAMPLE_RATE}).text == expected
    assert tiny.transcribe(jfk).text == expected


def test_list_in_list_out_equals_one_by_one(tiny: Transcriber, jfk: Waveform) -> None:
    sources = [jfk, silence(1), Waveform(jfk.samples[: 4 * SAMPLE_RATE])]
    together = tiny.transcribe(sources)
    alone = [tiny.transcribe(source) for source in sources]
    assert [(transcript.text, transcript.draft) for transcript in together] == [
        (transcript.text, transcript.draft) for transcript in alone
    ]
    assert tiny.transcribe([]) == [] and len(tiny.transcribe((jfk,))) == 1


def test_recordings_share_batches_and_keep_their_order(jfk: Waveform) -> None:
    model = fake()
    waves = [jfk, silence(1), Waveform(jfk.samples[: 5 * SAMPLE_RATE])]
    together = model.transcribe(waves)
    assert len(model.recognizer.batches) == 1  # type: ignore[attr-defined]
    assert together == [fake().transcribe(wave) for wave in waves]


def test_recordings_whose_windows_wait_for_each_other_share_batches() -> None:
    model = fake(lambda clip: Hypothesis("a", tagged="a"), needs_previous=True, max_clip_s=10.0)
    waves = [tone(60.0, 300.0 + number) for number in range(4)]
    together = model.transcribe(waves, vad=False)
    batches = model.recognizer.batches  # type: ignore[attr-defined]
    assert max(map(len, batches)) == 4 and len(batches) < sum(map(len, batches)) / 2.5
    assert together == [model.transcribe(wave, vad=False) for wave in waves]


def test_a_bad_input_raises_what_is_wrong_with_it(tiny: Transcriber, broken: Path) -> None:
    with pytest.raises(AudioError, match=r"broken\.wav"):
        tiny.transcribe(broken)
    with pytest.raises(AudioError, match=r"broken\.wav"):
        tiny.transcribe([silence(1), broken])
    with pytest.raises(AudioError, match=r"broken\.wav"):
        next(iter(tiny.stream(broken)))


def test_a_bad_input_harms_only_itself_when_asked(tiny: Transcriber, broken: Path, jfk: Waveform) -> None:
    with pytest.warns(UserWarning, match=r"broken\.wav"):
        first, bad, last = tiny.transcribe([jfk, broken, jfk], errors="warn")
    assert first.text == last.text != ""
    assert bad.text == "" and [notice.code for notice in bad.warnings] == ["error"]
    assert "broken.wav" in bad.warnings[0].message
    with pytest.raises(ValueError, match="allowed are"):
        tiny.transcribe(jfk, errors="ignore")  # type: ignore[call-overload]


def test_a_recording_of_which_everything_failed_is_an_error_of_its_own(jfk: Waveform) -> None:
    def picky(clip: Waveform) -> str:
        if clip.duration < 2:
            raise RecognitionError("too hard")
        return "heard"

    short = Waveform(jfk.samples[:SAMPLE_RATE], "short.wav")
    failed, fine = fake(picky).transcribe_each([short, jfk])
    assert isinstance(failed, RecognitionError) and "short.wav" in str(failed)
    assert isinstance(fine, Transcript) and fine.text == "heard heard"


def test_reading_stops_where_ten_minutes_wait_and_goes_on_behind_them(broken: Path) -> None:
    read = 0

    def sources() -> Iterator[object]:
        nonlocal read
        for source in [broken, *[tone(330.0)] * 6]:
            read += 1
            yield source

    results = fake().transcribe_each(sources(), vad=False)
    assert isinstance(next(results), AudioError) and read == 1, "an error waits for nobody"
    assert isinstance(next(results), Transcript) and read <= 4, "ten minutes behind what is done"
    assert [type(result) for result in results] == [Transcript] * 5


def test_progress_tells_seconds_done_and_seconds_known(jfk: Waveform) -> None:
    seen: list[tuple[float, float]] = []
    fake().transcribe([silence(660), jfk], progress=lambda done, known: seen.append((done, known)))
    assert seen == sorted(seen) and all(done <= known for done, known in seen)
    assert seen[0][1] == 660.0 and seen[-1] == (671.0, 671.0)
    seen.clear()
    list(fake().stream(tone(300.0), vad=False, progress=lambda done, known: seen.append((done, known))))
    assert len(seen) > 5 and seen == sorted(seen) and seen[-1] == (300.0, 300.0)


def test_what_the_model_cannot_do_is_refused_before_reading(tiny: Transcriber) -> None:
    with pytest.raises(UnsupportedTaskError, match="knows en"):
        tiny.transcribe("never read.wav", language="fr")
    with pytest.raises(UnsupportedTaskError, match="cannot translate; granite_speech models can"):
        tiny.stream("never read.wav", task="translate")
    assert tiny.transcribe(silence(1), language="EN").language == "en"


def test_what_the_recognizer_refuses_is_raised_and_no_result(jfk: Waveform) -> None:
    def refuse(clip: Waveform) -> str:
        raise UnsupportedTaskError("cannot")

    with pytest.raises(UnsupportedTaskError):
        list(fake(refuse).transcribe_each([jfk]))


def test_a_fault_of_the_program_is_raised(jfk: Waveform) -> None:
    def fault(clip: Waveform) -> str:
        raise IndexError("list index out of range")

    with pytest.raises(IndexError):
        fake(fault).transcribe(jfk)
    with pytest.raises(IndexError):
        list(fake(fault).stream(jfk))


def test_without_speech_detection_silence_reaches_the_model() -> None:
    model = fake()
    assert model.transcribe(silence(2)).text == ""
    assert model.transcribe(silence(2), vad=False).text == "2.00 seconds"
    assert model.transcribe(silence(2)).text == "", "one call does not change the next"


def test_audio_options_choose_a_channel(jfk: Waveform) -> None:
    left = jfk.samples[: 3 * SAMPLE_RATE]
    stereo = np.stack([left, np.zeros_like(left)], axis=1)
    for channel, has_text in ((0, True), (1, False)):
        options = audio.AudioOptions(channel=channel)
        transcript = fake().transcribe(stereo, sample_rate=SAMPLE_RATE, audio_options=options)
        assert bool(transcript.text) is has_text


# --------------------------------------------------------------------------------------------------------------- stream


def test_stream_gives_the_segments_of_the_transcript(tiny: Transcriber, jfk: Waveform) -> None:
    long = Waveform(np.tile(jfk.samples, 4))
    assert tuple(tiny.stream(long)) == tiny.transcribe(long).segments
    assert tuple(fake().stream(jfk)) == fake().transcribe(jfk).segments


def test_the_first_segment_comes_before_a_tenth_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    blocks = WaveformSound.__iter__

    def counted(self: WaveformSound) -> Iterator[np.ndarray]:  # type: ignore[type-arg]
        for block in blocks(self):
            read.append(len(block))
            yield block

    monkeypatch.setattr(WaveformSound, "__iter__", counted)
    model = fake()
    segments = model.stream(tone(1200.0), vad=False)
    next(segments)
    assert sum(read) < 120 * SAMPLE_RATE
    assert len([*segments]) > 40 and sum(read) == 1200 * SAMPLE_RATE
    assert max(len(batch) * max(batch) for batch in model.recognizer.batches) <= 120  # type: ignore[attr-defined]


def test_stream_tells_its_notices(jfk: Waveform) -> None:
    def picky(clip: Waveform) -> str:
        if clip.duration < 2:
            raise RecognitionError("too hard")
        return "heard"

    with pytest.warns(UserWarning, match=r"3\.\d+ s to 4\.\d+ s: .*too hard"):
        assert len(list(fake(picky).stream(jfk))) == 2
    with pytest.warns(UserWarning, match="no speech"):
        assert list(fake().stream(silence(1))) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(fake().stream(jfk))) == 3
    with pytest.raises(RecognitionError), pytest.warns(UserWarning):
        list(fake(picky).stream(Waveform(jfk.samples[:SAMPLE_RATE])))


# --------------------------------------------------------------------------------------------------------- interruption


def stop_at(call: int) -> Transcriber:
    """Batches of one window; the given call is interrupted."""
    calls: list[float] = []

    def respond(clip: Waveform) -> str:
        calls.append(clip.duration)
        if len(calls) == call:
            raise KeyboardInterrupt
        return f"{clip.duration:.2f} seconds"

    return Transcriber(FakeRecognizer(respond), batch=BatchOptions(1.0))


def test_an_interruption_keeps_what_is_done_from_the_start(jfk: Waveform) -> None:
    long = Waveform(np.tile(jfk.samples, 3), "long.wav")
    whole = fake().transcribe(long)
    model = stop_at(5)
    results = model.transcribe_each([silence(1.0), long, long])
    quiet = next(results)
    assert isinstance(quiet, Transcript) and [notice.code for notice in quiet.warnings] == ["no-speech"]
    with pytest.raises(Interrupted) as stop:
        next(results)
    kept, other = stop.value.results
    assert isinstance(kept, Transcript) and other is None, "recordings are done in their order"
    assert len(kept.segments) == 4 and kept.segments == whole.segments[:4]
    (notice,) = [notice for notice in kept.warnings if notice.code == "interrupted"]
    assert (notice.start, notice.end) == (whole.segments[4].start, whole.segments[-1].end)


def test_an_interruption_by_who_takes_the_results_keeps_the_others(jfk: Waveform) -> None:
    results = fake().transcribe_each([jfk, silence(1.0), jfk])
    first = next(results)
    with pytest.raises(Interrupted) as stop:
        results.throw(KeyboardInterrupt())
    quiet, last = stop.value.results
    assert isinstance(quiet, Transcript) and isinstance(last, Transcript) and last == first


# ------------------------------------------------------------------------------------------------------------- memory


def test_hours_need_no_more_memory_than_minutes() -> None:
    model, held = Transcriber(FakeRecognizer(), SessionOptions(vad=None)), list[float]()
    block = tone(30.0).samples

    class Hours:
        name, warnings, duration_s = "hours", (), None

        def __iter__(self) -> Iterator[np.ndarray]:  # type: ignore[type-arg]
            for _ in range(120):
                yield block

    @contextmanager
    def opened() -> Iterator[Hours]:
        yield Hours()

    recording = Recording(opened, model.session(Task()))
    (result,) = model.run([recording], lambda done, known: held.append(known - done))
    assert isinstance(result, Transcript) and result.duration == 3600.0
    assert max(held) < 600 + 33


def test_a_request_has_the_task_that_was_asked(jfk: Waveform) -> None:
    asked: list[Task] = []

    class Asked(FakeRecognizer):
        def answer(self, request: Request) -> Hypothesis:
            asked.append(request.task)
            return Hypothesis("x", warnings=(Notice("n", "n"),))

    Transcriber(Asked()).transcribe(jfk, words=True, prefix="so", prompt="write", keywords="a, b", language="English")
    first, *others = asked
    assert first == Task(language="en", words=True, prefix="so", prompt="write", keywords=("a", "b"))
    assert {task.prefix for task in others} == {None}
