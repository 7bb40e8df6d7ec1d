"""The update state machine as values."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.update import machine
from agent.update.machine import Update
from contracts.desired import Desired, DesiredBundle, TrialRules, Window
from contracts.errors import ErrorInfo
from contracts.messages import BundleRef, SlotReport

ONE = BundleRef("m", "1.0.0", "1" * 64)
TWO = BundleRef("m", "2.0.0", "2" * 64)
REASON = ErrorInfo("some-reason", "because")

EVENTS = [
    machine.Began(),
    machine.Downloaded(10),
    machine.Fitted(),
    machine.SelfTested(1.0),
    machine.Opened(),
    machine.Activated(),
    machine.TrialPassed(),
    machine.Restored(),
    machine.Restarted(),
    machine.Failed(REASON),
    machine.Hindered(REASON, local=True),
    machine.Hindered(REASON, local=False),
]
BEFORE_ACTIVE = {"desired", "downloading", "verified", "fits", "held"}
NIGHT = [Window(120, 240, [0])]


@settings(max_examples=2000)
@given(
    st.lists(st.sampled_from(EVENTS), max_size=40),
    st.sampled_from(["active", "shadow"]),
    st.sampled_from([[], NIGHT]),
)
def test_no_sequence_of_events_leaves_the_rules(
    events: list[machine.Event], mode: str, windows: list[Window]
) -> None:
    """Whatever comes: ends stay ends, nothing is refused that was active, reasons are kept."""
    update = Update(1, "classify", TWO, mode=mode, old=ONE, windows=windows)  # type: ignore[arg-type]
    activated = opened = False
    for event in events:
        try:
            after = machine.advance(update, event, 1.0)
        except machine.IllegalEvent:
            continue
        if update.final:
            assert after == update
        if after.state == "refused":
            assert update.state in BEFORE_ACTIVE or update.state == "refused"
            assert after.reason is not None
        if after.state == "rolled-back":
            assert after.reason is not None
        activated |= after.state == "trial"
        opened |= isinstance(event, machine.Opened)
        assert opened or not windows or after.state not in ("self-tested", "trial", "committed")
        if after.state == "committed" and mode == "active":
            assert activated
        assert after.failures < machine.MAX_LOCAL_FAILURES or after.state in (
            "trial",
            "rolling-back",
        )
        update = after
    assert update.final == (machine.action(update) == "nothing")


@given(st.sampled_from(EVENTS))
def test_an_update_that_ended_takes_no_event_but_a_restart(event: machine.Event) -> None:
    """Ends are ends."""
    update = Update(1, "classify", TWO, state="committed")
    try:
        assert machine.advance(update, event, 2.0) == update
        assert isinstance(event, machine.Restarted)
    except machine.IllegalEvent:
        assert not isinstance(event, machine.Restarted)


def test_restarts_count_in_the_trial_alone() -> None:
    """A crash while downloading is not the new bundle's fault."""
    update = Update(1, "classify", TWO, state="downloading", trial=TrialRules(max_restarts=1))
    assert machine.advance(update, machine.Restarted(), 1.0) == update
    trial = Update(1, "classify", TWO, state="trial", trial=TrialRules(max_restarts=1))
    assert machine.advance(trial, machine.Restarted(), 1.0).state == "rolling-back"


def test_a_plan_names_what_differs_and_skips_what_failed() -> None:
    """Slots that run what is wanted, or failed at this revision, are left alone."""
    desired = Desired(
        4, {"a": DesiredBundle(TWO), "b": DesiredBundle(TWO), "c": DesiredBundle(TWO)}
    )
    slots = {"a": SlotReport(active=TWO), "b": SlotReport(active=ONE)}
    settled = {"c": machine.Settled(4, TWO, "active")}
    (update,) = machine.plan(desired, slots, settled)
    assert (update.slot, update.old, update.revision) == ("b", ONE, 4)
    again = machine.plan(desired, slots, {"c": machine.Settled(3, TWO, "active")})
    assert [u.slot for u in again] == ["b", "c"]


def test_the_same_wish_in_a_newer_revision_goes_on() -> None:
    """Only another wish supersedes."""
    update = Update(1, "a", TWO, state="trial")
    assert machine.superseded(update, Desired(2, {"a": DesiredBundle(TWO)})) is None
    assert machine.superseded(update, Desired(2, {"a": DesiredBundle(ONE)})) is not None
    assert machine.superseded(update, Desired(2, {})) is not None
