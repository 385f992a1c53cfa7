"""`load_model` and `Model`: what a Python user touches."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch

import redline
from redline import audio
from redline.errors import AudioError, CheckpointError, RedlineError, UnsupportedTaskError
from redline.model import Model, load_model, pick_dtype
from redline.testing import FakeRecognizer, silence, tiny_checkpoint
from redline.types import SAMPLE_RATE, Transcript, Waveform

JFK = Path(__file__).parent / "data" / "jfk.flac"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return redline.load_model(tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model"), device="cpu")


@pytest.fixture(scope="module")
def jfk() -> Waveform:
    return audio.load(JFK)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.wav"
    path.write_bytes(b"this is no recording")
    return path


def test_from_a_file_to_a_saved_transcript(tiny: Model, tmp_path: Path) -> None:
    made = tiny.transcribe(JFK)
    assert made.text and made.text == " ".join(segment.text for segment in made.segments)
    assert made.language == "en" and made.duration == 11.0 and made.model == tiny.name and made.warnings == ()
    assert all(segment.draft is not None and segment.edits for segment in made.segments)
    assert made.save(tmp_path / "jfk.srt").read_text(encoding="utf-8").startswith("1\n00:00:0")
    assert made.to_dict()["text"] == made.text


def test_every_kind_of_source_gives_the_same_text(tiny: Model, jfk: Waveform) -> None:
    expected = tiny.transcribe(JFK).text
    with JFK.open("rb") as file:
        assert tiny.transcribe(file).text == expected
    assert tiny.transcribe(str(JFK)).text == expected
    assert tiny.transcribe(JFK.read_bytes()).text == expected
    assert tiny.transcribe(io.BytesIO(JFK.read_bytes())).text == expected
    assert tiny.transcribe(jfk.samples, sample_rate=SAMPLE_RATE).text == expected
    assert tiny.transcribe(jfk).text == expected


def test_list_in_list_out_equals_one_by_one(tiny: Model, jfk: Waveform) -> None:
    sources = [jfk, silence(1), Waveform(jfk.samples[: 4 * SAMPLE_RATE])]
    together = tiny.transcribe(sources)
    alone = [tiny.transcribe(source) for source in sources]
    assert [(one.text, one.draft) for one in together] == [(one.text, one.draft) for one in alone]
    assert tiny.transcribe([]) == [] and len(tiny.transcribe((jfk,))) == 1


def test_stream_gives_the_segments_of_the_transcript(tiny: Model, jfk: Waveform) -> None:
    streamed = [(segment.start, segment.text) for segment in tiny.stream(jfk)]
    assert streamed == [(segment.start, segment.text) for segment in tiny.transcribe(jfk).segments]


def test_a_bad_input_raises_what_is_wrong_with_it(tiny: Model, broken: Path) -> None:
    with pytest.raises(AudioError, match=r"broken\.wav"):
        tiny.transcribe(broken)
    with pytest.raises(AudioError, match=r"broken\.wav"):
        tiny.transcribe([silence(1), broken])


def test_a_bad_input_harms_only_itself_when_asked(tiny: Model, broken: Path, jfk: Waveform) -> None:
    with pytest.warns(UserWarning, match=r"broken\.wav"):
        first, bad, last = tiny.transcribe([jfk, broken, jfk], errors="warn")
    assert first.text == last.text != ""
    assert bad.text == "" and [notice.code for notice in bad.warnings] == ["error"]
    assert "broken.wav" in bad.warnings[0].message
    with pytest.raises(ValueError, match="allowed are"):
        tiny.transcribe(jfk, errors="ignore")  # type: ignore[call-overload]


def test_each_gives_errors_in_their_place_and_reads_no_further_than_needed(broken: Path) -> None:
    read = 0

    def sources() -> object:
        nonlocal read
        for source in [broken, *[silence(330)] * 5]:
            read += 1
            yield source

    results = Model(FakeRecognizer()).transcribe_each(sources())  # type: ignore[arg-type]
    assert isinstance(next(results), AudioError)
    assert read == 3, "the error and two recordings of 330 s, which are ten minutes"
    assert [type(one) for one in results] == [Transcript] * 5


def test_progress_tells_seconds_done_and_seconds_read(jfk: Waveform) -> None:
    seen: list[tuple[float, float]] = []
    Model(FakeRecognizer()).transcribe([silence(660), jfk], progress=lambda done, known: seen.append((done, known)))
    assert seen == sorted(seen) and all(done <= known + 1e-6 for done, known in seen)
    assert seen[0] == (0.0, 660.0) and seen[-1] == pytest.approx((671.0, 671.0))


def test_what_the_model_cannot_do_is_refused_before_reading(tiny: Model) -> None:
    with pytest.raises(UnsupportedTaskError, match="knows en"):
        tiny.transcribe("never read.wav", language="fr")
    with pytest.raises(UnsupportedTaskError, match="only transcribe"):
        tiny.stream("never read.wav", task="translate")
    assert tiny.transcribe(silence(1), language="EN").language == "en"


def test_without_speech_detection_silence_reaches_the_model(jfk: Waveform) -> None:
    recognizer = FakeRecognizer()
    model = Model(recognizer)
    assert model.transcribe(silence(2)).text == ""
    assert model.transcribe(silence(2), vad=False).text == "2.00 seconds"
    assert model.transcribe(silence(2)).text == "", "one call does not change the next"


def test_audio_options_choose_a_channel(jfk: Waveform) -> None:
    left = jfk.samples[: 3 * SAMPLE_RATE]
    stereo = np.stack([left, np.zeros_like(left)], axis=1)
    model = Model(FakeRecognizer())
    for channel, heard in ((0, True), (1, False)):
        options = audio.AudioOptions(channel=channel)
        made = model.transcribe(stereo, sample_rate=SAMPLE_RATE, audio_options=options)
        assert bool(made.text) is heard


def test_load_model_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        load_model("no-such-model")
    folder = tiny_checkpoint(tmp_path / "model")
    with pytest.raises(RedlineError, match="allowed here are auto, cpu"):
        load_model(folder, device="abacus")
    if not torch.cuda.is_available():
        with pytest.raises(RedlineError, match="'cuda' is not available"):
            load_model(folder, device="cuda")
    with pytest.raises(RedlineError, match=r"allowed on \w+ are float32, bfloat16"):
        load_model(folder, dtype="int4")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", torch.float32])
def test_dtype_is_what_was_asked_for(tmp_path: Path, dtype: str | torch.dtype, jfk: Waveform) -> None:
    model = load_model(tiny_checkpoint(tmp_path / "model"), device="cpu", dtype=dtype)
    assert str(model.recognizer.dtype).endswith(str(dtype).removeprefix("torch."))  # type: ignore[attr-defined]
    assert model.transcribe(jfk).segments


def test_dtype_follows_the_device() -> None:
    assert pick_dtype(None, torch.device("cpu")) == torch.float32
    assert pick_dtype(None, torch.device("cuda")) == torch.bfloat16
