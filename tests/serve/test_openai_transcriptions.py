"""OpenAI's client gets what its types say, and nothing that it asks for is ignored."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.audio import TranscriptionDiarized, TranscriptionVerbose

import redline
from redline.errors import UnsupportedTaskError
from redline.longform.session import SessionOptions
from redline.serve.openai_formats import SpeakerLetters, segment_logprobs
from redline.types import ClipLimits, Segment, Task, Transcript, Word

from .conftest import ServerFactory
from .openai_client import Talk, async_openai_of, data_url, openai_of
from .recordings import wav

FIVE_S = ("talk.wav", wav(5))
TEXT = "uh, two 1 uh, two 2 uh, two 3"


def test_json_has_text_languages_and_usage(serve: ServerFactory) -> None:
    with serve(Talk()) as server:
        reply = openai_of(server).audio.transcriptions.create(file=FIVE_S, model="gpt-transcribe")
    assert reply.text == TEXT
    assert reply.usage is not None and reply.usage.to_dict() == {"type": "duration", "seconds": 5.0}
    assert [each.code for each in reply.languages or ()] == ["de"]
    assert reply.logprobs is None


async def _async_text(server: Any) -> str:
    async with async_openai_of(server) as client:
        return (await client.audio.transcriptions.create(file=FIVE_S, model="whisper-1")).text


def test_the_async_client_gets_the_same(serve: ServerFactory) -> None:
    import asyncio

    with serve(Talk()) as server:
        assert asyncio.run(_async_text(server)) == TEXT


def test_logprobs_are_logs_of_word_confidences_and_their_tokens_are_the_text(serve: ServerFactory) -> None:
    with serve(Talk()) as server:
        reply = openai_of(server).audio.transcriptions.create(file=FIVE_S, model="whisper-1", include=["logprobs"])
    assert reply.text == TEXT and reply.logprobs is not None
    assert "".join(each.token or "" for each in reply.logprobs) == TEXT
    assert bytes(int(n) for each in reply.logprobs for n in each.bytes or ()).decode() == TEXT
    assert [each.logprob for each in reply.logprobs][:3] == [round(math.log(0.5), 4), 0.0, round(math.log(0.0005), 4)]


def test_logprobs_of_words_that_have_no_place_are_those_of_the_segment() -> None:
    other = Segment(0, 0, 1, "ten", confidence=0.5, words=(Word(0, 1, "10"),))
    assert segment_logprobs(other) == [{"token": "ten", "bytes": [116, 101, 110], "logprob": -0.6931}]
    assert segment_logprobs(Segment(1, 0, 1, "ten"), " ") == [{"token": " ten", "bytes": [32, 116, 101, 110]}]


def test_text_srt_and_vtt_are_those_of_the_command_line(serve: ServerFactory) -> None:
    with serve(Talk()) as server:
        create = openai_of(server).audio.transcriptions.create
        replies = {kind: create(file=FIVE_S, model="m", response_format=kind) for kind in ("text", "srt", "vtt")}
    assert replies["text"] == f"{TEXT}\n"
    assert replies["srt"].startswith("1\n00:00:00,000 --> 00:00:0")
    assert replies["vtt"].startswith("WEBVTT\n")


@pytest.mark.parametrize(
    ("granularities", "has_segments", "has_words"),
    [([], True, False), (["segment"], True, False), (["word"], False, True), (["word", "segment"], True, True)],
)
def test_verbose_json_has_the_granularities_that_are_asked_for(
    serve: ServerFactory, granularities: list[Any], has_segments: bool, has_words: bool
) -> None:
    with serve(Talk()) as server:
        reply = openai_of(server).audio.transcriptions.create(
            file=FIVE_S, model="m", response_format="verbose_json", timestamp_granularities=granularities
        )
    assert isinstance(reply, TranscriptionVerbose)
    assert (reply.text, reply.language, reply.duration) == (TEXT, "german", 5.0)
    TranscriptionVerbose.model_validate(reply.to_dict())  # the client itself checks nothing
    assert (bool(reply.segments), bool(reply.words)) == (has_segments, has_words)
    for segment, number in zip(reply.segments or (), (1, 2, 3), strict=False):
        assert (segment.text, segment.id, segment.seek) == (f"uh, two {number}", number - 1, round(100 * segment.start))
        assert segment.avg_logprob == round(math.log(0.8), 4)
    for word in (reply.words or ())[:1]:
        assert (word.word, word.start, word.to_dict()["confidence"]) == ("uh,", 0.0, 0.5)


def test_diarized_json_names_speakers_by_letters(serve: ServerFactory) -> None:
    with serve(Talk()) as server:
        reply = openai_of(server).audio.transcriptions.create(
            file=FIVE_S, model="gpt-4o-transcribe-diarize", response_format="diarized_json", chunking_strategy="auto"
        )
    assert isinstance(reply, TranscriptionDiarized)
    TranscriptionDiarized.model_validate(reply.to_dict())
    assert [(each.id, each.speaker) for each in reply.segments] == [("seg_0", "A"), ("seg_1", "B"), ("seg_2", "A")]
    assert " ".join(each.text for each in reply.segments) == reply.text == TEXT


def test_letters_go_on_behind_z_and_never_take_a_known_name() -> None:
    letters = SpeakerLetters(["B"])
    names = [letters.of(label) for label in ("1", "B", "2", *map(str, range(3, 28)), "1", None)]
    assert names[:3] == ["A", "B", "C"] and names[-4:] == ["AA", "AB", "A", "unknown"]


def test_keywords_and_a_prompt_of_terms_reach_the_model(serve: ServerFactory) -> None:
    recognizer = Talk()
    with serve(recognizer) as server:
        openai_of(server).audio.transcriptions.create(
            file=FIVE_S, model="m", keywords=["Zyntriqix, Inc.", "Priya"], prompt="Glossary: DigiQ Plus, VertiGraph.",
            languages=["en"],
        )  # fmt: skip
    task = recognizer.asked[0].task
    assert task.keywords == ("Zyntriqix, Inc.", "Priya", "Glossary", "DigiQ Plus", "VertiGraph")
    assert task.language == "en"


@pytest.mark.parametrize(("asked", "task"), [(["en", "fr"], ("en", "fr")), (["fr", "en", "de", "fr"], ())])
def test_a_language_is_looked_for_among_those_that_may_be_spoken(
    serve: ServerFactory, asked: list[str], task: tuple[str, ...]
) -> None:
    recognizer = Talk(languages=("en", "de", "fr"))
    with serve(recognizer) as server:
        reply = openai_of(server).audio.transcriptions.create(file=FIVE_S, model="m", languages=asked)
    assert {each.task.languages for each in recognizer.asked} == {task}
    assert [each.code for each in reply.languages or ()] == [(*task, "de")[0]]


def test_several_languages_are_refused_by_name_where_the_model_finds_none(serve: ServerFactory) -> None:
    class Deaf(Talk):
        def limits(self, task: Task) -> ClipLimits:
            if task.languages:
                raise UnsupportedTaskError("it cannot choose")
            return super().limits(task)

    with serve(Deaf(languages=("en", "de", "fr"))) as server:
        client = openai_of(server)
        with pytest.raises(openai.BadRequestError) as refused:
            client.audio.transcriptions.create(file=FIVE_S, model="m", languages=["en", "fr"])
        assert refused.value.param == "languages"
        assert client.audio.transcriptions.create(file=FIVE_S, model="m", languages=["en", "de", "fr"]).text


LONG = "This is what was said in the part of the recording that came before"


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"temperature": 0.7}, "temperature"),
        ({"prompt": LONG}, "prompt"),
        ({"language": "fr"}, "language"),
        ({"languages": ["en", "xx"]}, "languages"),
        ({"language": "de", "languages": ["en"]}, "languages"),
        ({"response_format": "docx"}, "response_format"),
        ({"include": ["logprobs"], "response_format": "srt"}, "include"),
        ({"timestamp_granularities": ["word"]}, "timestamp_granularities"),
        ({"stream": True, "response_format": "vtt"}, "stream"),
        ({"known_speaker_names": ["Ana"]}, "known_speaker_names"),
        ({"known_speaker_names": ["Ana"], "response_format": "diarized_json"}, "known_speaker_references"),
        ({"chunking_strategy": {"type": "server_vad", "threshold": 2}}, "chunking_strategy.threshold"),
        ({"chunking_strategy": {"type": "semantic"}}, "chunking_strategy.type"),
        ({"extra_body": {"best_of": 5}}, "best_of"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(serve: ServerFactory, asked: dict[str, Any], param: str) -> None:
    with serve(Talk()) as server, pytest.raises(openai.BadRequestError) as refused:
        openai_of(server).audio.transcriptions.create(file=FIVE_S, model="m", **asked)
    assert refused.value.param == param, refused.value


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("https://example.com/a.wav", "data URL"),
        ("data:audio/wav;base64,!!", "base64"),
        (data_url(b"no sound at all"), "reference 0"),
        (data_url(wav(1)), "1 s of sound"),
        (data_url(wav(11)), "11 s of sound"),
    ],
)
def test_references_of_voices_are_checked(serve: ServerFactory, reference: str, message: str) -> None:
    with serve(Talk()) as server, pytest.raises(openai.BadRequestError, match=message) as refused:
        openai_of(server).audio.transcriptions.create(
            file=FIVE_S, model="m", response_format="diarized_json", known_speaker_names=["Ana"],
            known_speaker_references=[reference],
        )  # fmt: skip
    assert refused.value.param == "known_speaker_references"


def test_chunking_strategy_cuts_as_it_says(serve: ServerFactory) -> None:
    recording = (Path(redline.__file__).parent / "assets" / "demo.flac").read_bytes()
    counts = []
    with serve(Talk(max_clip_s=30.0)) as server:
        create = openai_of(server).audio.transcriptions.create
        for strategy in ({"silence_duration_ms": 150}, {"silence_duration_ms": 4000}):
            reply = create(
                file=("demo.flac", recording), model="m", response_format="verbose_json",
                chunking_strategy={"type": "server_vad", **strategy},  # type: ignore[typeddict-item]
            )  # fmt: skip
            counts.append(len(reply.segments or ()))  # type: ignore[attr-defined]
    assert counts[0] > counts[1] == 1


def test_translations_are_english_where_the_model_translates(serve: ServerFactory) -> None:
    recognizer = Talk()
    with serve(recognizer) as server:
        create = openai_of(server).audio.translations.create
        assert create(file=FIVE_S, model="whisper-1").text == TEXT
        verbose: Any = create(file=FIVE_S, model="whisper-1", response_format="verbose_json")
    assert (recognizer.asked[0].task.name, recognizer.asked[0].task.target_language) == ("translate", "en")
    assert verbose.language == "english" and len(verbose.segments) == 3


def test_every_name_means_the_model_unless_names_are_given(serve: ServerFactory) -> None:
    with serve(Talk()) as server:
        client = openai_of(server)
        assert [model.id for model in client.models.list()] == ["fake"]
        assert client.models.retrieve("whisper-1").owned_by == "redline"
    with serve(Talk(), model_names=("whisper-1",), any_model_name=False) as server:
        client = openai_of(server)
        assert [model.id for model in client.models.list()] == ["fake", "whisper-1"]
        assert client.audio.transcriptions.create(file=FIVE_S, model="whisper-1").text == TEXT
        for call in (
            lambda: client.models.retrieve("gpt-transcribe"),
            lambda: client.audio.transcriptions.create(file=FIVE_S, model="gpt-transcribe"),
        ):
            with pytest.raises(openai.NotFoundError, match="fake, whisper-1") as refused:
                call()
            assert refused.value.code == "model_not_found"


def test_bodies_that_are_no_forms_are_told(serve: ServerFactory) -> None:
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    file = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n'
    part = b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
    with serve(Talk()) as server, server.client() as client:
        for body, head, status, code in [
            (b"{}", {"Content-Type": "application/json"}, 415, "not_multipart"),
            (b"--c\r\n garbage", form, 400, "bad_form"),
            (b"x", {"Content-Type": "multipart/form-data"}, 400, "bad_form"),
            (part % (b"file", b"x") + b"--b--\r\n", form, 400, "missing"),
            (part % (b"prompt", b"x" * (17 << 20)) + b"--b--\r\n", form, 400, "bad_form"),
            (9 * (part % (b"keywords[]", b"x" * (2 << 20))) + b"--b--\r\n", form, 400, "bad_form"),
            (file + part % (b"language", b"en") * 2 + b"--b--\r\n", form, 400, "invalid"),
            (file + part % (b"language[x]", b"en") + b"--b--\r\n", form, 400, "invalid"),
            (file + part % (b"a[b]", b"1") + part % (b"a", b"1") + b"--b--\r\n", form, 400, "invalid"),
        ]:
            reply = client.post("/v1/audio/transcriptions", content=body, headers=head)
            assert (reply.status_code, reply.json()["error"]["code"]) == (status, code), body[:80]


def test_openapi_shows_every_field(serve: ServerFactory) -> None:
    with serve(Talk()) as server, server.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    form = paths["/v1/audio/transcriptions"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    names = set(form["properties"])
    assert {"file", "keywords[]", "chunking_strategy", "stream", "known_speaker_references[]", "include[]"} <= names
    assert "keywords[]" not in str(paths["/v1/audio/translations"])


@pytest.fixture(scope="module")
def tiny() -> redline.Model:
    return redline.load_model("tiny")


def test_text_words_and_speakers_are_those_of_the_library(serve: ServerFactory, tiny: redline.Model) -> None:
    recording = Path(redline.__file__).parent / "assets" / "demo.flac"
    with serve(tiny) as server:
        create = openai_of(server).audio.transcriptions.create
        text = create(file=recording, model="m").text
        verbose: Any = create(
            file=recording, model="m", response_format="verbose_json", timestamp_granularities=["word", "segment"]
        )
        diarized: Any = create(file=recording, model="m", response_format="diarized_json")
        with pytest.raises(openai.BadRequestError, match="cannot translate"):
            openai_of(server).audio.translations.create(file=recording, model="m")
    own: Transcript = tiny.transcribe(recording, words=True)
    assert text == verbose.text == tiny.transcribe(recording).text == own.text
    assert [(each.word, each.start, each.end) for each in verbose.words] == [
        (each.text, each.start, each.end) for each in own.words
    ]
    assert [(each.start, each.end) for each in verbose.segments] == [(each.start, each.end) for each in own.segments]
    assert {each.speaker for each in diarized.segments} == {"A"}
    assert isinstance(tiny.options, SessionOptions)
