"""When an alert opens and resolves: once each, however what is measured swings. Pure.

============ ======================================== ===================================
an alert is  when what is measured is wrong           when it is good again
============ ======================================== ===================================
not there    ``pending``, or ``open`` without a hold  nothing
``pending``  ``open`` once it held for `hold_s`       forgotten
``open``     stays                                    ``resolved`` once for `clear_s`
============ ======================================== ===================================

What is near the threshold opens nothing and resolves nothing. What is not known changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import msgspec

from fleet.alerts.rule import Rule

Status = Literal["pending", "open", "resolved"]


class Reading(msgspec.Struct, frozen=True):
    """What was measured of one subject and is not good.

    Attributes:
        wrong: True: beyond the threshold; False: near it.
        value: in the unit of the rule's kind.
        message: for people.
        device: whom it is of; None: of no device alone.
    """

    wrong: bool
    value: float
    message: str
    device: str | None = None


class Known(msgspec.Struct, frozen=True):
    """An alert that is pending or open.

    Attributes:
        since: since when it has been wrong.
        clear_since: since when an open one has been good; None: it is not.
    """

    id: int
    subject: str
    status: Status
    since: float
    clear_since: float | None


class Change(msgspec.Struct, frozen=True):
    """What becomes of an alert.

    Attributes:
        id: of the alert; None: there was none.
        status: that it has from now on; None: it is forgotten.
        reading: what was measured; None: nothing that is wrong.
    """

    id: int | None
    subject: str
    status: Status | None
    since: float
    clear_since: float | None = None
    reading: Reading | None = None


def step(
    rule: Rule,
    known: Mapping[str, Known],
    readings: Mapping[str, Reading],
    unknown: Collection[str],
    now: float,
) -> list[Change]:
    """What changes.

    Args:
        rule: what is asked.
        known: its alerts that are pending or open, by subject.
        readings: all that is not good, by subject.
        unknown: subjects of which nothing is known now; all others are good.
        now: seconds since the epoch.
    """
    changes = []
    for subject, reading in readings.items():
        before = known.get(subject)
        change = _wrong(rule, subject, before, reading, now) if reading.wrong else _near(before)
        if change is not None:
            changes.append(change)
    for subject, before in known.items():
        if subject not in readings and subject not in unknown:
            change = _good(rule, before, now)
            if change is not None:
                changes.append(change)
    return changes


def _wrong(
    rule: Rule, subject: str, before: Known | None, reading: Reading, now: float
) -> Change | None:
    if before is None:
        status: Status = "pending" if rule.hold_s > 0 else "open"
        return Change(None, subject, status, now, reading=reading)
    if before.status == "open":
        return _still_open(before)
    if before.since > now:  # the clock was put back
        return Change(before.id, subject, "pending", now, reading=reading)
    if now - before.since >= rule.hold_s:
        return Change(before.id, subject, "open", before.since, reading=reading)
    return None


def _near(before: Known | None) -> Change | None:
    if before is None:
        return None
    return _still_open(before) if before.status == "open" else _forgotten(before)


def _still_open(before: Known) -> Change | None:
    if before.clear_since is None:
        return None
    return Change(before.id, before.subject, "open", before.since)


def _forgotten(before: Known) -> Change:
    return Change(before.id, before.subject, None, before.since)


def _good(rule: Rule, before: Known, now: float) -> Change | None:
    if before.status == "pending":
        return _forgotten(before)
    since = before.clear_since
    if rule.clear_s > 0 and (since is None or since > now):
        return Change(before.id, before.subject, "open", before.since, now)
    if since is None or now - since >= rule.clear_s:
        return Change(before.id, before.subject, "resolved", before.since, since)
    return None
