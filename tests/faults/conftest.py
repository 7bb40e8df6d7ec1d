"""Fault tests make thousands of log lines on purpose; none is kept."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent import log


@pytest.fixture(autouse=True, scope="session")
def quiet_logs() -> Iterator[None]:
    """Drops every line."""
    log.show(None)
    yield
    log.show("info")
