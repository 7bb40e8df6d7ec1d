"""The repository that the tests of a device's trust start from."""

from __future__ import annotations

import pytest

from contracts.messages import BundleRef
from tests.support.tuf_simulator import Simulator


@pytest.fixture
def repository() -> Simulator:
    """An honest repository with one bundle, until a test makes it attack."""
    simulator = Simulator()
    simulator.add_bundle()
    simulator.publish()
    return simulator


@pytest.fixture
def ref() -> BundleRef:
    """The bundle of the honest state."""
    return Simulator().add_bundle()
