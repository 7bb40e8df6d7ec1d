"""What an idle fleet costs: the same for few and many devices, and however much has happened."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from fleet.rollout.selector import parse
from fleet.store import Store, desired, devices, selection
from tests.fleet.conductor.test_runner import VERSIONS, Small
from tests.support.counting import Cost, cost_of, scans

SIZES = ((5, 1), (120, 9))
"""Devices, and rollouts that all of them went through."""

GATES = {"max_error_rate": 0.1, "no_evidence": "pass"}


@pytest.fixture(scope="module", params=SIZES, ids=["small", "large"])
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Small:
    """A fleet that did all that was asked of it, some time ago; its rollouts are followed."""
    count, history = request.param
    small = Small(tmp_path_factory.mktemp("idle"))
    names = [f"d{index:04}" for index in range(count)]
    small.add(*names)
    for version in itertools.islice(itertools.cycle(VERSIONS), history):
        rollout = small.create(version, gates=GATES)
        small.settle(*names, ticks=8)
        assert small.status(rollout) == "succeeded"
        small.now += 600
    while small.runner.tick():
        pass
    small.now += 3600
    return small


def _cost(fleet: Small, work: Callable[[], object]) -> Cost:
    with cost_of(fleet.store) as cost:
        work()
    return cost


COSTS: dict[str, tuple[int, int]] = {}
"""What each piece of work cost the fleet that was looked at first."""


def _same(fleet: Small, what: str, cost: Cost) -> None:
    assert scans(fleet.store, cost, "device", "rollout", "rollout_member", "device_trait") == []
    found = (len(cost.statements), cost.rows)
    assert COSTS.setdefault(what, found) == found, cost.texts


def test_a_tick_with_nothing_to_do_reads_two_empty_indexes(fleet: Small) -> None:
    """No device, no rollout, no lease, and nothing is written."""
    cost = _cost(fleet, fleet.runner.tick)
    assert cost.rows == 0 and len(cost.statements) == 2 and not cost.writes
    _same(fleet, "tick", cost)


def test_a_device_that_comes_back_costs_what_one_device_costs(fleet: Small) -> None:
    """Its own row and its newest rollout, not the fleet and not its history."""
    fleet.online("d0003", online=False)
    fleet.online("d0003", online=True)
    looks = [_cost(fleet, fleet.runner.tick) for _ in range(2)]
    assert looks[1].rows == 0, "it was looked at once"
    whole = [text for text in looks[0].texts if "rollout_member.content" in text]
    assert len(whole) == 1, "members of its newest rollout alone"
    _same(fleet, "back", looks[0])


@pytest.mark.parametrize("text", ["d0001", "device=d0001,own:board=*", "site=nowhere"])
def test_a_query_of_one_device_reads_one_device(fleet: Small, text: str) -> None:
    """The database finds it."""

    def ask(store: Store) -> None:
        with store.read() as connection:
            devices.contacts(connection, selection.means(parse(text)))
            devices.select(connection, parse(text))

    cost = _cost(fleet, lambda: ask(fleet.store))
    assert cost.rows == (0 if text == "site=nowhere" else 2)
    _same(fleet, text, cost)


def test_the_outbox_looks_for_what_is_left_to_send_in_an_index(fleet: Small) -> None:
    """Whether documents are unsent or not reached: nothing is read where there is none."""
    with fleet.store.write() as connection:
        sent = [(d.id, d.desired_revision) for d in devices.every(connection)]
        desired.mark_sent(connection, sent)

    def look(store: Store) -> None:
        with store.read() as connection:
            assert desired.unsent(connection, 500) == []
            for moment in (None, fleet.now):
                assert desired.unreached(connection, moment) == []

    cost = _cost(fleet, lambda: look(fleet.store))
    assert cost.rows == 0
    _same(fleet, "outbox", cost)
