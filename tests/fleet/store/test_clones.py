"""What connections say of an identity that two devices have; and what says nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from contracts.messages import Status
from fleet.store import clones
from fleet.store.clones import Clone, Seen


def heard(history: list[tuple[str, int]]) -> int:
    """How often a boot came back after another, in a sequence of boots and session numbers."""
    recent: list[Seen] = []
    found = 0
    for now, (boot, session) in enumerate(history):
        after, came_back = clones.connected(recent, Status("online", boot, session, 0.0), now)
        recent = recent if after is None else after
        found += came_back
    return found


def test_one_device_that_restarts_and_reconnects_is_no_clone() -> None:
    """A boot that has ended never comes back."""
    assert heard([("a", 1), ("a", 2), ("b", 3), ("b", 4), ("c", 5), ("d", 6), ("e", 7)]) == 0


def test_a_boot_that_comes_back_is_of_a_second_device() -> None:
    """Whatever the numbers of its sessions are: two count apart."""
    assert heard([("a", 1), ("b", 2), ("a", 3)]) == 1
    assert heard([("a", 100), ("b", 1), ("a", 101), ("b", 2)]) == 2
    assert heard([("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3)]) == 3


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=30),
    st.integers(1, 30),
)
def test_messages_that_come_again_are_no_clone(steps: list[tuple[int, int]], again: int) -> None:
    """The broker gives what was not acknowledged once more, in its order, and may do so often."""
    history: list[tuple[str, int]] = []
    boot = session = 0
    for more_boots, more_sessions in steps:
        boot, session = boot + more_boots, session + more_sessions + 1
        history.append((f"b{boot}", session))
    assert heard(history) == 0
    assert heard([*history, *history[-min(again, clones.KEPT) :]]) == 0


def test_signs_within_a_day_are_one_alert() -> None:
    """The pair goes on for as long as both run; it is told of once."""
    seen = [Seen("a", 1, 0.0, "10.0.0.5"), Seen("b", 2, 1.0, "10.0.0.9")]
    clone, first = clones.noted(None, "sessions", seen, 100.0)
    assert (first, clone.count, clones.addresses(clone)) == (True, 1, ["10.0.0.5", "10.0.0.9"])
    clone, first = clones.noted(clone, "sessions", seen, 200.0)
    assert (first, clone.count, clone.since, clone.at) == (False, 2, 100.0, 200.0)
    again, first = clones.noted(clone, "sessions", seen, 200.0 + clones.QUIET_S + 1)
    assert (first, again.count) == (True, 1)


def test_the_alert_names_both_where_it_is_known() -> None:
    """And says what to do."""
    seen = [Seen("a", 1, 0.0, "10.0.0.5"), Seen("b", 2, 1.0, "10.0.0.9")]
    text = clones.describe("kitchen", Clone(1.0, 2.0, 7, "sessions", seen))
    assert "kitchen" in text and "10.0.0.5 and 10.0.0.9" in text and "--replace" in text
    assert "places unknown" in clones.describe("k", Clone(1.0, 2.0, 7, "certificates"))
    assert "203.0.113.7" in clones.describe("k", Clone(1.0, 2.0, 1, "renewal", [], "203.0.113.7"))
