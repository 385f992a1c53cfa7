"""OpenTelemetry: a span for each request and each transcription, where an exporter is configured.

`OTEL_EXPORTER_OTLP_ENDPOINT` and the other variables of its specification say where spans go and what the service is
called. Spans hold durations, names of routes and of the model; never text, keys or file names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redline.errors import packages_of

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class ServerTracer:
    """Spans of one server; makes none where nothing is configured."""

    def __init__(self) -> None:
        """Raises `RedlineError` where it is configured and the extra `otel` is not installed."""
        self._provider: Any = None
        if not any(os.environ.get(name) for name in _ENDPOINTS) or os.environ.get("OTEL_SDK_DISABLED") == "true":
            return
        with packages_of("otel", "OpenTelemetry"):
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        named = "OTEL_SERVICE_NAME" in os.environ or "service.name" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        resource = Resource.create({} if named else {"service.name": "redline"})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))

    @contextmanager
    def span(self, name: str, headers: dict[str, str] | None = None) -> Iterator[dict[str, Any]]:
        """A span around what happens inside; values put into the dictionary become its attributes.

        `headers` of a request say whose child it is (W3C trace context).
        """
        values: dict[str, Any] = {}
        if self._provider is None:
            yield values
            return
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract(headers) if headers else None
        tracer = self._provider.get_tracer("redline")
        # Messages of exceptions may hold what somebody said.
        with tracer.start_as_current_span(
            name, context=parent, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield values
            finally:
                if "name" in values:
                    span.update_name(values.pop("name"))
                span.set_attributes({key: value for key, value in values.items() if value is not None})

    def close(self) -> None:
        """Send what is left."""
        if self._provider is not None:
            self._provider.shutdown()
