"""The archive over HTTP: found, exported, heard, corrected, and deleted without a rest."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from redline.audio import load
from redline.formats import TRANSCRIPT_FORMATS
from redline.manifest import read_manifest
from redline.serve.auth import new_key
from redline.testing import FakeRecognizer
from redline.types import Edit, Hypothesis, Waveform, Word

from .conftest import RunningServer, ServerFactory
from .recordings import finished, until, wav

TEXT = "the Café opens with doctor win and zebrafinch"


def respond(clip: Waveform) -> Hypothesis:
    """Always the same text, with words of two speakers and an edit."""
    words = tuple(Word(at / 4, at / 4 + 0.2, word, 0.9, "1" if at < 4 else "2") for at, word in enumerate(TEXT.split()))
    return Hypothesis(TEXT, draft="the cafe opens", edits=(Edit("replace", " cafe", " Café", 1),), words=words)


@contextmanager
def one_transcript(serve: ServerFactory, **options: object) -> Iterator[tuple[RunningServer, httpx.Client, str]]:
    """A server with one finished job -> it, a client and the transcript's path."""
    with serve(FakeRecognizer(respond), **options) as server, server.client() as client:
        id = client.post("/v1/jobs", files={"file": ("talk.wav", wav(4))}).json()["id"]
        yield server, client, f"/v1/transcripts/{finished(client, id)['transcript_id']}"


@pytest.mark.parametrize(
    ("query", "marked"),
    [
        ("cafe", ["Café"]),
        ("CAFÉ opens", ["Café", "opens"]),
        ('"café opens"', ["Café", "opens"]),
        ('"opens café"', None),
        ("cafe elsewhere", None),
        ("caf", None),
        ('" OR * : ^ (', None),
        ("", None),
    ],
)
def test_words_are_found_without_case_and_diacritics(
    serve: ServerFactory, database_url: str | None, query: str, marked: list[str] | None
) -> None:
    with one_transcript(serve, database_url=database_url) as (_, client, place):
        hits = client.get("/v1/transcripts", params={"q": query}).json()["hits"]
        if marked is None:
            assert hits == []
            return
        (hit,) = hits
        assert [hit["snippet"][start:end] for start, end in hit["marks"]] == marked
        assert place.endswith(hit["transcript_id"]) and (hit["start"], hit["end"]) == (0.0, 4.0)
        assert hit["name"] == "talk.wav"


def test_every_format_is_exported(serve: ServerFactory) -> None:
    with one_transcript(serve) as (_, client, place):
        for format, kind in TRANSCRIPT_FORMATS.items():
            reply = client.get(f"{place}/export", params={"format": format})
            assert reply.status_code == 200 and (reply.content or kind.needs_speakers), format
            assert kind.binary or kind.parse is None or kind.parse(reply.text) is not None
        assert client.get(f"{place}/export", params={"format": "pdf"}).status_code == 400
        assert client.get(f"{place}/export", params={"format": "txt", "style": "netflix"}).status_code == 400
        assert client.get(f"{place}/export", params={"format": "srt", "style": "netflix"}).status_code == 200


def test_the_recording_is_heard_in_parts(serve: ServerFactory) -> None:
    with one_transcript(serve) as (_, client, place):
        reply = client.get(f"{place}/audio")
        assert reply.content == wav(4) and reply.headers["Content-Type"] in ("audio/x-wav", "audio/wav")
        part = client.get(f"{place}/audio", headers={"Range": "bytes=100-199"})
        assert part.status_code == 206 and part.content == wav(4)[100:200]
        assert client.get(f"{place}/audio", headers={"Range": "bytes=999999999-"}).status_code == 416


def test_audio_that_is_not_kept_is_gone_with_the_job(serve: ServerFactory) -> None:
    with one_transcript(serve, keep_audio=False) as (server, client, place):
        assert client.get(f"{place}/audio").json()["error"]["code"] == "no_audio"
        until(lambda: not list((server.app.state.server.options.data_dir / "audio").iterdir()))
        assert client.get("/v1/corrections/export").status_code == 404


