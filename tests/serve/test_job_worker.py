"""Workers of several servers on one database, and recordings that end a recognizer."""

from __future__ import annotations

from pathlib import Path

from redline.testing import FakeRecognizer
from redline.types import Waveform

from .conftest import ServerFactory
from .postgres import PostgresServer
from .recordings import finished, wav


def test_two_servers_on_one_postgres_do_each_job_once(
    serve: ServerFactory, postgres: PostgresServer, tmp_path: Path
) -> None:
    shared = {"database_url": postgres.new_database(), "data_dir": tmp_path / "shared"}
    first, second = FakeRecognizer(), FakeRecognizer()
    with serve(first, **shared) as one, serve(second, **shared) as two, one.client() as a, two.client() as b:
        ids = [(a, b)[at % 2].post("/v1/jobs", files={"file": wav(1 + at / 10)}).json()["id"] for at in range(20)]
        assert all(finished(b, id)["state"] == "done" for id in ids)
        names = {each["job_id"] for each in a.get("/v1/transcripts").json()["transcripts"]}
        assert names == set(ids)
        heard = [sum(map(len, recognizer.batches)) for recognizer in (first, second)]
        assert sum(heard) == 20 and all(heard), "each was recognized once, and both worked"


def test_a_server_that_takes_no_jobs_leaves_them_to_another(serve: ServerFactory, tmp_path: Path) -> None:
    shared = {"data_dir": tmp_path / "shared"}
    with serve(job_slots=0, **shared) as door, door.client() as client:
        id = client.post("/v1/jobs", files={"file": wav(1)}).json()["id"]
        with serve(**shared):
            assert finished(client, id)["state"] == "done"


def test_a_recording_that_breaks_the_recognizer_fails_alone_and_tells_no_path(serve: ServerFactory) -> None:
    def respond(clip: Waveform) -> str:
        if clip.duration == 2.0:
            raise RuntimeError("broken")
        return "fine"

    with serve(FakeRecognizer(respond)) as server, server.client() as client:
        bad, good = (client.post("/v1/jobs", files={"file": wav(seconds)}).json()["id"] for seconds in (2, 1))
        assert finished(client, good)["state"] == "done"
        job = finished(client, bad)
        assert job["state"] == "failed" and job["error"]["code"] == "recognition_failed"  # type: ignore[index]
        assert str(server.app.state.server.options.data_dir) not in str(job)
        client.post("/v1/jobs", files={"file": ("b.wav", b"no sound")})
        told = finished(client, client.get("/v1/jobs").json()["jobs"][0]["id"])["error"]
        assert told["message"].startswith("b.wav: ")  # type: ignore[index]
