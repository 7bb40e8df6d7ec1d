"""What every test of the agent gets."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contracts.bundle import Bundle
from tests.support import made


@pytest.fixture(autouse=True)
def _databases_are_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Closes what a test leaves open, as one does that plays a kill: Python 3.13 warns of it."""
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def kept(*args: Any, **options: Any) -> sqlite3.Connection:
        opened.append(connect(*args, **options))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", kept)
    yield
    for connection in opened:
        connection.close()


@pytest.fixture(scope="session")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that takes the processor longer than a look into a table."""

    def make(folder: Path) -> None:
        from tests.support.slow_model import slow_bundle  # with TensorFlow: one worker loads it

        slow_bundle(folder / "bundle")

    folder = tmp_path_factory.mktemp("slow")
    made.once("slow model", make, folder)
    return Bundle.open(folder / "bundle")
