"""Fault tests make thousands of log lines on purpose; none is kept."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True, scope="session")
def quiet_logs() -> Iterator[None]:
    """Drops every line below ``critical``."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.reset_defaults()
