"""The OpenAPI description is valid, and no request that it allows or forbids is an internal error (schemathesis)."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import openapi
from schemathesis.checks import not_a_server_error

from .conftest import ServerFactory

pytestmark = pytest.mark.battery

_CASES = 12
"""For each operation."""


def test_no_request_is_an_internal_error(serve: ServerFactory) -> None:
    with serve(idle_s=2.0, any_model_name=True) as server:
        schema = openapi.from_url(f"{server.url}/openapi.json")
        tried = 0
        for result in schema.get_all_operations():
            operation = result.ok()

            @settings(
                max_examples=_CASES, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            def ask(case) -> None:  # type: ignore[no-untyped-def]
                nonlocal tried
                tried += 1
                case.call_and_validate(checks=[not_a_server_error], timeout=20)

            given(operation.as_strategy())(ask)()
        assert tried >= len(schema.raw_schema["paths"])
