"""Behind a job its pipeline runs, once, whatever happens to the server; what is deleted is sent nowhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from redline.serve.options import ServeOptions
from redline.serve.pipelines.webhooks import WebhookQueue
from redline.serve.store.jobs import LeaseLostError, NewJob
from redline.serve.store.pipeline_runs import LEASE_S
from redline.serve.store.store import Store
from redline.types import Transcript

from ..conftest import ServerFactory
from ..recordings import until, wav
from .conftest import OtherSide


def folder(path: Path, side: OtherSide) -> Path:
    (path / "pipelines").mkdir()
    (path / "pipelines" / "meeting.toml").write_text(
        f'[[step]]\nkind = "summary"\nbase_url = "{side.url}/v1"\nmodel = "m"\n'
        f'[[step]]\nkind = "webhook"\nurl = "{side.url}/hook"\nsecret_env = "HOOK"\nallow_hosts = ["127.0.0.1"]\n',
        encoding="utf-8",
    )
    return path / "pipelines"


def finished(client: httpx.Client, job_id: str) -> dict[str, Any]:
    """A job whose pipeline has ended."""
    found: dict[str, Any] = {}

    def ended() -> bool:
        found.update(client.get(f"/v1/jobs/{job_id}").json())
        return bool(found["pipeline"]) and found["pipeline"]["state"] in ("done", "failed")

    until(ended, 20)
    return found


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", "s3cret")


def test_a_job_is_followed_by_its_pipeline(serve: ServerFactory, tmp_path: Path, other_side: OtherSide) -> None:
    other_side.chat("About one second.")
    with serve(pipelines_dir=folder(tmp_path, other_side)) as server, server.client() as client:
        listed = client.get("/v1/pipelines").json()["data"]
        assert [(row["name"], [step["kind"] for step in row["steps"]]) for row in listed] == [
            ("meeting", ["summary", "webhook"])
        ]
        made = client.post("/v1/jobs", files={"file": ("a.wav", wav(1))}, data={"pipeline": "meeting"})
        assert made.status_code == 202, made.text
        job = finished(client, made.json()["id"])
        assert job["state"] == "done" and job["pipeline"]["results"]["summary"] == "About one second."
        until(lambda: any(request.path == "/hook" for request in other_side.received))
        hook = next(request for request in other_side.received if request.path == "/hook")
        assert hook.json["results"] == {"summary": "About one second."} and hook.json["source"] == "a.wav"
        assert Transcript.from_dict(hook.json["transcript"]).text == "1.00 seconds"
        until(lambda: client.get("/v1/webhooks?state=delivered").json()["data"] != [])
        refused = client.post("/v1/jobs", files={"file": ("a.wav", wav(1))}, data={"pipeline": "other"})
        assert refused.status_code == 422 and "offered are meeting" in refused.json()["error"]["message"]
        assert client.get("/v1/webhooks?state=lost").status_code == 422
        assert client.post("/v1/webhooks/evt_none/retry").status_code == 404


def test_a_pipeline_that_fails_leaves_the_transcript(
    serve: ServerFactory, tmp_path: Path, other_side: OtherSide
) -> None:
    other_side.answer = lambda _: (400, {}, b"no such model")
    with serve(pipelines_dir=folder(tmp_path, other_side)) as server, server.client() as client:
        made = client.post("/v1/jobs", files={"file": ("a.wav", wav(1))}, data={"pipeline": "meeting"})
        job = finished(client, made.json()["id"])
        assert job["state"] == "done" and job["transcript_id"] and job["pipeline"]["state"] == "failed"
        assert "no such model" in job["pipeline"]["errors"]["summary"]


class Clock:
    def __init__(self) -> None:
        self.time = 1_000_000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Store:
    return Store(ServeOptions(data_dir=tmp_path), now=clock)


def completed(store: Store) -> str:
    """A job with a pipeline that is done."""
    store.jobs.submit(NewJob("", "a.wav", {"pipeline": "meeting"}))
    job = store.jobs.lease("worker")
    assert job is not None
    store.complete(job, Transcript("canary", duration=1.0, model="m"), None)
    return job.id


def test_a_run_whose_server_died_goes_on_elsewhere_behind_its_last_step(store: Store, clock: Clock) -> None:
    job_id = completed(store)
    runs = store.pipeline_runs
    first = runs.lease()
    assert first is not None and first.outcome is None and runs.lease() is None
    runs.beat(first, {"pipeline": "meeting", "results": {"summary": "s"}, "errors": {}})
    clock.time += LEASE_S + 1
    second = runs.lease()
    assert second is not None and second.outcome and second.outcome["results"] == {"summary": "s"}
    with pytest.raises(LeaseLostError):
        runs.beat(first, {"pipeline": "meeting", "results": {}, "errors": {}})
    runs.beat(second, second.outcome, "done")
    assert runs.lease() is None
    about = runs.about(job_id)
    assert about is not None and (about["state"], about["results"]) == ("done", {"summary": "s"})


def test_what_is_deleted_is_sent_nowhere(store: Store, tmp_path: Path, other_side: OtherSide) -> None:
    other_side.answer = lambda _: (500, {}, b"")
    job_id = completed(store)
    queue = WebhookQueue(store.database, now=store.now)
    body = json.dumps({"transcript": "canary of a webhook"})
    queue.add(f"{other_side.url}/hook", body, "HOOK", ["127.0.0.1"], job_id=job_id)
    queue.deliver_due()
    (transcript_id,) = [entry.id for entry in store.archive.entries()]
    assert store.delete_transcript(transcript_id, None)
    assert not queue.deliveries() and store.pipeline_runs.about(job_id) is None
    store.close()
    left = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"canary" not in left
