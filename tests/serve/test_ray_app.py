"""The application under Ray Serve, on a real cluster of this machine: replicas, a rolling update, what it refuses."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import soundfile
from websockets.sync.client import connect

from redline.errors import ConfigError
from redline.longform.session import SessionOptions
from redline.serve.options import ServeOptions
from redline.testing import FakeRecognizer, tone
from redline.transcriber import Transcriber

ray = pytest.importorskip("ray", reason="needs redline[cluster]")
from ray.cluster_utils import Cluster  # noqa: E402

from redline.serve.ray_app import ReplicaOptions, deploy, take_down  # noqa: E402

PATIENCE_S = 120.0


def hears(word: str) -> Transcriber:
    """A model that hears one word, after a while."""

    def respond(_: object) -> str:
        time.sleep(0.05)
        return word

    return Transcriber(FakeRecognizer(respond), SessionOptions(vad=None))


def started_cluster(attempts: int = 3) -> Cluster:
    """Ray gives a node 30 s to start, which a busy machine may need twice."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0"}
    for attempt in range(attempts):
        cluster = Cluster()
        try:
            cluster.add_node(num_cpus=4, include_dashboard=False)
            return cluster
        except Exception:  # Ray raises plain ones
            cluster.shutdown()
            if attempt == attempts - 1:
                raise
    raise AssertionError


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster of one node, which this process has joined."""
    ray.cloudpickle.register_pickle_by_value(__import__(__name__, fromlist=["hears"]))
    cluster = started_cluster()
    ray.init(cluster.address, namespace="redline", log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.serve.shutdown()
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.parametrize("text", ["", "0", "2-1", "a", "1-", "-3", "1-2-3"])
def test_replicas_are_a_number_or_two(text: str) -> None:
    with pytest.raises(ConfigError, match="replicas are"):
        ReplicaOptions.parse(text)
    assert (ReplicaOptions.parse("3").least, ReplicaOptions.parse("1-8").most) == (3, 8)


@pytest.mark.battery
def test_a_rolling_update_under_load_loses_no_request_and_no_stream(cluster: Cluster, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ServeOptions(port=port, data_dir=tmp_path / "data", idle_s=4 * PATIENCE_S)  # the stream waits long
    replicas = ReplicaOptions(2, 2, cpus=0.5)
    with pytest.raises(ConfigError, match="--wyoming"):
        deploy(hears, "one", ServeOptions(port=port, data_dir=tmp_path, wyoming_port=10300), replicas)
    deploy(hears, "one", options, replicas)
    soundfile.write(tmp_path / "clip.wav", tone(2.0).samples, 16_000)
    clip, url = (tmp_path / "clip.wav").read_bytes(), f"http://127.0.0.1:{port}"
    texts, failures, is_over = Counter[str](), list[str](), threading.Event()

    def load() -> None:
        with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
            while not is_over.is_set():
                try:
                    reply = client.post("/v1/audio/transcriptions", files={"file": ("a.wav", clip)})
                    texts[reply.json()["text"] if reply.status_code == 200 else reply.text] += 1
                    if reply.status_code != 200:
                        failures.append(reply.text)
                except httpx.HTTPError as error:
                    failures.append(repr(error))

    clients = [threading.Thread(target=load, daemon=True) for _ in range(4)]
    for client in clients:
        client.start()
    pcm = (tone(1.0).samples * 32767).astype("<i2").tobytes()
    with connect(f"ws://127.0.0.1:{port}/v1/live", open_timeout=PATIENCE_S) as stream:
        stream.send(json.dumps({"kind": "start", "vad": False}))
        stream.send(pcm)
        deploy(hears, "two", options, replicas)  # returns when the new replicas answer; the stream's may go on
        until(lambda: failures or texts["two"] >= 20)
        assert httpx.post(f"{url}/v1/admin/model", json={"model": "x"}, timeout=PATIENCE_S).status_code == 501
        stream.send(pcm)
        stream.send(json.dumps({"kind": "end"}))
        while (message := json.loads(stream.recv(timeout=PATIENCE_S)))["kind"] != "transcript":
            pass
    is_over.set()
    for client in clients:
        client.join(PATIENCE_S)
    assert not failures and set(texts) == {"one", "two"}, (failures[:3], texts)
    assert message["transcript"]["duration"] == 2.0
    assert {segment["text"] for segment in message["transcript"]["segments"]} == {"one"}, "of the replica it began on"
    after = {
        httpx.post(f"{url}/v1/audio/transcriptions", files={"file": ("a.wav", clip)}).json()["text"] for _ in range(8)
    }
    assert after == {"two"}
    take_down()
    cluster.add_node(num_cpus=1)
    with pytest.raises(ConfigError, match=r"2 nodes.*SQLite.*--database postgresql"):
        deploy(hears, "three", options, replicas)


def until(is_true: object) -> None:
    end = time.monotonic() + PATIENCE_S
    while not is_true():  # type: ignore[operator]
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
