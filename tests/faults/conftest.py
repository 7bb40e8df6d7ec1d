"""Fault tests make thousands of log lines on purpose; none is kept."""

from __future__ import annotations

import pytest
import structlog


@pytest.fixture(autouse=True)
def _quiet_logs(_logs_as_they_were: None) -> None:
    """Drops every line below ``critical``, in these tests alone."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
