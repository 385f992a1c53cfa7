"""Tools for agents, through the client of the official SDK: over HTTP with keys, and over standard input and output."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

import redline
from redline.serve.auth import new_key
from redline.testing import FakeRecognizer
from redline.types import Hypothesis, Turn, Waveform

from .conftest import RunningServer, ServerFactory
from .recordings import until, wav

SOUND = base64.b64encode(wav(2)).decode()


def talk(server: RunningServer, use: Callable[[Client], Awaitable[Any]], key: str | None = None) -> Any:
    """What an agent gets over HTTP."""

    async def session() -> Any:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=30) as http,
            Client(streamable_http_client(f"{server.url}/mcp", http_client=http)) as client,
        ):
            return await use(client)

    return asyncio.run(session())


def test_an_agent_transcribes_bytes_over_http_and_never_reads_the_servers_disk(serve: ServerFactory) -> None:
    async def use(client: Client) -> Any:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert "transcribe" in tools and "path" not in tools["transcribe"].input_schema["properties"]
        return await client.call_tool("transcribe", {"audio_base64": SOUND, "keywords": ["Ana"], "format": "srt"})

    with serve() as server:
        result = talk(server, use)
    assert not result.is_error and result.structured_content["duration_s"] == 2.0
    assert "2.00 seconds" in result.structured_content["text"] and "00:00:00" in result.structured_content["text"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"audio_base64": "%%"}, "base64"),
        ({"audio_base64": "AAAA"}, "<stream>"),
        ({"audio_base64": SOUND, "language": "klingon"}, "klingon"),
        ({"path": "/etc/passwd"}, "audio_base64"),
    ],
)
def test_what_cannot_be_is_told_to_the_agent(serve: ServerFactory, arguments: dict[str, str], message: str) -> None:
    async def use(client: Client) -> Any:
        return await client.call_tool("transcribe", arguments)

    with serve() as server:
        result = talk(server, use)
    assert result.is_error and message in result.content[0].text


def test_tools_need_a_key_where_the_server_asks_for_one(serve: ServerFactory, tmp_path: Path) -> None:
    async def use(client: Client) -> Any:
        return await client.call_tool("transcribe", {"audio_base64": SOUND})

    keys = tmp_path / "keys.toml"
    key = new_key(keys, "agent")
    with serve(keys_file=keys) as server:
        with pytest.raises(Exception):  # noqa: B017 - of a group, by the SDK
            talk(server, use)
        assert not talk(server, use, key).is_error


def test_an_agent_that_starts_the_command_reads_paths_in_its_folder(jfk: Path, tmp_path: Path) -> None:
    async def session() -> tuple[Any, Any]:
        command = ["-m", "redline", "mcp", "--folder", str(jfk.parent), "--data", str(tmp_path)]
        environment = {**os.environ, "PYTHONPATH": str(Path(redline.__file__).parents[1])}
        async with Client(StdioServerParameters(command=sys.executable, args=command, env=environment)) as client:
            good = await client.call_tool("transcribe", {"path": str(jfk)})
            outside = await client.call_tool("transcribe", {"path": "/etc/passwd"})
            return good, outside

    good, outside = asyncio.run(session())
    assert "country" in good.structured_content["text"] and good.structured_content["duration_s"] == 11.0
    assert outside.is_error and "outside" in outside.content[0].text


def test_an_agent_finds_what_was_said_in_the_archive_of_its_key(serve: ServerFactory, tmp_path: Path) -> None:
    def respond(clip: Waveform) -> Hypothesis:
        turns = (Turn("1", 0.0, 0.4, "The budget"), Turn("2", 0.4, 1.0, "is small"))
        return Hypothesis("The budget is small", turns=turns)

    keys = tmp_path / "keys.toml"
    mine, other, narrow = new_key(keys, "mine"), new_key(keys, "other"), new_key(keys, "narrow", ("transcribe",))

    async def use(client: Client) -> list[Any]:
        assert {"search", "get_segment", "list_speakers", "job_status"} <= {
            tool.name for tool in (await client.list_tools()).tools
        }
        asked: list[tuple[str, dict[str, Any]]] = [
            ("job_status", {"job_id": job}),
            ("search", {"query": "budget"}),
            ("get_segment", {"transcript_id": transcript, "segment": 0}),
            ("list_speakers", {"transcript_id": transcript}),
        ]
        return [await client.call_tool(name, arguments) for name, arguments in asked]

    with serve(FakeRecognizer(respond), keys_file=keys) as server:
        with server.client(headers={"Authorization": f"Bearer {mine}"}) as client:
            made = client.post("/v1/jobs", files={"file": ("talk.wav", wav(1))}, data={"speakers": "true"}).json()
            job = made["id"]
            until(lambda: client.get(f"/v1/jobs/{job}").json()["state"] == "done")
            transcript = client.get("/v1/transcripts").json()["transcripts"][0]["id"]
        status, found, segment, speakers = talk(server, use, mine)
        assert status.structured_content["state"] == "done"
        (hit,) = found.structured_content["hits"]
        assert hit["transcript_id"] == transcript and "budget" in hit["snippet"]
        assert "budget" in segment.structured_content["result"][0]["text"]
        assert speakers.structured_content["result"], speakers
        hidden = talk(server, use, other)
        assert [each.is_error for each in hidden] == [True, False, True, True]
        assert hidden[1].structured_content["hits"] == []
        assert all(each.is_error and "scope" in each.content[0].text for each in talk(server, use, narrow))


def test_progress_reaches_the_agent(serve: ServerFactory) -> None:
    told: list[float] = []

    async def use(client: Client) -> Any:
        async def progress(done: float, total: float | None, message: str | None) -> None:
            told.append(done)

        return await client.call_tool("transcribe", {"audio_base64": SOUND}, progress_callback=progress)

    with serve(FakeRecognizer(max_clip_s=1.0)) as server:
        assert not talk(server, use).is_error
    assert told
