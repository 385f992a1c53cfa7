"""Tools for agents (Model Context Protocol, official SDK): transcribe, and search what was transcribed.

The same tools are behind `/mcp` (streamable HTTP) and behind `redline mcp` (stdio). Recordings come as bytes, or as
paths where the caller reads the same disk. What the archive knows is asked over the application's own routes, so that
keys mean there what they mean everywhere.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import httpx
from fastapi import FastAPI
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from starlette.types import Receive, Scope, Send

from redline.errors import RedlineError
from redline.formats import render_transcript
from redline.serve.access import CALLER
from redline.serve.api_errors import ApiError, internal_api_error
from redline.serve.health import VERSION
from redline.transcribe_options import TranscribeOptions

if TYPE_CHECKING:
    from redline.serve.app import ServerState

_log = logging.getLogger(__name__)
TextFormat = Literal["txt", "json", "srt", "vtt", "md", "tsv"]
_PROGRESS_S = 1.0
_INSTRUCTIONS = (
    "Speech recognition. `transcribe` takes a recording and gives its text; it may take a while, and reports progress. "
    "Speakers, word times and subtitles are asked for by its arguments. What was transcribed as a job is kept in an "
    "archive: `search` finds where something was said, `get_segment` gives what was said around it."
)


def tool_server(app: FastAPI, *, folder: Path | None, reads_paths: bool) -> MCPServer:
    """The tools of an application. With `reads_paths` recordings may be files, inside `folder` where there is one."""
    server = MCPServer("redline", instructions=_INSTRUCTIONS, version=VERSION, log_level="WARNING")

    async def answer(source: Any, context: Context[Any, Any], format: TextFormat, options: TranscribeOptions) -> Any:
        state: ServerState = app.state.server
        options = {**options, "progress": _teller(context.report_progress)}
        try:
            transcript = await state.service.transcribe(source, caller=_caller(context, state), **options)
            rendered = render_transcript(transcript, format, "recording")
            if state.options.archive_requests:
                name, caller = source.name if isinstance(source, Path) else "recording", _caller(context, state)
                await state.service.in_thread(lambda: state.store.keep(transcript, owner=caller, name=name))
        except (ApiError, RedlineError) as error:
            raise ToolError(str(error)) from error
        except Exception as error:
            _log.exception("a tool failed")
            raise ToolError(internal_api_error().message) from error
        return {
            "text": rendered if isinstance(rendered, str) else rendered.decode(),
            "duration_s": transcript.duration,
            "language": transcript.language,
            "speakers": sorted({turn.speaker for turn in transcript.turns}),
            "warnings": [notice.message for notice in transcript.warnings],
        }

    async def transcribe_bytes(
        audio_base64: str,
        context: Context[Any, Any],
        format: TextFormat = "txt",
        language: str | None = None,
        speakers: bool = False,
        words: bool = False,
        keywords: list[str] | None = None,
    ) -> dict[str, Any]:
        """Transcribe a recording given as base64 of a file (wav, mp3, m4a, flac, ogg, webm, mp4 ...; up to 48 MB).

        format: txt, json (segments, words, confidences), srt, vtt, md or tsv. speakers: tell who speaks. words: times
        of words (in json). keywords: names and terms to expect.
        """
        try:
            data = base64.b64decode(audio_base64, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ToolError(f"audio_base64 is no base64: {error}") from error
        return await answer(io.BytesIO(data), context, format, _options(language, speakers, words, keywords))  # type: ignore[no-any-return]

    async def transcribe_path(
        path: str,
        context: Context[Any, Any],
        format: TextFormat = "txt",
        language: str | None = None,
        speakers: bool = False,
        words: bool = False,
        keywords: list[str] | None = None,
    ) -> dict[str, Any]:
        """Transcribe a recording on this disk, of any length (wav, mp3, m4a, flac, ogg, webm, mp4 ...).

        format: txt, json (segments, words, confidences), srt, vtt, md or tsv. speakers: tell who speaks. words: times
        of words (in json). keywords: names and terms to expect.
        """
        file = Path(path).expanduser().resolve()
        if folder is not None and not file.is_relative_to(folder.resolve()):
            raise ToolError(f"{path} is outside of {folder}, the folder that this server may read")
        return await answer(file, context, format, _options(language, speakers, words, keywords))  # type: ignore[no-any-return]

    if reads_paths:
        server.add_tool(transcribe_path, "transcribe")
    server.add_tool(transcribe_bytes, "transcribe_bytes" if reads_paths else "transcribe")
    _add_archive_tools(server, _Routes(app))
    return server


def _add_archive_tools(server: MCPServer, routes: _Routes) -> None:
    async def search(query: str, context: Context[Any, Any], limit: int = 20) -> dict[str, Any]:
        """Find where something was said, in all transcripts of the archive: words and "phrases in quotes".

        Gives hits with transcript_id, segment, start and end in seconds, speaker, and the text around the words.
        """
        return await routes.get(context, "/v1/transcripts", q=query, limit=limit)

    async def get_segment(
        transcript_id: str, segment: int, context: Context[Any, Any], around: int = 2
    ) -> list[dict[str, Any]]:
        """What was said in a segment of a transcript (as `search` gives it), with as many segments on both sides."""
        transcript = (await routes.get(context, f"/v1/transcripts/{quote(transcript_id, safe='')}"))["transcript"]
        first, last = segment - max(0, around), segment + max(0, around)
        wanted = ("id", "start", "end", "speaker", "text", "confidence")
        return [{name: each[name] for name in wanted} for each in transcript["segments"] if first <= each["id"] <= last]

    async def list_speakers(transcript_id: str, context: Context[Any, Any]) -> list[dict[str, Any]]:
        """Who speaks in a transcript: name or number, and the seconds and the number of turns."""
        transcript = (await routes.get(context, f"/v1/transcripts/{quote(transcript_id, safe='')}"))["transcript"]
        speakers: dict[str, dict[str, Any]] = {}
        for turn in transcript["turns"]:
            each = speakers.setdefault(turn["speaker"], {"speaker": turn["speaker"], "seconds": 0.0, "turns": 0})
            each["seconds"] = round(each["seconds"] + turn["end"] - turn["start"], 3)
            each["turns"] += 1
        return list(speakers.values())

    async def job_status(job_id: str, context: Context[Any, Any]) -> dict[str, Any]:
        """How far a job is; one that is done has the id of its transcript."""
        return await routes.get(context, f"/v1/jobs/{quote(job_id, safe='')}")

    for tool in (search, get_segment, list_speakers, job_status):
        server.add_tool(tool)


class _Routes:
    """The application's own routes, asked inside the process with the key of the caller."""

    def __init__(self, app: FastAPI) -> None:
        async def inner(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, CALLER: ""}, receive, send)

        self._transport = httpx.ASGITransport(inner)

    async def get(self, context: Any, path: str, **query: Any) -> dict[str, Any]:
        """The JSON of a route."""
        request = context.request_context.request
        keys = {} if request is None else {"authorization": request.headers.get("authorization", "")}
        async with httpx.AsyncClient(transport=self._transport, base_url="http://localhost") as client:
            reply = await client.get(path, params=query, headers={name: key for name, key in keys.items() if key})
        if reply.status_code != 200:
            raise ToolError(reply.json()["error"]["message"])
        return reply.json()  # type: ignore[no-any-return]


def _options(language: str | None, speakers: bool, words: bool, keywords: list[str] | None) -> TranscribeOptions:
    options: TranscribeOptions = {"speakers": speakers, "words": words, "keywords": keywords or []}
    if language:
        options["language"] = language
    return options


def _caller(context: Any, state: ServerState) -> str:
    request = context.request_context.request
    return "" if request is None else str(request.scope.get(CALLER, ""))


def _teller(report: Callable[[float, float | None], Awaitable[None]]) -> Callable[[float, float], None]:
    """Progress of a thread, told in the event loop at most once a second."""
    loop, last = asyncio.get_running_loop(), 0.0

    def tell(done_s: float, known_s: float) -> None:
        nonlocal last
        if time.monotonic() - last >= _PROGRESS_S:
            last = time.monotonic()
            asyncio.run_coroutine_threadsafe(_report(report(done_s, known_s)), loop)

    async def _report(telling: Awaitable[None]) -> None:
        await telling

    return tell
