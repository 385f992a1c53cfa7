"""Transcripts of plain requests are in the archive where somebody wants them there, and are deleted like all others."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from redline.serve.auth import new_key
from redline.serve.options import ServeOptions
from redline.serve.store.store import Store
from redline.testing import FakeRecognizer
from redline.types import Segment, Transcript

from .conftest import ServerFactory
from .openai_client import openai_of
from .recordings import ROUTE, wav
from .test_mcp_tools import talk


@pytest.mark.parametrize("is_asked", [True, False])
def test_what_a_request_says_of_the_archive_counts_and_else_the_setting(serve: ServerFactory, is_asked: bool) -> None:
    with serve(FakeRecognizer(), archive_requests=not is_asked) as server, server.client() as client:
        openai = openai_of(server).audio.transcriptions
        recording = ("folder/talk.wav", wav(2))
        said = openai.with_raw_response.create(file=recording, model="any", extra_body={"store": is_asked})
        unsaid = openai.with_raw_response.create(file=recording, model="any", response_format="srt")
        streamed = openai.with_streaming_response.create(
            file=recording, model="any", stream=True, extra_body={"store": is_asked}
        )
        with streamed as reply:
            assert "2.00 seconds" in reply.read().decode()
            ids = [each.headers.get("Redline-Transcript-Id") for each in (said, reply, unsaid)]
        assert [id is not None for id in ids] == [is_asked, is_asked, not is_asked]
        kept = client.get("/v1/transcripts").json()["transcripts"]
        assert [each["id"] for each in reversed(kept)] == [id for id in ids if id]
        assert {(each["name"], each["job_id"], each["has_audio"]) for each in kept} == {("talk.wav", None, False)}
        assert len(client.get("/v1/transcripts", params={"q": "seconds"}).json()["hits"]) == len(kept)
        export = client.get(f"/v1/transcripts/{kept[0]['id']}/export").text
        assert export.strip() == "2.00 seconds"
        assert client.get(f"/v1/transcripts/{kept[0]['id']}/audio").json()["error"]["code"] == "no_audio"


def test_recordings_of_every_protocol_are_kept_by_the_setting_for_their_key_alone(
    serve: ServerFactory, tmp_path: Path
) -> None:
    async def use(client: Client) -> Any:
        return await client.call_tool("transcribe", {"audio_base64": base64.b64encode(wav(3)).decode()})

    keys = tmp_path / "keys.toml"
    mine, other = ({"Authorization": f"Bearer {new_key(keys, name)}"} for name in ("mine", "other"))
    with serve(keys_file=keys, archive_requests=True) as server, server.client(headers=mine) as client:
        assert client.post(ROUTE, files={"file": wav(1)}).status_code == 200
        assert client.post("/v1/listen", content=wav(2)).status_code == 200
        assert not talk(server, use, mine["Authorization"].removeprefix("Bearer ")).is_error
        durations = [each["duration_s"] for each in client.get("/v1/transcripts").json()["transcripts"]]
        assert durations == [3.0, 2.0, 1.0]
        assert client.get("/v1/transcripts", headers=other).json() == {"transcripts": []}


def test_nothing_is_left_of_a_request_that_was_kept_and_deleted(serve: ServerFactory, database_url: str | None) -> None:
    with serve(FakeRecognizer(lambda _: "zebrafinch"), database_url=database_url) as server, server.client() as client:
        data = server.app.state.server.options.data_dir
        reply = client.post(ROUTE, files={"file": ("xylotalk.wav", wav(1))}, data={"store": "true"})
        place = f"/v1/transcripts/{reply.headers['Redline-Transcript-Id']}"
        assert client.patch(place, json={"corrections": [{"segment": 0, "word": 0, "text": "quokkaword"}]}).is_success
        assert client.delete(place).status_code == 204 and client.get(place).status_code == 404
        assert client.get("/v1/transcripts", params={"q": "quokkaword"}).json() == {"hits": []}
        files = [path.read_bytes() for path in data.rglob("*") if path.is_file()]
        assert not any(word in file for file in files for word in (b"zebrafinch", b"xylotalk", b"quokkaword"))


def test_retention_deletes_what_requests_left(tmp_path: Path) -> None:
    now = 1_000_000.0
    store = Store(ServeOptions(data_dir=tmp_path, retention_days=1.0), lambda: now)
    store.keep(Transcript("well", (Segment(0, 0.0, 1.0, "well"),), duration=1.0), owner="", name="a.wav")
    now += 86_000
    assert store.tidy() == 0 and store.archive.search("well")
    now += 1_000
    assert store.tidy() == 1 and not store.archive.entries() and not store.archive.search("well")
    store.close()
