"""Alert rules: their kinds, what a threshold means in each, and the rules of a new fleet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal, get_args

import msgspec

from contracts.errors import InputError
from fleet.rollout import selector
from fleet.smtp import check_address

Kind = Literal[
    "error-rate", "offline", "drift", "disk", "temperature", "expiry", "stuck", "field-accuracy",
    "broker",
]  # fmt: skip
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

MAX_RULES: Final = 100
MAX_TITLE: Final = 128
MAX_EMAILS: Final = 20
MAX_HOLD_S: Final = 7 * 24 * 3600.0
"""Seconds for which something may have to hold."""


class About(msgspec.Struct, frozen=True):
    """What one kind of rule measures.

    Attributes:
        title: for people.
        unit: of the threshold, for people.
        least, most: ends of thresholds that make sense.
        low: it is what is below the threshold that is wrong.
        margin: how far on the good side of the threshold what is measured must be before an
            alert resolves, as a share of the threshold: what swings about it does not flap.
        threshold, hold_s, clear_s: where nothing else is said.
    """

    title: str
    unit: str
    least: float
    most: float
    threshold: float
    hold_s: float
    clear_s: float
    low: bool = False
    margin: float = 0.1

    def breached(self, value: float, threshold: float) -> bool:
        """Whether a value is on the wrong side of a threshold."""
        return value < threshold if self.low else value > threshold

    def near(self, value: float, threshold: float) -> bool:
        """Whether a value is wrong, or not yet good by the margin."""
        edge = threshold * (1 + self.margin if self.low else 1 - self.margin)
        return value < edge if self.low else value > edge


_DAY_S: Final = 24 * 3600.0
_MINUTE_S: Final = 60.0

ABOUT: Final[dict[Kind, About]] = {
    "error-rate": About(
        "Error rate", "share of requests, of the last 10 minutes", 0.0, 1.0, 0.1, 300.0, 600.0
    ),
    "offline": About(
        "Offline", "seconds without a connection", 30.0, 90 * _DAY_S, 900.0, 0.0, 120.0, margin=0.0
    ),
    "drift": About(
        "Drift", "distance of labels from the test's, of the last day", 0.0, 1.0, 0.3, 0.0, 3600.0
    ),
    "disk": About("Disk", "free bytes", 0.0, 1e15, 200e6, 300.0, 600.0, low=True),
    "temperature": About(
        "Temperature", "degrees Celsius", -50.0, 150.0, 80.0, 300.0, 600.0, margin=0.05
    ),
    "expiry": About(
        "Expiry", "days until it runs out", 0.0, 3650.0, 14.0, 0.0, 0.0, low=True, margin=0.0
    ),
    "stuck": About(
        "Stuck", "seconds without the wanted version while connected", 60.0, 90 * _DAY_S, 3600.0,
        0.0, 0.0, margin=0.0,
    ),
    "field-accuracy": About(
        "Accuracy in the field", "share of judged answers of the last week that are right",
        0.0, 1.0, 0.8, 0.0, 3600.0, low=True, margin=0.02,
    ),
    "broker": About(
        "No broker", "seconds for which the controller hears no broker", 10.0, 7 * _DAY_S, 60.0,
        0.0, 60.0, margin=0.0,
    ),
}  # fmt: skip


class Rule(msgspec.Struct, frozen=True):
    """When to alert whom.

    Attributes:
        id: its name in commands.
        title: for people.
        kind: what is looked at.
        selector: at which devices.
        threshold: in the unit of the kind.
        hold_s: seconds for which it must be wrong before an alert opens.
        clear_s: seconds for which it must be good before the alert resolves.
        emails: who gets mail; empty: those of `mail.to` in fleet.yaml.
        silenced_until: nobody is told until then.
        told_at: when somebody was told last.
    """

    id: str
    title: str
    kind: Kind
    selector: str
    threshold: float
    hold_s: float
    clear_s: float
    emails: list[str]
    silenced_until: float
    told_at: float
    created_at: float
    created_by: str

    @property
    def about(self) -> About:
        """What its kind measures."""
        return ABOUT[self.kind]


def new(
    identifier: str,
    kind: str,
    *,
    now: float,
    by: str,
    title: str = "",
    selected: str = "all",
    threshold: float | None = None,
    hold_s: float | None = None,
    clear_s: float | None = None,
    emails: Sequence[str] = (),
) -> Rule:
    """A rule; what is not said is as usual for its kind.

    Raises:
        InputError: ``bad-rule``, ``bad-selector``, ``bad-name``, ``bad-address``.
    """
    if kind not in ABOUT:
        raise InputError("bad-rule", f"unknown kind {kind[:40]!r}: one of {', '.join(KINDS)}")
    about = ABOUT[kind]
    threshold = about.threshold if threshold is None else threshold
    if not about.least <= threshold <= about.most:  # also when it is no number
        raise InputError(
            "bad-rule",
            f"the threshold of {kind} is {about.least:g} to {about.most:g} ({about.unit}), "
            f"not {threshold:g}",
        )
    hold_s = about.hold_s if hold_s is None else hold_s
    clear_s = about.clear_s if clear_s is None else clear_s
    for name, seconds in (("hold", hold_s), ("clear", clear_s)):
        if not (math.isfinite(seconds) and 0 <= seconds <= MAX_HOLD_S):
            raise InputError("bad-rule", f"{name} is 0 to {MAX_HOLD_S:.0f} seconds")
    if len(emails) > MAX_EMAILS:
        raise InputError("bad-rule", f"a rule has at most {MAX_EMAILS} addresses")
    title = " ".join("".join(c if c.isprintable() else " " for c in title).split())
    return Rule(
        identifier,
        title[:MAX_TITLE] or about.title,
        kind,
        str(selector.parse(selected)),
        float(threshold),
        float(hold_s),
        float(clear_s),
        [check_address(one) for one in dict.fromkeys(emails)],
        0.0,
        0.0,
        now,
        by,
    )
