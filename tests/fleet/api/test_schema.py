"""The API against generated requests: no 5xx, and every answer as its schema says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable

from fleet.controller import Controller
from fleet.store import tokens
from tests.fleet.api.conftest import NOW, app_of

_EXAMPLES = 5


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_no_request_breaks_the_server_or_its_schema(controller: Controller) -> None:
    """Every operation, with right and wrong parameters and bodies, and an admin's token."""
    import schemathesis  # it takes 0.2 s, and no other test needs it
    from schemathesis import GenerationMode

    app = app_of(controller)
    with controller.store.write() as connection:
        secret = tokens.create(connection, "fuzz", "admin", NOW)
    headers = {"Authorization": f"Bearer {secret}"}
    schema = schemathesis.openapi.from_asgi("/v1/openapi.json", app)
    seen = 0
    for result in schema.get_all_operations():
        operation: Any = result.ok()
        # Without a broker this one answers 503 by right.
        if operation.path == "/readyz":
            continue
        seen += 1
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            _send(operation, mode, headers)
    assert seen >= 28


def _send(operation: Any, mode: Any, headers: dict[str, str]) -> None:
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    strategy = operation.as_strategy(mode)
    wanted = [
        not_a_server_error,
        checks.response_schema_conformance,
        checks.status_code_conformance,
        checks.content_type_conformance,
    ]

    @settings(
        max_examples=_EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def send(case: Any) -> None:
        case.call_and_validate(headers=headers, checks=wanted)

    try:
        send()
    except Unsatisfiable:
        # An operation without parameters has nothing to be wrong.
        assert mode is GenerationMode.NEGATIVE
