"""Jobs over HTTP: taken for good, done once, seen by their owner alone."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from redline import Transcriber
from redline.longform.session import SessionOptions
from redline.serve.auth import new_key
from redline.testing import FakeRecognizer

from .conftest import ServerFactory
from .recordings import Held, finished, until, wav


def test_a_job_ends_in_the_transcript_that_the_library_gives(serve: ServerFactory, database_url: str | None) -> None:
    recording = wav(70)
    with serve(database_url=database_url) as server, server.client() as client:
        reply = client.post("/v1/jobs", files={"file": ("talk.wav", recording)}, data={"language": "en"})
        assert reply.status_code == 202
        job = reply.json()
        assert (job["state"], job["name"], job["options"]) == ("queued", "talk.wav", {"language": "en"})
        assert reply.headers["Location"] == f"/v1/jobs/{job['id']}"
        job = finished(client, job["id"])
        assert job["state"] == "done" and job["progress"] == {"done_s": 70.0, "known_s": 70.0}
        archived = client.get(f"/v1/transcripts/{job['transcript_id']}").json()
        assert [each["id"] for each in client.get("/v1/jobs").json()["jobs"]] == [job["id"]]
    alone = Transcriber(FakeRecognizer(), SessionOptions(vad=None)).transcribe(recording, language="en", words=True)
    assert archived["machine"] == alone.to_dict(all_edits=True)


def test_fifty_requests_with_one_key_are_one_job(serve: ServerFactory) -> None:
    with serve() as server, server.client() as client, ThreadPoolExecutor(50) as pool:
        head = {"Idempotency-Key": "once"}

        def post(recording: bytes) -> tuple[int, dict[str, object]]:
            reply = client.post("/v1/jobs", files={"file": ("a.wav", recording)}, headers=head)
            return reply.status_code, reply.json()

        replies = list(pool.map(post, [wav(1)] * 50))
        assert {status for status, _ in replies} == {202} and len({job["id"] for _, job in replies}) == 1
        finished(client, str(replies[0][1]["id"]))
        status, other = post(wav(2))
        assert (status, other["error"]["code"]) == (409, "idempotency_key_reused")  # type: ignore[index]
        assert len(client.get("/v1/jobs").json()["jobs"]) == 1
        audio = server.app.state.server.options.data_dir / "audio"
        until(lambda: len(list(audio.iterdir())) == 1)


def test_a_cancelled_job_ends_and_leaves_nothing(serve: ServerFactory) -> None:
    recognizer = Held()
    with serve(recognizer, lease_s=1.0) as server, server.client() as client:
        id = client.post("/v1/jobs", files={"file": wav(1)}).json()["id"]
        until(recognizer.begun.is_set)
        assert client.delete(f"/v1/jobs/{id}").json()["state"] == "cancelled"
        recognizer.go_on.set()
        until(lambda: server.app.state.server.service.active == 0)
        assert client.get(f"/v1/jobs/{id}").json()["state"] == "cancelled"
        assert client.delete(f"/v1/jobs/{id}").status_code == 200
        assert client.get("/v1/transcripts").json() == {"transcripts": []}
        assert not list((server.app.state.server.options.data_dir / "audio").iterdir())
        other = client.post("/v1/jobs", files={"file": wav(2)}).json()["id"]
        assert finished(client, other)["state"] == "done"
        assert client.delete(f"/v1/jobs/{other}").json()["error"]["code"] == "job_is_over"


def test_events_tell_the_progress_and_end_with_the_job(serve: ServerFactory) -> None:
    recognizer = Held()
    with serve(recognizer) as server, server.client() as client:
        id = client.post("/v1/jobs", files={"file": wav(1)}).json()["id"]
        with client.stream("GET", f"/v1/jobs/{id}/events") as reply:
            assert reply.headers["Content-Type"].startswith("text/event-stream")
            events = []
            for line in reply.iter_lines():
                if line.startswith("event: "):
                    events.append(line.removeprefix("event: "))
                    recognizer.go_on.set()
                if line.startswith("data: "):
                    last = json.loads(line.removeprefix("data: "))
        assert events[0] == "progress" and events[-1] == "done"
        assert last["transcript_id"] and last["progress"]["done_s"] == 1.0


def test_a_bad_recording_fails_alone_and_says_why(serve: ServerFactory) -> None:
    with serve() as server, server.client() as client:
        ids = [client.post("/v1/jobs", files={"file": data}).json()["id"] for data in (b"no sound", wav(1))]
        bad, good = (finished(client, id) for id in ids)
        assert (bad["state"], good["state"]) == ("failed", "done")
        assert bad["error"]["code"] == "audio_unreadable"  # type: ignore[index]
        audio = server.app.state.server.options.data_dir / "audio"
        until(lambda: [path.name for path in audio.iterdir()] == [good["id"]])


@pytest.mark.parametrize(
    ("request_options", "status", "param"),
    [
        ({"data": {"langauge": "en"}, "files": {"file": b"x"}}, 422, "langauge"),
        ({"data": {"task": "summarize"}, "files": {"file": b"x"}}, 422, "task"),
        ({"data": {"channels": "split", "speakers": "3"}, "files": {"file": b"x"}}, 400, None),
        ({"files": {"file": b""}}, 400, "file"),
        ({"files": {"other": b"x"}}, 400, "file"),
        ({"json": {"language": "en"}}, 400, "url"),
        ({"json": ["url"]}, 400, None),
        ({"json": {"url": "ftp://a.example/a.wav"}}, 400, "url"),
        ({"json": {"url": "http://a.example/a.wav"}}, 403, "url"),
        ({"json": {"upload": "up_unknown"}}, 404, None),
        ({"content": b"x", "headers": {"Content-Type": "audio/wav"}}, 415, None),
        ({"files": {"file": b"x"}, "headers": {"Idempotency-Key": "k" * 256}}, 400, "Idempotency-Key"),
    ],
)
def test_what_cannot_be_a_job_is_refused_at_once(
    serve: ServerFactory, request_options: dict[str, object], status: int, param: str | None
) -> None:
    with serve() as server, server.client() as client:
        reply = client.post("/v1/jobs", **request_options)  # type: ignore[arg-type]
        assert (reply.status_code, reply.json()["error"]["param"]) == (status, param)
        assert client.get("/v1/jobs").json() == {"jobs": []}
        data = server.app.state.server.options.data_dir
        assert not list((data / "audio").iterdir()) and not list((data / "uploads").iterdir())


def test_a_full_queue_refuses_with_retry_after(serve: ServerFactory) -> None:
    with serve(max_queued_jobs=1, job_slots=0) as server, server.client() as client:
        assert client.post("/v1/jobs", files={"file": wav(1)}).status_code == 202
        reply = client.post("/v1/jobs", files={"file": wav(1)})
        assert reply.status_code == 429 and reply.headers["Retry-After"] == "60"


class _Host(BaseHTTPRequestHandler):
    """A host of recordings."""

    def do_GET(self) -> None:
        if self.path == "/moved.wav":
            self.send_response(302)
            self.send_header("Location", "/talk.wav")
            self.end_headers()
            return
        self.send_response(200 if self.path == "/talk.wav" else 404)
        self.end_headers()
        self.wfile.write(wav(3))

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def test_urls_are_fetched_from_hosts_that_are_allowed_and_redirects_are_not_followed(serve: ServerFactory) -> None:
    host = ThreadingHTTPServer(("127.0.0.1", 0), _Host)
    Thread(target=host.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{host.server_port}"
    try:
        with serve(allow_url_hosts=("127.0.0.1",)) as server, server.client() as client:
            ids = [
                client.post("/v1/jobs", json={"url": url + path}).json()["id"] for path in ("/talk.wav", "/moved.wav")
            ]
            found, moved = (finished(client, id) for id in ids)
            assert (found["state"], found["name"], found["progress"]["done_s"]) == ("done", "talk.wav", 3.0)  # type: ignore[index]
            assert moved["error"]["code"] == "url_failed" and "redirect" in moved["error"]["message"]  # type: ignore[index]
        with (
            serve(allow_url_hosts=("*",)) as server,
            server.client() as client,
        ):  # any host of the internet, no private one
            id = client.post("/v1/jobs", json={"url": f"{url}/talk.wav"}).json()["id"]
            assert finished(client, id)["error"]["code"] == "url_refused"  # type: ignore[index]
    finally:
        host.shutdown()
        host.server_close()


def test_a_key_sees_its_own_jobs_only(serve: ServerFactory, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    ana, ben = new_key(keys, "ana"), new_key(keys, "ben")
    admin, none = new_key(keys, "root", ("jobs", "admin")), new_key(keys, "none", ("transcribe",))
    heads = {
        name: {"Authorization": f"Bearer {key}"} for name, key in zip("abrn", (ana, ben, admin, none), strict=True)
    }
    with serve(keys_file=keys) as server, server.client() as client:
        id = client.post("/v1/jobs", files={"file": wav(1)}, headers=heads["a"]).json()["id"]
        upload = client.post("/v1/uploads", json={"length": 9}, headers=heads["a"]).json()["id"]
        for verb, path in (
            ("GET", f"/v1/jobs/{id}"),
            ("DELETE", f"/v1/jobs/{id}"),
            ("GET", f"/v1/jobs/{id}/events"),
            ("GET", f"/v1/uploads/{upload}"),
            ("PATCH", f"/v1/uploads/{upload}"),
            ("DELETE", f"/v1/uploads/{upload}"),
        ):
            assert client.request(verb, path).status_code == 401
            assert client.request(verb, path, headers=heads["n"]).status_code == 403
            assert client.request(verb, path, headers=heads["b"]).status_code == 404
        assert client.get("/v1/jobs", headers=heads["b"]).json() == {"jobs": []}
        assert client.get(f"/v1/jobs/{id}", headers=heads["a"]).json()["id"] == id
        assert client.get(f"/v1/jobs/{id}", headers=heads["r"]).json()["id"] == id
        assert client.post("/v1/jobs", json={"upload": upload}, headers=heads["b"]).status_code == 404
