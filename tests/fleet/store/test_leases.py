"""Leases that cost a write only when somebody else wants them, and are never two processes' own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.store import Store, leases
from tests.support.counting import cost_of

LEASE_S = 10.0
NOW = 1_800_000_000.0
NAME = "work"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A database of its own."""
    made = Store(f"sqlite:///{tmp_path / 'fleet.db'}")
    made.migrate()
    yield made
    made.close()


class Process:
    """One that wants the lease, looks four times in its length, and goes by its newest look."""

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self.name = name
        self.until = 0.0
        self.hangs = False

    def look(self, now: float) -> None:
        """Takes, renews or asks."""
        if not self.hangs and leases.acquire(self.store, NAME, self.name, now, LEASE_S):
            self.until = now + LEASE_S

    def works(self, now: float) -> bool:
        """Whether it believes that the lease is its own."""
        return now < self.until


def test_a_lease_that_nobody_else_wants_costs_one_write(store: Store) -> None:
    """However long it is held; asked for, it is renewed as long as somebody asks."""
    assert leases.acquire(store, NAME, "a", NOW, LEASE_S)
    with cost_of(store) as cost:
        for second in range(0, 100_000, 500):
            assert leases.acquire(store, NAME, "a", NOW + second, LEASE_S)
    assert cost.writes == []
    now = NOW + 100_000
    assert not leases.acquire(store, NAME, "b", now, LEASE_S)
    with cost_of(store) as cost:
        assert leases.acquire(store, NAME, "a", now + 1, LEASE_S)
        assert not leases.acquire(store, NAME, "b", now + LEASE_S, LEASE_S)
    assert len(cost.writes) == 1
    with cost_of(store) as cost:
        assert leases.acquire(store, NAME, "a", now + 1000, LEASE_S), "nobody asked again"
    assert cost.writes == []


def test_who_asks_for_a_lease_whose_holder_is_gone_gets_it_in_time(store: Store) -> None:
    """Who has asked all along, after one length; who comes anew, after one and a half."""
    assert leases.acquire(store, NAME, "a", NOW, LEASE_S)
    later = NOW + 5000
    assert not leases.acquire(store, NAME, "b", later, LEASE_S), "it may be there"
    assert not leases.acquire(store, NAME, "b", later + LEASE_S, LEASE_S)
    assert leases.acquire(store, NAME, "b", later + 1.5 * LEASE_S + 0.1, LEASE_S)
    now = later + 20
    assert not leases.acquire(store, NAME, "c", now, LEASE_S)
    assert leases.acquire(store, NAME, "b", now + 1, LEASE_S)
    assert leases.acquire(store, NAME, "c", now + 1 + LEASE_S + 0.1, LEASE_S)


def test_the_leases_of_a_process_that_the_broker_calls_gone_are_free(store: Store) -> None:
    """All of them, and no other's whose name only looks like it."""
    assert leases.acquire(store, "owner", "cafe", NOW, LEASE_S)
    assert leases.acquire(store, "ingest", "host-7-cafe", NOW, LEASE_S)
    assert leases.acquire(store, "rollouts", "host-7-decafe", NOW, LEASE_S)
    with store.write() as connection:
        leases.free_all(connection, "%")
        leases.free_all(connection, "cafe")
    assert leases.acquire(store, "owner", "b", NOW, LEASE_S)
    assert leases.acquire(store, "ingest", "b", NOW, LEASE_S)
    assert not leases.acquire(store, "rollouts", "b", NOW, LEASE_S)


def test_a_clock_that_was_ahead_makes_the_holder_say_that_it_is_there(store: Store) -> None:
    """Else the end in the row would count as one of a process that died with that clock."""
    assert leases.acquire(store, NAME, "a", NOW + 1_000_000, LEASE_S)
    assert leases.acquire(store, NAME, "a", NOW, LEASE_S)
    assert not leases.acquire(store, NAME, "b", NOW + 1, LEASE_S)


@pytest.mark.parametrize("seed", range(8))
def test_no_two_processes_ever_work_at_once_whatever_happens(store: Store, seed: int) -> None:
    """They come, go, hang and wake; while one lives, somebody works again soon."""
    chance = random.Random(seed)
    processes = [Process(store, name) for name in "abc"]
    due = {one.name: NOW + chance.random() * LEASE_S for one in processes}
    now, idle_since = NOW, NOW
    for _ in range(600):
        one = min(processes, key=lambda process: due[process.name])
        now = due[one.name]
        one.look(now)
        due[one.name] = now + LEASE_S / 4 * chance.uniform(0.9, 1.1)
        if chance.random() < 0.02:
            one.hangs = not one.hangs
        working = [process.name for process in processes if process.works(now)]
        assert len(working) <= 1, working
        if working or all(process.hangs for process in processes):
            idle_since = now
        if chance.random() < 0.01 and not one.hangs:
            leases.release(store, NAME, one.name)
            one.until = 0.0
        awake = [process for process in processes if not process.hangs]
        if len(awake) == 1 and now - idle_since > 3 * LEASE_S:
            pytest.fail(f"{awake[0].name} is there, and nobody works")
