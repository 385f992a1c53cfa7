"""Without a key nothing is done, with one only what is its own; and nobody reads in logs what was said."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from redline.serve.auth import new_key
from redline.testing import FakeRecognizer

from .conftest import ServerFactory
from .recordings import ROUTE, finished, wav
from .test_logs import lines  # noqa: F401 - a fixture

OPEN = {"/health", "/ready"}
"""They hold nothing of anybody's; so do the page's files, which are not in the description."""


def test_every_path_and_verb_asks_for_the_key(serve: ServerFactory, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    new_key(keys, "office")
    with serve(keys_file=keys) as server:
        asked = [
            (method.upper(), path)
            for path, verbs in server.app.openapi()["paths"].items()
            if path not in OPEN
            for method in verbs
        ]
        asked += [(method, "/mcp") for method in ("GET", "POST", "DELETE")]
        assert len(asked) >= 30
        for head in ({}, {"Authorization": "Bearer rl-wrong"}, {"Authorization": "Basic cmw6cmw="}):
            with server.client(headers=head) as client:
                for method, path in asked:
                    reply = client.request(method, path.replace("{id}", "job_0").replace("{name:path}", "fake"))
                    assert reply.status_code == 401, (method, path)
        for path in ("/v1/realtime", "/v1/listen"):
            with pytest.raises(InvalidStatus, match="401"):
                connect(server.url.replace("http", "ws") + path).__enter__()
        with connect(server.url.replace("http", "ws") + "/v1/live") as stream:
            assert json.loads(stream.recv(20))["error"]["code"] == "missing_api_key"
        assert not server.app.state.server.store.jobs.recent(None)


@pytest.mark.laws
def test_ten_thousand_lines_of_the_log_hold_nothing_that_was_said(
    serve: ServerFactory,
    tmp_path: Path,
    lines: io.StringIO,  # noqa: F811
) -> None:
    keys = tmp_path / "keys.toml"
    key = new_key(keys, "office")
    with serve(FakeRecognizer(lambda _: "CANARY said"), keys_file=keys) as server:
        head = {"Authorization": f"Bearer {key}"}
        with server.client(headers=head) as client:
            made = [client.post("/v1/jobs", files={"file": ("CANARY.wav", wav(1))}).json()["id"] for _ in range(10)]
            found = [finished(client, id)["transcript_id"] for id in made]

        def ask(number: int) -> None:
            with server.client(headers=head) as client:
                for turn in range(number, 10_000, 8):
                    id = found[turn % len(found)]
                    if turn % 100 == 0:
                        reply = client.post(f"{ROUTE}?q=CANARY", files={"file": ("CANARY.wav", wav(1))})
                    elif turn % 7 == 0:
                        reply = client.patch(f"/v1/transcripts/{id}", json={"name": f"CANARY {turn}"})
                    elif turn % 5 == 0:
                        reply = client.get("/v1/transcripts", params={"q": "CANARY"})
                    elif turn % 3 == 0:
                        reply = client.get(f"/v1/transcripts/{id}/export", params={"format": "CANARY"})
                    else:
                        reply = client.get(f"/v1/transcripts/{id}", headers={"X-CANARY": "CANARY"})
                    assert reply.status_code in (200, 400)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(8)))
    text = lines.getvalue()
    assert len(text.splitlines()) >= 10_000
    assert "CANARY" not in text and key not in text and not any(id in text for id in found if id)
