"""Crashes on the way to owning a fleet: whoever comes next gets on, and nothing was sent before."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contracts.config import MqttConfig
from fleet.folder import ApiConfig, Fleet
from tests.support import crashing_serve, programs
from tests.support.crashing_serve import CRASH, STEPS, TAKING
from tests.support.owners import Sea, newest, take_over, until, want
from tests.support.tools import free_port

_ORDER = list(STEPS)
SENDS = _ORDER[-2:]
"""The steps at which a document may have been sent."""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Ends what a test has begun."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def sea(tmp_path: Path, mosquitto_broker: MqttConfig, fleet_name: str, stack: ExitStack) -> Sea:
    """A fleet that nobody has yet, with a document to be sent."""
    sea = Sea(tmp_path, mosquitto_broker, fleet_name, stack, api=ApiConfig(port=free_port()))
    want(sea.fleet)
    return sea


def crash(fleet: Fleet, step: str) -> None:
    """Runs a controller that ends at a step as by a power cut."""
    log = fleet.folder.parent / "crash.log"
    with log.open("wb") as stream:
        command = [sys.executable, crashing_serve.__file__, step, fleet.folder]
        code = programs.start(command, stdout=stream, stderr=stream).wait(60)
    assert code == CRASH, log.read_text()[-2000:]


@pytest.mark.parametrize("step", STEPS)
def test_after_a_crash_at_any_step_the_next_controller_gets_the_fleet(sea: Sea, step: str) -> None:
    """Nothing was sent before the fleet was owned; afterwards with a higher fence."""
    crash(sea.fleet, step)
    assert step in SENDS or not sea.witness.sent
    before = max([one.fence for one in sea.witness.desired()], default=0)
    following = sea.start()
    assert until(lambda: following.ownership.speaks)
    assert newest(following) > before
    assert until(lambda: sea.witness.desired(newest(following)))


@pytest.mark.parametrize("step", STEPS)
def test_after_a_crash_at_any_step_another_database_takes_only_what_nobody_has(
    sea: Sea, step: str
) -> None:
    """The word at the broker is what counts, and it stays when its owner has crashed."""
    restored = sea.restored()
    crash(sea.fleet, step)
    # The will of who was about to speak counts as well; the broker sends it when it sees the end.
    owned = _ORDER.index(step) >= _ORDER.index("the word is to be said")
    assert not owned or until(lambda: sea.witness.owner is not None)
    assert owned or sea.witness.owner is None
    sent = len(sea.witness.sent)
    other = sea.start(restored)
    if owned:
        assert until(lambda: "sends nothing" in other.ownership.reason)
        assert len(sea.witness.sent) == sent
    else:
        assert until(lambda: other.ownership.speaks)


@pytest.mark.parametrize("step", TAKING)
def test_a_crash_while_the_fleet_is_taken_needs_no_second_word_of_a_person(
    sea: Sea, step: str
) -> None:
    """It goes on at the next start, above the other's fence, and all is sent again."""
    live = sea.start()
    assert until(lambda: live.ownership.speaks and sea.witness.desired(newest(live)))
    restored = sea.restored()
    take_over(restored)
    config = msgspec.structs.replace(restored.config, api=ApiConfig(port=free_port()))
    crash(Fleet(restored.folder, config), step)
    other = sea.start(restored)
    assert until(lambda: other.ownership.speaks)
    assert until(lambda: not live.ownership.speaks)
    assert newest(other) > newest(live)
    assert until(lambda: sea.witness.desired(newest(other)))


def rows_of(database: Path) -> dict[str, list[Any]]:
    """All that a database of SQLite holds, by table."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        tables = [
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")
        ]
        return {
            name: connection.execute(f'SELECT * FROM "{name}"').fetchall()
            for name in tables
            if not name.startswith("sqlite_")
        }


def test_a_restored_fleet_whose_port_is_taken_touches_neither_database_nor_broker(
    sea: Sea,
) -> None:
    """As on the machine of the live controller; its audit log alone notes the failed start."""
    live = sea.start()
    assert until(lambda: live.ownership.speaks and sea.witness.desired(newest(live)))
    restored = sea.restored()
    before = rows_of(restored.folder / "state.db")
    sent, owners = len(sea.witness.sent), len(sea.witness.owners)
    listening = sea.stack.enter_context(closing(socket.socket()))
    listening.bind(("127.0.0.1", restored.config.api.port))
    listening.listen()
    command = [sys.executable, "-m", "fleet", "fleet", "serve", "--dir", str(restored.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "[port-taken]" in done.stderr and "Traceback" not in done.stderr
    after = rows_of(restored.folder / "state.db")
    assert {table for table in after if after[table] != before[table]} <= {"audit"}
    assert (len(sea.witness.sent), len(sea.witness.owners)) == (sent, owners)
