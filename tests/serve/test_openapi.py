"""The OpenAPI description is valid, and no request that it allows or forbids is an internal error (schemathesis)."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import openapi
from schemathesis.checks import not_a_server_error

from .conftest import ServerFactory
from .recordings import wav

pytestmark = pytest.mark.battery


def test_no_request_behind_another_is_an_internal_error(serve: ServerFactory) -> None:
    """Jobs and uploads are made, and then asked for, gone on with, cancelled: by the links of the description."""
    with serve(idle_s=2.0) as server:
        schema, seen = openapi.from_url(f"{server.url}/openapi.json"), set[tuple[str, int]]()

        class Calls(schema.as_state_machine()):  # type: ignore[misc]
            def before_call(self, case) -> None:  # type: ignore[no-untyped-def]
                if (case.method, case.path) == ("POST", "/v1/jobs"):  # few of those that are made up are good
                    case.media_type, case.body = "multipart/form-data", {"file": wav(1)}
                if (case.method, case.path) == ("POST", "/v1/uploads"):
                    case.media_type, case.body = "application/json", {"length": 9}

            def validate_response(self, response, case, additional_checks=None, **options) -> None:  # type: ignore[no-untyped-def]
                seen.add((f"{case.method} {case.path}", response.status_code))
                case.validate_response(response, checks=[not_a_server_error])

        Calls.run(
            settings=settings(
                max_examples=40, stateful_step_count=5, deadline=None, derandomize=True, database=None,
                phases=[Phase.generate], suppress_health_check=list(HealthCheck),
            )
        )  # fmt: skip
    found = {call for call, status in seen if status < 300}
    assert {"POST /v1/jobs", "POST /v1/uploads"} <= found, seen
    assert any("{id}" in call for call in found), f"no link was followed to what was made: {seen}"


@pytest.mark.parametrize("cases", [12, pytest.param(100, marks=pytest.mark.laws)])
def test_no_request_is_an_internal_error(serve: ServerFactory, cases: int) -> None:
    """That many for each operation; with 100 they are more than 2,000."""
    with serve(idle_s=2.0, any_model_name=True) as server:
        schema = openapi.from_url(f"{server.url}/openapi.json")
        tried = 0
        for result in schema.get_all_operations():
            operation = result.ok()

            @settings(
                max_examples=cases, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            def ask(case) -> None:  # type: ignore[no-untyped-def]
                nonlocal tried
                tried += 1
                case.call_and_validate(checks=[not_a_server_error], timeout=20)

            given(operation.as_strategy())(ask)()
        print(f"{tried} requests")
        assert tried >= (2000 if cases == 100 else len(schema.raw_schema["paths"]))
