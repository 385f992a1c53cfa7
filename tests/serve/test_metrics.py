"""What a server tells of itself: numbers for Prometheus, spans for OpenTelemetry."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from redline.serve.auth import new_key
from redline.testing import FakeRecognizer

from .conftest import ServerFactory
from .recordings import ROUTE, wav


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Values by the name of a sample and its labels' values."""
    families = text_string_to_metric_families(text)
    return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}


def test_metrics_count_requests_sound_and_batches(serve: ServerFactory) -> None:
    with serve() as server, server.client() as client:
        for seconds in (1, 2):
            client.post(ROUTE, files={"file": wav(seconds)})
        client.post(ROUTE, files={"file": b"no sound"})
        client.get("/nothing/of/ours")
        values = samples(client.get("/metrics").text)
    assert values["redline_requests_total", "POST", ROUTE, "200"] == 2
    assert values["redline_requests_total", "POST", ROUTE, "400"] == 1
    assert values["redline_requests_total", "GET", "other", "404"] == 1
    assert values["redline_transcribed_seconds_total",] == 3.0
    assert values["redline_transcription_seconds_count",] == values["redline_real_time_factor_count",] == 2
    assert values["redline_batch_answers_sum",] == 2 and values["redline_recognition_busy_seconds_total",] > 0
    assert values["redline_active",] == values["redline_waiting",] == values["redline_streams",] == 0
    assert values["redline_model", "fake"] == 1


def test_metrics_need_the_scope_admin_where_there_are_keys(serve: ServerFactory, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    usual, admin = new_key(keys, "a"), new_key(keys, "b", ("admin",))
    with serve(keys_file=keys) as server, server.client() as client:
        given = [{}, {"Authorization": f"Bearer {usual}"}, {"Authorization": f"Bearer {admin}"}]
        assert [client.get("/metrics", headers=each).status_code for each in given] == [401, 403, 200]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """What an OpenTelemetry collector is sent, which is configured for this process."""
    bodies: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    place = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=place.serve_forever, daemon=True).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{place.server_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    yield bodies
    place.shutdown()


def test_spans_are_sent_where_a_collector_is_configured_and_hold_no_text(
    serve: ServerFactory, collector: list[bytes]
) -> None:
    recognizer = FakeRecognizer(lambda clip: "CANARY text")
    parent = "0af7651916cd43dd8448eb211c80319c"
    with (
        serve(recognizer) as server,
        server.client(headers={"traceparent": f"00-{parent}-b7ad6b7169203331-01"}) as client,
    ):
        assert client.post(f"{ROUTE}?q=CANARY", files={"file": ("CANARY.wav", wav(1))}).json()["text"] == "CANARY text"
    spans = [
        span
        for body in collector
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert {span.name for span in spans} == {f"POST {ROUTE}", "transcribe"}
    assert {span.trace_id.hex() for span in spans} == {parent}
    assert not any(b"CANARY" in body for body in collector) and any(b"redline" in body for body in collector)
