"""Alerts open once and resolve once, however what is measured swings about the threshold."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InputError
from fleet.alerts import rule as rules
from fleet.alerts.judge import Change, Known, Reading, step
from fleet.alerts.rule import ABOUT, KINDS, Rule


def rule(**more: object) -> Rule:
    """Wrong for 5 minutes opens, good for 10 resolves."""
    given: dict[str, object] = {"threshold": 80.0, "hold_s": 300.0, "clear_s": 600.0} | more
    return rules.new("hot", "temperature", now=0.0, by="ann", **given)  # type: ignore[arg-type]


class Alerts:
    """The alerts of one rule, kept as the store keeps them."""

    def __init__(self, one: Rule) -> None:
        self.rule = one
        self.known: dict[str, Known] = {}
        self.events: list[tuple[float, str]] = []

    def at(self, now: float, value: float | None) -> list[Change]:
        """A look at one device; None: nothing is known of it."""
        about = self.rule.about
        readings = {}
        if value is not None and about.near(value, self.rule.threshold):
            wrong = about.breached(value, self.rule.threshold)
            readings["d1"] = Reading(wrong, value, "hot", "d1")
        unknown = {"d1"} if value is None else set()
        changes = step(self.rule, self.known, readings, unknown, now)
        for change in changes:
            before = self.known.pop(change.subject, None)
            status = change.status
            if status in ("pending", "open"):
                self.known[change.subject] = Known(
                    1, change.subject, status, change.since, change.clear_since
                )
            if status == "open" and (before is None or before.status == "pending"):
                self.events.append((now, "open"))
            if status == "resolved":
                self.events.append((now, "resolved"))
        return changes


def test_an_alert_opens_once_what_is_wrong_has_held() -> None:
    """And changes nothing while it goes on."""
    alerts = Alerts(rule())
    for minute in range(60):
        changes = alerts.at(60.0 * minute, 90.0)
        assert not changes or minute in (0, 5)
    assert alerts.events == [(300.0, "open")]


def test_what_does_not_hold_opens_nothing() -> None:
    """However often it comes."""
    alerts = Alerts(rule())
    for minute in range(60):
        alerts.at(60.0 * minute, 70.0 if minute % 4 == 3 else 90.0)
    assert alerts.events == []


def test_what_swings_about_the_threshold_opens_and_resolves_once() -> None:
    """It is good only beyond the margin, and once it was that for a while."""
    alerts = Alerts(rule())
    for minute in range(60):
        alerts.at(60.0 * minute, 81.0 if minute % 2 or minute < 6 else 79.0)
    for minute in range(60, 120):
        alerts.at(60.0 * minute, 60.0)
    assert alerts.events == [(300.0, "open"), (4200.0, "resolved")]


def test_what_is_not_known_changes_nothing() -> None:
    """A device that is away is not cool."""
    alerts = Alerts(rule())
    for minute in range(6):
        alerts.at(60.0 * minute, 90.0)
    for minute in range(6, 600):
        assert alerts.at(60.0 * minute, None) == []
    assert [what for _, what in alerts.events] == ["open"]


def test_a_clock_that_is_put_back_holds_nothing_for_ever() -> None:
    """What was since tomorrow is since now."""
    alerts = Alerts(rule())
    alerts.at(1e6, 90.0)
    alerts.at(0.0, 90.0)
    alerts.at(300.0, 90.0)
    assert alerts.events == [(300.0, "open")]
    alerts.at(1e6, 60.0)
    alerts.at(400.0, 60.0)
    alerts.at(1000.0, 60.0)
    assert alerts.events[-1] == (1000.0, "resolved")


@given(st.lists(st.sampled_from([None, 60.0, 79.0, 90.0]), max_size=60))
def test_openings_and_resolutions_take_turns(values: list[float | None]) -> None:
    """And each comes only after its time."""
    alerts = Alerts(rule())
    for minute, value in enumerate(values):
        alerts.at(60.0 * minute, value)
    kinds = [what for _, what in alerts.events]
    assert kinds == ["open", "resolved"] * (len(kinds) // 2) + ["open"] * (len(kinds) % 2)
    for (opened, _), (resolved, _) in zip(alerts.events[::2], alerts.events[1::2], strict=False):
        assert resolved - opened >= 600.0


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_rule_that_needs_nothing_said(kind: str) -> None:
    """Its thresholds are within its own bounds."""
    made = rules.new("r", kind, now=0.0, by="ann")
    about = ABOUT[made.kind]
    assert about.least <= made.threshold <= about.most
    good = made.threshold * (2 if about.low else 0.5)
    assert about.near(made.threshold, made.threshold) or about.margin == 0
    assert not about.near(good, made.threshold)


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": math.nan},
        {"threshold": math.inf},
        {"threshold": 1e9},
        {"hold_s": -1.0},
        {"clear_s": math.nan},
        {"emails": ["nobody"]},
        {"emails": [f"a{n}@example.org" for n in range(21)]},
        {"selected": "site="},
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(wrong: dict[str, object]) -> None:
    """By what is wrong with it."""
    with pytest.raises(InputError):
        rule(**wrong)


def test_a_title_is_one_line() -> None:
    """It becomes the subject of mail."""
    assert rule(title="hot\r\nBcc: x@example.org").title == "hot Bcc: x@example.org"
