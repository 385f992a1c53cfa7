"""What a server measures of itself, for Prometheus: `/metrics`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable

    from redline.serve.service import RecognitionService

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_FACTORS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128)


class ServerMetrics:
    """Counters and histograms of one server."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "redline_requests", "HTTP requests that were answered", ["route", "method", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "redline_request_seconds", "From a request to the end of its answer", ["route"], buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.transcribed = Counter("redline_transcribed_seconds", "Sound that was transcribed", registry=registry)
        self.latency = Histogram(
            "redline_transcription_seconds", "From asking for a recording's text to having it, waiting included",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.factor = Histogram(
            "redline_real_time_factor", "The same, divided by the recording's duration", buckets=_FACTORS,
            registry=registry,
        )  # fmt: skip
        self.batch_answers = Histogram(
            "redline_batch_answers", "Requests that one step of the scheduler answered", buckets=_COUNTS,
            registry=registry,
        )  # fmt: skip
        self.busy = Counter("redline_recognition_busy_seconds", "Time in which the model worked", registry=registry)

    def watch(self, service: RecognitionService) -> None:
        """Tell what goes on in a service, too."""
        self.registry.register(_Gauges(service))

    def transcript(self, duration_s: float, took_s: float) -> None:
        """A recording has its text."""
        self.transcribed.inc(duration_s)
        self.latency.observe(took_s)
        if duration_s > 0:
            self.factor.observe(took_s / duration_s)

    def step(self, answered: int, took_s: float) -> None:
        """The scheduler made a step."""
        self.busy.inc(took_s)
        if answered:
            self.batch_answers.observe(answered)


class _Gauges(Collector):
    """What is so at the moment of asking."""

    def __init__(self, service: RecognitionService) -> None:
        self._service = service

    def collect(self) -> Iterable[Metric]:
        service = self._service
        yield GaugeMetricFamily("redline_active", "Recordings in work", service.active)
        yield GaugeMetricFamily("redline_waiting", "Requests that wait for their turn", service.waiting)
        yield GaugeMetricFamily("redline_streams", "Live streams that are open", service.streams)
        model = GaugeMetricFamily("redline_model", "The model that answers", labels=["name"])
        model.add_metric([service.model.name], 1)
        yield model


def metrics_router() -> APIRouter:
    """`/metrics`; needs the scope `admin` where there are keys."""
    router = APIRouter(tags=["operation"])

    @router.get("/metrics", response_class=Response)
    async def metrics(request: Request) -> Response:
        """What Prometheus reads."""
        server = request.app.state.server
        server.keys.check(request, "admin")
        return Response(generate_latest(server.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return router