def test_corrections_and_names_stand_beside_the_text_of_the_machine(
    serve: ServerFactory, database_url: str | None
) -> None:
    with one_transcript(serve, database_url=database_url) as (_, client, place):
        before = client.get(place).json()
        change = {
            "speakers": {"1": "Ana"},
            "corrections": [{"segment": 0, "word": 4, "count": 2, "text": "Dr. Nguyen"}],
        }
        after = client.patch(place, json=change | {"name": "Opening"}).json()
        assert after["machine"] == before["machine"] and after["name"] == "Opening"
        assert client.get(f"{place}/audio").headers["Content-Type"].startswith("audio/"), "whatever it is called now"
        assert after["transcript"]["text"] == "the Café opens with Dr. Nguyen and zebrafinch"
        assert [word["text"] for word in after["transcript"]["segments"][0]["words"]] == after["transcript"][
            "text"
        ].split()
        assert after["speakers"] == {"1": "Ana", "2": None}
        assert after["transcript"]["segments"][0]["words"][0]["speaker"] == "Ana"
        assert "Nguyen" in client.get(f"{place}/export").text
        assert client.get(f"{place}/export", params={"original": True}).text.strip() == TEXT
        found = [client.get("/v1/transcripts", params={"q": word}).json()["hits"] for word in ("nguyen", "win")]
        assert [len(hits) for hits in found] == [1, 0]
        taken_back = client.patch(
            place,
            json={
                "speakers": {"1": None},
                "corrections": [{"segment": 0, "word": 4, "count": 2, "text": "doctor win"}],
            },
        ).json()
        assert taken_back["transcript"] == before["transcript"] and taken_back["corrections"] == []
        assert len(client.get("/v1/transcripts", params={"q": "doctor win"}).json()["hits"]) == 1


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"speakers": {"9": "Ana"}}, 400),
        ({"corrections": [{"segment": 1, "word": 0, "text": "x"}]}, 400),
        ({"corrections": [{"segment": 0, "word": 7, "count": 2, "text": "x"}]}, 400),
        (
            {
                "corrections": [
                    {"segment": 0, "word": 0, "count": 2, "text": "x"},
                    {"segment": 0, "word": 1, "text": "y"},
                ]
            },
            400,
        ),
        ({"corrections": [{"segment": -1, "word": 0, "text": "x"}]}, 422),
        ({"speaker": {"1": "Ana"}}, 422),
    ],
)
def test_a_change_of_what_is_not_there_changes_nothing(serve: ServerFactory, change: object, status: int) -> None:
    with one_transcript(serve) as (_, client, place):
        before = client.get(place).json()
        assert client.patch(place, json=change).status_code == status
        assert client.get(place).json() == before


def test_corrections_are_data_for_fine_tuning(serve: ServerFactory, tmp_path: Path) -> None:
    with one_transcript(serve) as (server, client, place):
        assert client.get("/v1/corrections/export").status_code == 404
        client.patch(place, json={"corrections": [{"segment": 0, "word": 7, "text": "zebra finch"}]})
        reply = client.get("/v1/corrections/export")
        assert reply.headers["Content-Type"] == "application/zip"
        zipfile.ZipFile(io.BytesIO(reply.content)).extractall(tmp_path / "out")
        (row,) = read_manifest(tmp_path / "out" / "manifest.jsonl", split="train")
        assert row.text == "the Café opens with doctor win and zebra finch" and row.duration == 4.0
        told = load(tmp_path / "out" / row.audio).samples
        assert np.array_equal(told, load(wav(4)).samples)
        until(lambda: not list((server.app.state.server.options.data_dir / "uploads").iterdir()))


def test_nothing_is_left_of_what_is_deleted(serve: ServerFactory, database_url: str | None) -> None:
    with one_transcript(serve, database_url=database_url) as (server, client, place):
        other = client.post("/v1/jobs", files={"file": ("second.wav", wav(2))}).json()["id"]
        finished(client, other)
        client.patch(place, json={"corrections": [{"segment": 0, "word": 0, "text": "quokkaword"}], "name": "xylotalk"})
        data = server.app.state.server.options.data_dir

        def holds(word: bytes) -> bool:
            return any(word in path.read_bytes() for path in data.rglob("*") if path.is_file())

        if database_url is None:
            assert holds(b"quokkaword") and holds(b"zebrafinch")
        assert client.delete(place).status_code == 204
        assert client.get(place).status_code == client.delete(place).status_code == 404
        assert [each["id"] for each in client.get("/v1/jobs").json()["jobs"]] == [other]
        hits = client.get("/v1/transcripts", params={"q": "zebrafinch"}).json()["hits"]
        assert len(hits) == 1 and not place.endswith(hits[0]["transcript_id"])
        assert client.get("/v1/transcripts", params={"q": "quokkaword"}).json()["hits"] == []
        assert not holds(b"quokkaword") and not holds(b"xylotalk")
        (left,) = client.get("/v1/transcripts").json()["transcripts"]
        assert client.delete(f"/v1/transcripts/{left['id']}").status_code == 204
        assert not holds(b"zebrafinch") and not holds(b"second.wav") and not list((data / "audio").iterdir())


def test_a_key_sees_its_own_transcripts_only(serve: ServerFactory, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    heads = [{"Authorization": f"Bearer {new_key(keys, name)}"} for name in ("ana", "ben")]
    admin = {"Authorization": f"Bearer {new_key(keys, 'root', ('archive', 'admin'))}"}
    with serve(FakeRecognizer(respond), keys_file=keys) as server, server.client() as client:
        client.headers.update(heads[0])
        id = client.post("/v1/jobs", files={"file": wav(4)}).json()["id"]
        place = f"/v1/transcripts/{finished(client, id)['transcript_id']}"
        client.patch(place, json={"corrections": [{"segment": 0, "word": 0, "text": "The"}]})
        for verb, path, body in (
            ("GET", place, None),
            ("GET", f"{place}/export", None),
            ("GET", f"{place}/audio", None),
            ("PATCH", place, {"name": "mine"}),
            ("DELETE", place, None),
            ("GET", "/v1/corrections/export", None),
        ):
            assert client.request(verb, path, json=body, headers=heads[1]).status_code == 404
        assert client.get("/v1/transcripts", headers=heads[1]).json() == {"transcripts": []}
        assert client.get("/v1/transcripts", params={"q": "opens"}, headers=heads[1]).json() == {"hits": []}
        assert len(client.get("/v1/transcripts", params={"q": "opens"}, headers=admin).json()["hits"]) == 1
        assert client.get(place, headers=admin).status_code == client.get(place).status_code == 200
