"""Fixtures for every package's tests."""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from contracts.config import MqttConfig
from tests.support.broker import BROKERS, mosquitto

# Where the longest tests are, the longest first: each worker begins with some of them, so that
# none is left alone with one at the end.
LONG = (
    "end_to_end/test_own_fleet", "faults/test_what_devices_wait_for", "classify/test_build",
    "end_to_end/test_demo", "faults/test_acknowledged", "faults/test_sigkill",
    "faults/test_fuzz.", "faults/test_ownership", "rollout/test_simulated", "micro/test_device",
    "faults/test_network", "generate/test_build", "ownership/test_owners",
    "faults/test_fuzz_answers", "micro/test_waiting", "browser/", "ingest/test_shared",
    "model_builder/test_cli", "classify/test_auto", "classify/test_honest_figures",
    "cli/test_up", "membership/test_leaving", "faults/test_every_file_operation",
)  # fmt: skip


MEMORY = Path("/dev/shm")
MEMORY_BYTES = 6_000_000_000
"""Free room below which the run's files go to the disk: more than twice what they have taken."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure() -> None:
    """Keeps the run's files in memory where there is room for them and programs may run there.

    Half of the work of tests with databases and journals is else that of the disk. No test looks
    at what is left after a power cut of the real one; a folder that a person chose is used.
    """
    gc.disable()  # until all is collected: what is imported and collected stays
    if "TMPDIR" not in os.environ and _is_roomy(MEMORY):
        os.environ["TMPDIR"] = str(MEMORY)  # workers and programs inherit it
        tempfile.tempdir = None


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What is imported and collected is looked through by no collection of garbage any more.

    They took a tenth of the work of the tests that run in this process.
    """
    gc.collect()
    gc.freeze()
    gc.enable()


def _is_roomy(folder: Path) -> bool:
    try:
        runs_programs = not os.statvfs(folder).f_flag & os.ST_NOEXEC
        return runs_programs and shutil.disk_usage(folder).free >= MEMORY_BYTES
    except OSError:
        return False


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers: puts long modules where the share of a worker begins.

    Workers get shares of equal numbers of tests, in order, and steal from the end of others'.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        items[:] = _dealt(items, workers)


def _dealt(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    long: dict[str, list[pytest.Item]] = {part: [] for part in LONG}
    short: list[pytest.Item] = []
    for item in items:
        path = item.path.as_posix()
        long.get(next((part for part in LONG if part in path), ""), short).append(item)
    shares: list[list[pytest.Item]] = [[] for _ in range(workers)]
    for number, module in enumerate(long.values()):
        lap, at = divmod(number, workers)
        shares[workers - 1 - at if lap % 2 else at] += module
    size = len(items) // workers
    rest = iter(short)
    for share in shares:
        share += itertools.islice(rest, max(0, size - len(share)))
    return [*itertools.chain.from_iterable(shares), *rest]


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
