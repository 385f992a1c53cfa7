"""Pages of other sites have no way in: CORS is closed, and so are forms, WebSockets and names that point here."""

from __future__ import annotations

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from .conftest import ServerFactory

FOREIGN = {"Origin": "https://evil.example"}


def test_cors_is_closed_unless_it_is_opened(serve: ServerFactory) -> None:
    ask = {**FOREIGN, "Access-Control-Request-Method": "POST"}
    with serve() as server, server.client() as client:
        for reply in (client.get("/health", headers=FOREIGN), client.options("/v1/jobs", headers=ask)):
            assert reply.status_code == 403 and "access-control-allow-origin" not in reply.headers
        assert client.get("/health", headers={"Origin": server.url}).status_code == 200
    with serve(cors_origins=("https://evil.example",)) as server, server.client() as client:
        assert client.get("/health", headers=FOREIGN).headers["access-control-allow-origin"] == FOREIGN["Origin"]
        other = client.get("/health", headers={"Origin": "https://other.example"})
        assert other.status_code == 403 and "access-control-allow-origin" not in other.headers


def test_a_foreign_page_opens_no_socket(serve: ServerFactory) -> None:
    with serve() as server, pytest.raises(InvalidStatus) as refused:
        connect(f"{server.url.replace('http', 'ws')}/v1/listen", origin="https://evil.example")  # type: ignore[arg-type]
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize(("host", "status"), [("evil.example", 403), ("localhost:1", 200), ("[::1]:80", 200)])
def test_a_name_that_points_here_is_not_this_server(serve: ServerFactory, host: str, status: int) -> None:
    with serve() as server, server.client() as client:
        assert client.get("/health", headers={"Host": host}).status_code == status
