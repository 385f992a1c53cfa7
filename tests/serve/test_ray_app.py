"""The application under Ray Serve, on a real cluster of this machine: replicas, a rolling update, what it refuses."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import soundfile
from typer.testing import CliRunner
from websockets.sync.client import connect

from redline.cli.main import app
from redline.errors import ConfigError, RedlineError
from redline.longform.session import SessionOptions
from redline.serve.options import ServeOptions
from redline.testing import FakeRecognizer, tone
from redline.transcriber import Transcriber
from tests.cluster.ray_archives import patiently

ray = pytest.importorskip("ray", reason="needs redline[cluster]")
from ray.cluster_utils import Cluster  # noqa: E402

from redline.serve.ray_app import APPLICATION, ReplicaOptions, deploy, take_down  # noqa: E402

PATIENCE_S = 120.0


def hears(word: str) -> Transcriber:
    """A model that hears one word, after a while."""

    def respond(_: object) -> str:
        time.sleep(0.05)
        return word

    return Transcriber(FakeRecognizer(respond), SessionOptions(vad=None))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster of one node, which this process has joined."""
    ray.cloudpickle.register_pickle_by_value(__import__(__name__, fromlist=["hears"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S", "1")  # what is in work is told; else 10
        head = {"num_cpus": 4, "include_dashboard": False}
        cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
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


def test_the_command_tells_of_a_port_that_is_taken_before_ray_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        arguments = ["serve", "--ray", "local", "--port", str(taken.getsockname()[1]), "--data", str(tmp_path)]
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and "cannot listen on 127.0.0.1" in result.output, result.output
    assert not ray.is_initialized()


@pytest.mark.battery
def test_a_rolling_update_under_load_loses_no_request_and_no_stream(cluster: Cluster, tmp_path: Path) -> None:
    port = free_port()
    options = ServeOptions(port=port, data_dir=tmp_path / "data", idle_s=4 * PATIENCE_S)  # the stream waits long
    replicas = ReplicaOptions(2, 2, cpus=0.5)
    with pytest.raises(ConfigError, match="--wyoming"):
        deploy(hears, "one", ServeOptions(port=port, data_dir=tmp_path, wyoming_port=10300), replicas)
    deploy(hears, "one", options, replicas)
    url, load = f"http://127.0.0.1:{port}", Clients(port, tmp_path / "clip.wav", 4)
    pcm = (tone(1.0).samples * 32767).astype("<i2").tobytes()
    with connect(f"ws://127.0.0.1:{port}/v1/live", open_timeout=PATIENCE_S) as stream:
        stream.send(json.dumps({"kind": "start", "vad": False}))
        stream.send(pcm)
        deploy(hears, "two", options, replicas)  # returns when the new replicas answer; the stream's may go on
        until(lambda: load.failures or load.texts["two"] >= 20)
        assert httpx.post(f"{url}/v1/admin/model", json={"model": "x"}, timeout=PATIENCE_S).status_code == 501
        stream.send(pcm)
        stream.send(json.dumps({"kind": "end"}))
        while (message := json.loads(stream.recv(timeout=PATIENCE_S)))["kind"] != "transcript":
            pass
    load.end()
    assert not load.failures and set(load.texts) == {"one", "two"}, (load.failures[:3], load.texts)
    assert message["transcript"]["duration"] == 2.0
    assert {segment["text"] for segment in message["transcript"]["segments"]} == {"one"}, "of the replica it began on"
    assert {load.ask(client).json()["text"] for _ in range(8) for client in [httpx.Client(base_url=url)]} == {"two"}
    with pytest.raises(ConfigError, match=rf"proxies listen on 127.0.0.1:{port} and cannot move"):
        deploy(hears, "three", replace(options, port=free_port()), replicas)


@pytest.mark.battery
def test_replicas_come_with_what_waits_and_go_when_nothing_does(cluster: Cluster, tmp_path: Path) -> None:
    take_down()  # what the test before left, and its proxies: another port may be asked for
    options = ServeOptions(port=free_port(), data_dir=tmp_path / "data")
    replicas = ReplicaOptions(
        1, 2, cpus=0.5, target_requests=2.0, look_back_s=11.0, upscale_delay_s=1.0, downscale_delay_s=2.0
    )
    deploy(hears, "one", options, replicas)
    assert running() == 1
    load = Clients(options.port, tmp_path / "clip.wav", 8)
    until(lambda: load.failures or running() == 2)
    answered = load.texts["one"]
    until(lambda: load.failures or load.texts["one"] >= answered + 20)
    load.end()
    until(lambda: running() == 1)
    with httpx.Client(base_url=load.url, timeout=PATIENCE_S) as client:
        assert load.ask(client).json()["text"] == "one"
    assert not load.failures and set(load.texts) == {"one"}, (load.failures[:3], load.texts)
    take_down()


@pytest.mark.battery
def test_a_port_that_is_taken_is_told_and_another_one_can_be_had(cluster: Cluster, tmp_path: Path) -> None:
    options = ServeOptions(port=free_port(), data_dir=tmp_path / "data")
    told = rf"cannot listen on 127.0.0.1, port {options.port}.*--host, --port"
    with socket.create_server(("127.0.0.1", options.port)), pytest.raises(RedlineError, match=told):
        deploy(hears, "four", options, ReplicaOptions(1, 1, cpus=0.5))
    deploy(hears, "four", replace(options, port=free_port()), ReplicaOptions(1, 1, cpus=0.5))
    assert take_down() and not take_down(), "what is not there is no error, and told"


@pytest.mark.battery
def test_a_cluster_of_nodes_needs_a_database_that_all_can_use(cluster: Cluster, tmp_path: Path) -> None:
    cluster.add_node(num_cpus=1)
    with pytest.raises(ConfigError, match=r"2 nodes.*SQLite.*--database postgresql"):
        deploy(hears, "three", ServeOptions(port=free_port(), data_dir=tmp_path), ReplicaOptions(1, 1, cpus=0.5))


class Clients:
    """Threads that ask for the same transcript again and again until `end`."""

    def __init__(self, port: int, clip: Path, count: int) -> None:
        soundfile.write(clip, tone(2.0).samples, 16_000)
        self.url, self._clip = f"http://127.0.0.1:{port}", clip.read_bytes()
        self.texts, self.failures = Counter[str](), list[str]()
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask_on, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def ask(self, client: httpx.Client) -> httpx.Response:
        return client.post("/v1/audio/transcriptions", files={"file": ("a.wav", self._clip)})

    def _ask_on(self) -> None:
        with httpx.Client(base_url=self.url, timeout=PATIENCE_S) as client:
            while not self._is_over.is_set():
                try:
                    reply = self.ask(client)
                    self.texts[reply.json()["text"] if reply.status_code == 200 else reply.text] += 1
                    if reply.status_code != 200:
                        self.failures.append(reply.text)
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))

    def end(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def running() -> int:
    """Replicas that answer; those that end are not among them."""
    deployments = ray.serve.status().applications[APPLICATION].deployments.values()
    states = [
        {str(getattr(state, "value", state)): count for state, count in each.replica_states.items()}
        for each in deployments
    ]
    return sum(each.get("RUNNING", 0) for each in states) if not any(each.get("STOPPING") for each in states) else -1


def until(is_true: object) -> None:
    end = time.monotonic() + PATIENCE_S
    while not is_true():  # type: ignore[operator]
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
