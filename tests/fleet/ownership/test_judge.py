"""Who may speak, from what database and broker say: every case, and the rule behind them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.desired import Owner
from fleet.ownership.judge import ANSWER_S, PATIENCE_S, View, judge
from fleet.store.ownership import Fence, Known

ME, PEER, STRANGER = "me", "peer", "stranger"
LEADING = Known("db", {7: ME, 5: PEER, 3: ME}, ME, 1.0, None, False)
"""This process has the lease, and the newest fence is its own."""

FOLLOWING = Known("db", {7: PEER, 5: ME}, PEER, 1.0, None, False)


def owner(fence: int = 7, instance: str = ME, database: str = "db", state: str = "online") -> Owner:
    """A document at the broker."""
    return Owner(database, fence, instance, "host", 1.0, state)  # type: ignore[arg-type]


def with_grant(known: Known) -> Known:
    """The same database after `shoal fleet takeover`."""
    return msgspec.structs.replace(known, granted=True)


def contested(known: Known, fence: int, instance: str) -> Known:
    """The same database, which has noted an owner that lives elsewhere."""
    return msgspec.structs.replace(known, contested=Fence(fence, instance))


CASES = {
    "a broker that has just confirmed may still send a document": (
        LEADING, View(settled=False), "wait", 0),
    "nobody has the fleet": (LEADING, View(), "claim", 0),
    "nobody has the fleet, and another is to take it": (FOLLOWING, View(), "wait", 0),
    "the own word stands": (LEADING, View(owner()), "speak", 7),
    "the own word stands, and another may have taken the fleet in the same moment": (
        LEADING, View(owner(), settled=False), "wait", 0),
    "the own word was taken back by an old connection's will": (
        LEADING, View(owner(state="offline")), "claim", 0),
    "the own word is of an earlier fence": (LEADING, View(owner(3)), "claim", 0),
    "the predecessor is gone": (LEADING, View(owner(5, PEER, state="offline")), "claim", 0),
    "the predecessor hangs": (LEADING, View(owner(5, PEER), absent_s=1.0), "wait", 0),
    "the predecessor lives elsewhere, or fell with the broker": (
        LEADING, View(owner(5, PEER), absent_s=PATIENCE_S), "ask", 0),
    "the predecessor is to be asked by the peer that leads": (
        FOLLOWING, View(owner(7, PEER), absent_s=PATIENCE_S), "wait", 0),
    "the predecessor was asked a moment ago": (
        LEADING, View(owner(5, PEER, state="offline"), asked_s=1.0), "wait", 0),
    "the predecessor answers a moment after it was asked": (
        LEADING, View(owner(5, PEER), asked_s=1.0), "wait", 0),
    "the predecessor did not answer": (
        LEADING, View(owner(5, PEER, state="offline"), asked_s=ANSWER_S), "claim", 0),
    "the predecessor answered: it lives, and not here": (
        LEADING, View(owner(5, PEER), asked_s=ANSWER_S), "contest", 0),
    "the predecessor was noted as living elsewhere, and is gone now": (
        contested(LEADING, 5, PEER), View(owner(5, PEER, state="offline")), "stand-back", 0),
    "who was noted as living elsewhere renews its lease here": (
        contested(FOLLOWING, 7, PEER), View(owner(7, PEER), renewing=True), "settle", 0),
    "a broker that has lost its documents does not make a copy the owner": (
        contested(LEADING, 5, PEER), View(), "stand-back", 0),
    "a person gives the fleet to a copy": (
        with_grant(contested(LEADING, 5, PEER)), View(owner(5, PEER), absent_s=1.0), "outrun", 0),
    "a person gives the fleet to a copy, and the broker has lost its documents": (
        with_grant(contested(LEADING, 5, PEER)), View(), "claim", 0),
    "a person's word was not needed": (with_grant(LEADING), View(owner()), "settle", 0),
    "a person goes above the fence that devices hold": (
        msgspec.structs.replace(with_grant(LEADING), held=8), View(owner()), "outrun", 0),
    "a person goes above what devices hold, and nobody has the fleet": (
        msgspec.structs.replace(with_grant(LEADING), held=8), View(), "outrun", 0),
    "a person went above what devices hold": (
        msgspec.structs.replace(with_grant(LEADING), held=6, outran=7), View(owner(3)), "settle",
        0),
    "a person goes above what devices hold, and a peer is to do it": (
        msgspec.structs.replace(with_grant(FOLLOWING), held=8),
        View(owner(7, PEER), renewing=True), "follow", 7),
    "a peer has the fleet": (FOLLOWING, View(owner(7, PEER), renewing=True), "follow", 7),
    "a peer had the fleet and is gone": (
        FOLLOWING, View(owner(7, PEER, state="offline")), "wait", 0),
    "a peer may still lose the fleet": (
        FOLLOWING, View(owner(7, PEER), renewing=True, settled=False), "wait", 0),
    "a peer's word is not the newest": (
        FOLLOWING, View(owner(5, ME, state="offline")), "wait", 0),
    "a peer took over while we hung": (FOLLOWING, View(owner(5, ME)), "yield", 0),
    "another database has the fleet": (
        LEADING, View(owner(9, STRANGER, "other")), "stand-back", 0),
    "another database had the fleet": (
        LEADING, View(owner(2, STRANGER, "other", "offline")), "stand-back", 0),
    "a copy of this database is ahead": (LEADING, View(owner(9, STRANGER)), "stand-back", 0),
    "a copy of this database gave a fence that this one did not": (
        LEADING, View(owner(4, STRANGER)), "stand-back", 0),
    "a copy of this database gave the same fence to another": (
        LEADING, View(owner(5, STRANGER)), "stand-back", 0),
    "a person takes the fleet from another database": (
        with_grant(LEADING), View(owner(9, STRANGER, "other")), "outrun", 0),
    "a person takes the fleet, and the fence for it was given": (
        msgspec.structs.replace(with_grant(LEADING), outran=7),
        View(owner(9, STRANGER, "other")),
        "claim",
        0,
    ),
    "a person takes the fleet, and the fence for it was given to a process that has ended": (
        msgspec.structs.replace(with_grant(LEADING), outran=6),
        View(owner(9, STRANGER, "other")),
        "outrun",
        0,
    ),
    "a person takes the fleet, and a peer is to do it": (
        with_grant(FOLLOWING), View(owner(9, STRANGER, "other")), "stand-back", 0),
    "a latecomer has no higher fence": (
        LEADING, View(owner(7, STRANGER, "other"), held=7), "claim", 0),
    "a latecomer has a higher fence": (
        LEADING, View(owner(8, STRANGER, "other"), held=7), "stand-back", 0),
    "the document cannot be read": (LEADING, View(unreadable=True), "stand-back", 0),
    "the document is made unreadable by a latecomer": (
        LEADING, View(unreadable=True, held=7), "claim", 0),
    "a database that has given no fence": (
        Known("db", {}, "", 0.0, None, False), View(owner()), "stand-back", 0),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_a_controller_does(case: str) -> None:
    """Each case by its name."""
    known, view, do, fence = CASES[case]
    found = judge(ME, known, view)
    assert (found.do, found.fence) == (do, fence)
    assert bool(found.reason) == (do not in ("speak", "follow", "settle"))


FENCES = st.dictionaries(st.integers(1, 6), st.sampled_from(["a", "b", "c"]), max_size=4)
KNOWN = st.builds(
    Known,
    st.sampled_from(["one", "two"]),
    FENCES,
    st.sampled_from(["a", "b", "c", ""]),
    st.just(1.0),
    st.none() | st.builds(Fence, st.integers(1, 6), st.sampled_from(["a", "b", "c"])),
    st.booleans(),
)
OWNERS = st.builds(
    Owner,
    st.sampled_from(["one", "two"]),
    st.integers(1, 6),
    st.sampled_from(["a", "b", "c"]),
    st.just("h"),
    st.just(1.0),
    st.sampled_from(["online", "offline"]),
)
VIEWS = st.builds(
    View,
    st.none() | OWNERS,
    st.booleans(),
    st.booleans(),
    st.integers(0, 6),
    st.booleans(),
    st.sampled_from([0.0, PATIENCE_S]),
)


@given(st.sampled_from(["a", "b", "c"]), KNOWN, VIEWS)
def test_nobody_speaks_whose_database_is_not_the_owners(
    instance: str, known: Known, view: View
) -> None:
    """Whatever stands where: who speaks has the broker's word for its database and its fence."""
    found = judge(instance, known, view)
    assert (found.fence > 0) == (found.do in ("speak", "follow"))
    if found.fence:
        assert view.owner is not None
        assert view.owner.database == known.database
        assert view.owner.fence == found.fence == max(known.fences)
        assert known.fences[found.fence] == view.owner.instance
        assert known.contested is None
        assert view.owner.state == "online"
        assert view.owner.instance == instance or view.renewing
    else:
        assert found.reason or found.do == "settle"


@given(st.sampled_from(["a", "b", "c"]), KNOWN, VIEWS)
def test_nobody_takes_what_another_database_has_without_a_persons_word(
    instance: str, known: Known, view: View
) -> None:
    """A document of another database is overwritten by who was first, or by who was told to."""
    found = judge(instance, known, view)
    if view.owner is None or view.owner.database == known.database or known.granted:
        return
    assert found.do == "stand-back" or (found.do == "claim" and view.held >= view.owner.fence)
