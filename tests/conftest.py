"""Fixtures for every package's tests."""

from __future__ import annotations

import gc
import os
import shutil
import ssl
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import structlog

from contracts.config import MqttConfig
from tests.support import made, schedule
from tests.support.broker import BROKERS

MEMORY = Path("/dev/shm")
MEMORY_BYTES = 6_000_000_000
"""Free room below which the run's files go to the disk: more than twice what they have taken."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Keeps the run's files in memory where there is room for them and programs may run there.

    Half of the work of tests with databases and journals is else that of the disk. No test looks
    at what is left after a power cut of the real one; a folder that a person chose is used.
    """
    gc.disable()  # until all is collected: what is imported and collected stays
    if "TMPDIR" not in os.environ and _is_roomy(MEMORY):
        os.environ["TMPDIR"] = str(MEMORY)  # workers and programs inherit it
        tempfile.tempdir = None
    # Tests talk to loopback: where authorities are found by their hash, none need be read. A file
    # of all of them would be read for every connection, a third of the work of tests with TLS.
    if any(Path(ssl.get_default_verify_paths().openssl_capath).glob("????????.0")):
        os.environ.pop("SSL_CERT_FILE", None)
        os.environ.pop("SSL_CERT_DIR", None)
    # Several workers share the cores: threads that wait for each other spin.
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    shared = made.begin()
    if shared is not None:
        config.add_cleanup(lambda: made.end(shared))


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
    """With several workers: the long ones first."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items[:] = [items[at] for at in schedule.ordered(item.nodeid for item in items)]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadscope`: each worker gets the longest module, or long test, that is left."""
    if config.getoption("dist") != "loadscope":
        return None
    config.option.loadscopereorder = False
    return schedule.LongestFirst(config, log)


@pytest.fixture(scope="session")
def _brokers() -> Iterator[Callable[[str], MqttConfig]]:
    """Starts each broker once."""
    running: dict[str, MqttConfig] = {}
    with ExitStack() as stack:

        def started(name: str) -> MqttConfig:
            if name not in running:
                running[name] = stack.enter_context(BROKERS[name]())
            return running[name]

        yield started


@pytest.fixture(scope="session", params=sorted(BROKERS))
def broker(request: pytest.FixtureRequest, _brokers: Callable[[str], MqttConfig]) -> MqttConfig:
    """A real broker, once mosquitto and once the embedded one. Use a fleet name of your own."""
    return _brokers(request.param)


@pytest.fixture(scope="session")
def mosquitto_broker(_brokers: Callable[[str], MqttConfig]) -> MqttConfig:
    """A mosquitto without access control."""
    return _brokers("mosquitto")


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
