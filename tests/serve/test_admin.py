"""Another model for a running server: nobody waits, nothing that is in work changes, and a bad one changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from redline import Transcriber
from redline.errors import CheckpointError, RedlineError
from redline.longform.session import SessionOptions
from redline.serve.auth import new_key
from redline.testing import FakeRecognizer
from redline.types import Hypothesis, Request

from .conftest import RunningServer, ServerFactory
from .recordings import ROUTE, Held, until, wav

ADMIN = "/v1/admin/model"


class Broken(FakeRecognizer):
    """A model that loads, and fails."""

    def recognize(self, requests: Sequence[Request]) -> list[Hypothesis | RedlineError]:
        raise RuntimeError("shapes do not fit")


def loads(server: RunningServer) -> None:
    """Have the server know two other models."""
    models = {"good": FakeRecognizer(lambda clip: "of the new one", name="good"), "broken": Broken(name="broken")}

    def load(name: str) -> Transcriber:
        if name not in models:
            raise CheckpointError(f"{name} is no checkpoint")
        return Transcriber(models[name], SessionOptions(vad=None))

    server.app.state.server.load = load


def test_what_is_in_work_ends_on_the_model_that_began_it(serve: ServerFactory) -> None:
    recognizer = Held()
    with serve(recognizer) as server, server.client() as client, ThreadPoolExecutor(1) as pool:
        loads(server)
        service = server.app.state.server.service
        old = pool.submit(client.post, ROUTE, files={"file": wav(1)})
        assert recognizer.begun.wait(10)
        assert client.post(ADMIN, json={"model": "good"}).json() == {"model": "good", "before": "fake"}
        assert client.post(ROUTE, files={"file": wav(1)}).json()["text"] == "of the new one"
        assert client.get(ADMIN).json()["model"] == client.get("/ready").json()["model"] == "good"
        assert len(service._replaced) == 1
        recognizer.go_on.set()
        assert old.result().json()["text"] == "1.00 seconds"
        until(lambda: not service._replaced)


@pytest.mark.parametrize(("name", "reason"), [("nothing", "no checkpoint"), ("broken", "fails on a second of noise")])
def test_a_bad_model_changes_nothing(serve: ServerFactory, name: str, reason: str) -> None:
    with serve() as server, server.client() as client:
        loads(server)
        reply = client.post(ADMIN, json={"model": name})
        assert reply.status_code == 400 and reason in reply.json()["error"]["message"]
        assert "fake goes on" in reply.json()["error"]["message"]
        assert client.post(ROUTE, files={"file": wav(1)}).json()["text"] == "1.00 seconds"
        assert client.get(ADMIN).json()["model"] == "fake"


def test_a_model_is_changed_with_the_scope_admin_only(serve: ServerFactory, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    usual, admin = new_key(keys, "a"), new_key(keys, "b", ("admin",))
    with serve(keys_file=keys) as server, server.client() as client:
        loads(server)
        for key, status in ((usual, 403), (admin, 200)):
            reply = client.post(ADMIN, json={"model": "good"}, headers={"Authorization": f"Bearer {key}"})
            assert reply.status_code == status


def test_a_stop_waits_for_what_is_in_work(serve: ServerFactory) -> None:
    recognizer = Held()
    with serve(recognizer) as server, server.client() as client, ThreadPoolExecutor(2) as pool:
        taken = pool.submit(client.post, ROUTE, files={"file": wav(1)})
        assert recognizer.begun.wait(10)
        server.stop()
        assert not taken.done()
        recognizer.go_on.set()
        assert taken.result().json()["text"] == "1.00 seconds"
