"""Fixtures for every package's tests."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
import structlog

from contracts.config import MqttConfig
from tests.support.broker import BROKERS, mosquitto


@pytest.fixture(scope="session", params=sorted(BROKERS))
def broker(request: pytest.FixtureRequest) -> Iterator[MqttConfig]:
    """A real broker, once mosquitto and once the embedded one. Use a fleet name of your own."""
    with BROKERS[request.param]() as config:
        yield config


@pytest.fixture(scope="session")
def mosquitto_broker() -> Iterator[MqttConfig]:
    """A mosquitto without access control."""
    with mosquitto() as config:
        yield config


@pytest.fixture
def fleet_name() -> str:
    """A fleet of the test's own, so that tests share a broker without meeting."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """A test that sets logging up, as a program does at its start, leaves no closed stream."""
    before = structlog.get_config().copy()
    yield
    structlog.configure(**before)
