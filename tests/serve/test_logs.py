"""Logs are JSON and hold neither what was said, nor keys, names of files, or queries."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from redline.serve.auth import new_key
from redline.serve.logs import write_logs
from redline.testing import FakeRecognizer
from redline.types import Waveform

from .conftest import ServerFactory
from .recordings import ROUTE, wav


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What is logged, with the loggers as a server sets them."""
    loggers = [logging.getLogger(name) for name in (None, "redline", "uvicorn.error")]
    before = [(each.handlers[:], each.level, each.filters[:]) for each in loggers]
    stream = io.StringIO()
    write_logs(stream=stream)
    yield stream
    for logger, (handlers, level, filters) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.filters[:] = handlers, filters
        logger.setLevel(level)


def test_logs_are_json_without_transcripts_keys_names_and_queries(
    serve: ServerFactory, tmp_path: Path, lines: io.StringIO
) -> None:
    def respond(clip: Waveform) -> str:
        if clip.duration > 1.5:
            raise ValueError("CANARY said in an error")
        return "CANARY said"

    keys = tmp_path / "keys.toml"
    key = new_key(keys, "office")
    with serve(FakeRecognizer(respond), keys_file=keys) as server:
        with server.client(headers={"Authorization": f"Bearer {key}"}) as client:
            assert "CANARY" in client.post(ROUTE, files={"file": ("CANARY.wav", wav(1))}).text
            assert client.post(ROUTE, files={"file": ("CANARY.wav", wav(2))}).status_code == 500
            client.post("/v1/listen?keyterm=CANARY&punctuate=true", content=wav(1))
            client.post("/v1/listen?CANARY=1", content=wav(1))
            client.get("/v1/transcripts/CANARY?q=CANARY")
        with server.client(headers={"Authorization": "Bearer rl-CANARY"}) as client:
            assert client.get(f"{ROUTE}/CANARY").status_code in (401, 404)
    text = lines.getvalue()
    records = [json.loads(line) for line in text.splitlines()]
    assert "CANARY" not in text and key not in text
    requests = [record for record in records if record["message"] == "request"]
    assert len(requests) == 6 and requests[0].items() >= {"route": ROUTE, "status": 200, "key": "office"}.items()
    assert any(record.get("error") == "ValueError" and record["at"] for record in records)
