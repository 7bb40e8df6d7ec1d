"""What alert rules measure: readings of all that is not good, from what the database has.

The database adds up and compares; documents are read of devices alone that may be in trouble, and
of the gauges of the last hours once for all rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from contracts import codec
from contracts.bundle import decode_manifest
from contracts.messages import UpdateEvent
from fleet import accuracy
from fleet.accuracy import tally
from fleet.alerts.judge import Known, Reading
from fleet.alerts.rule import Rule
from fleet.expiry import DAY_S, Item
from fleet.rollout import selector
from fleet.rollout.drift import label_drift
from fleet.rollout.selector import OWN
from fleet.store import bundles, field, selection
from fleet.store.documents import load
from fleet.store.schema import BUNDLE, DEVICE, ROLLUP, TRAIT
from fleet.store.telemetry import FLEET, HOUR, MINUTE

ERRORS_S: Final = 600.0
MIN_REQUESTS: Final = 20
"""Requests of a device below which a rate of errors says nothing."""

DRIFT_S: Final = 24 * 3600.0
MIN_ANSWERS: Final = 100
"""Answers of a model below which nobody is told that they drift."""

FIELD_S: Final = 7 * 24 * 3600.0
_GAUGES_S: Final = 3600.0
_FUTURE_S: Final = 300.0
_GAUGE_SLOT: Final = "device"
_WINDOWS: Final = "window-closed"
"""For which a device waits as it was told to: it is not stuck."""

_EXPIRES: Final = frozenset({"role", "certificate", "list", "device", "application"})
_GAUGES: Final = {"disk": "disk_free_bytes", "temperature": "temperature_c"}

Readings = dict[str, Reading]


class Measured(msgspec.Struct, frozen=True):
    """What one rule found.

    Attributes:
        readings: by subject, all that is not good.
        unknown: subjects with an alert of which nothing is known now.
    """

    readings: Readings
    unknown: frozenset[str] = frozenset()


class _Member(msgspec.Struct, frozen=True):
    """A device that counts, as far as rules ask."""

    state: str
    state_at: float | None


class _Values(msgspec.Struct):
    """Of figures, the gauges alone."""

    gauges: dict[str, tuple[float, float]] = {}


class _Labels(msgspec.Struct):
    """Of figures, the labels alone."""

    labels: dict[str, int] = {}


class Measurer:
    """Measures within one consistent view of the database; what rules share is read once.

    Args:
        connection: the view.
        now: seconds since the epoch.
        expiring: all that runs out; asked for by rules on that alone.
        silent_s: seconds for which the controller has heard no broker.
    """

    def __init__(
        self,
        connection: sa.Connection,
        now: float,
        expiring: Callable[[], Sequence[Item]] = tuple,
        silent_s: float = 0.0,
    ) -> None:
        self._connection = connection
        self._now = now
        self._expiring = expiring
        self._silent_s = silent_s
        self._members: dict[str, _Member] | None = None
        self._gauges: dict[str, dict[str, tuple[float, float]]] | None = None

    def measure(self, rule: Rule, known: dict[str, Known]) -> Measured:
        """What a rule finds.

        Args:
            rule: what is asked.
            known: its alerts that are pending or open, by subject.
        """
        match rule.kind:
            case "error-rate":
                return Measured(self._errors(rule))
            case "offline":
                return Measured(self._offline(rule))
            case "drift":
                return Measured(self._drift(rule))
            case "expiry":
                return Measured(self._expiry(rule))
            case "stuck":
                return Measured(self._stuck(rule))
            case "field-accuracy":
                return Measured(self._field(rule))
            case "broker":
                return Measured(self._broker(rule))
            case _:
                return self._gauge(rule, _GAUGES[rule.kind], known)

    # Devices. -----------------------------------------------------------------------------

    def members(self) -> dict[str, _Member]:
        """All devices that may connect."""
        if self._members is None:
            query = sa.select(DEVICE.c.id, DEVICE.c.state, DEVICE.c.state_at)
            rows = self._connection.execute(query.where(DEVICE.c.revoked_at.is_(None)))
            self._members = {row.id: _Member(row.state, row.state_at) for row in rows}
        return self._members

    def _condition(self, rule: Rule) -> sa.ColumnElement[bool]:
        chosen = selection.means(selector.parse(rule.selector))
        return DEVICE.c.revoked_at.is_(None) & chosen

    def _chosen(self, rule: Rule) -> set[str] | dict[str, _Member]:
        if rule.selector == "all":
            return self.members()
        query = sa.select(DEVICE.c.id).where(self._condition(rule))
        return set(self._connection.scalars(query))

    # Kinds. -------------------------------------------------------------------------------

    def _errors(self, rule: Rule) -> Readings:
        requests, errors = sa.func.sum(ROLLUP.c.requests), sa.func.sum(ROLLUP.c.errors)
        query = (
            sa.select(ROLLUP.c.device, requests.label("requests"), errors.label("errors"))
            .where(
                ROLLUP.c.resolution == MINUTE,
                ROLLUP.c.device != FLEET,
                ROLLUP.c.start >= int(self._now - ERRORS_S),
            )
            .group_by(ROLLUP.c.device)
            .having(requests >= MIN_REQUESTS, errors > 0)
        )
        chosen = self._chosen(rule)
        found: Readings = {}
        for row in self._connection.execute(query):
            failed, asked = int(row.errors), int(row.requests)
            rate = failed / asked
            if row.device in chosen and rule.about.near(rate, rule.threshold):
                text = f"{failed} of {asked} requests failed in the last 10 minutes"
                found[row.device] = self._reading(rule, rate, text, row.device)
        return found

    def _offline(self, rule: Rule) -> Readings:
        members, chosen = self.members(), self._chosen(rule)
        found: Readings = {}
        for device, member in members.items():
            if device not in chosen or member.state != "offline" or member.state_at is None:
                continue
            away = self._now - member.state_at
            text = f"{device} has had no connection for {_span(away)}"
            found[device] = Reading(away > rule.threshold, away, text, device)
        return found

    def _gauge(self, rule: Rule, gauge: str, known: dict[str, Known]) -> Measured:
        values, chosen, about = self._newest(), self._chosen(rule), rule.about
        found: Readings = {}
        for device, gauges in values.items():
            if device not in chosen or (told := gauges.get(gauge)) is None:
                continue
            value = told[1]
            if about.near(value, rule.threshold):
                text = (
                    f"{device} has {value / 1e6:,.0f} MB free"
                    if rule.kind == "disk"
                    else f"{device} is at {value:.0f} degrees Celsius"
                )
                found[device] = self._reading(rule, value, text, device)
        silent = (d for d in known if d in chosen and gauge not in values.get(d, {}))
        return Measured(found, frozenset(silent))

    def _newest(self) -> dict[str, dict[str, tuple[float, float]]]:
        """The newest value of each gauge of each device that told one in the last hour or two."""
        if self._gauges is None:
            decode = codec.decoder(_Values).decode
            since = int((self._now - _GAUGES_S) // HOUR) * HOUR
            query = sa.select(ROLLUP.c.device, ROLLUP.c.content).where(
                ROLLUP.c.resolution == HOUR,
                ROLLUP.c.device != FLEET,
                ROLLUP.c.slot == _GAUGE_SLOT,
                ROLLUP.c.start >= since,
            )
            found: dict[str, dict[str, tuple[float, float]]] = {}
            for device, content in self._connection.execute(query):
                try:
                    gauges = decode(content).gauges
                except msgspec.DecodeError:
                    continue  # what an earlier version wrote; `figures.read` says so in the log
                mine = found.setdefault(device, {})
                for name in _GAUGES.values():
                    told = gauges.get(name)
                    if told is None or told[0] > self._now + _FUTURE_S:
                        continue
                    if name not in mine or told[0] > mine[name][0]:
                        mine[name] = told
            self._gauges = found
        return self._gauges

    def _drift(self, rule: Rule) -> Readings:
        counts: dict[str, dict[str, int]] = {}
        for bundle, content in self._labels(rule):
            try:
                labels = codec.decoder(_Labels).decode(content).labels
            except msgspec.DecodeError:
                continue
            sums = counts.setdefault(bundle, {})
            for label, count in labels.items():
                sums[label] = sums.get(label, 0) + count
        enough = {b: sums for b, sums in counts.items() if sum(sums.values()) >= MIN_ANSWERS}
        if not enough:
            return {}
        query = sa.select(BUNDLE.c.name, BUNDLE.c.version, BUNDLE.c.sha256, BUNDLE.c.manifest)
        found: Readings = {}
        for row in self._connection.execute(query.where(BUNDLE.c.sha256.in_(enough))):
            baseline = decode_manifest(row.manifest.encode()).baseline
            if baseline is None:
                continue
            value = label_drift(baseline.labels, enough[row.sha256])
            if value is not None and rule.about.near(value, rule.threshold):
                name, answers = f"{row.name} {row.version}", sum(enough[row.sha256].values())
                text = f"the labels of {name} are {value:.2f} from its test's ({answers} answers)"
                found[name] = self._reading(rule, value, text)
        return found

    def _labels(self, rule: Rule) -> Iterator[Any]:
        """Figures of bundles in the last day: of the whole fleet by the minute, else by the hour.

        Those of all devices together are few rows, whatever the size of the fleet.
        """
        query = sa.select(ROLLUP.c.bundle, ROLLUP.c.content).where(ROLLUP.c.bundle != "")
        if rule.selector == "all":
            query = query.where(sa.text("device = ''"), ROLLUP.c.resolution == MINUTE)
            query = query.where(ROLLUP.c.start >= int(self._now - DRIFT_S))
        else:
            since = int((self._now - DRIFT_S) // HOUR) * HOUR
            devices = sa.select(DEVICE.c.id).where(self._condition(rule))
            query = query.where(
                ROLLUP.c.resolution == HOUR, ROLLUP.c.start >= since, ROLLUP.c.device.in_(devices)
            )
        yield from self._connection.execute(query)

    def _expiry(self, rule: Rule) -> Readings:
        chosen = self._chosen(rule)
        found: Readings = {}
        for item in self._expiring():
            mine = item.name in chosen if item.kind == "device" else rule.selector == "all"
            left = (item.expires - self._now) / DAY_S
            # What lasts a week is not in trouble all its life.
            if item.kind not in _EXPIRES or not mine or left >= rule.threshold:
                continue
            if left > item.lasts_s / DAY_S / 4:
                continue
            device = item.name if item.kind == "device" else None
            found[item.key] = Reading(True, left, item.sentence(self._now), device)
        return found

    def _stuck(self, rule: Rule) -> Readings:
        waits = TRAIT.alias()
        waiting = (waits.c.device == DEVICE.c.id) & (waits.c.key == f"{OWN}waits")
        wrong = sa.or_(
            DEVICE.c.update.contains('"state":"refused"'),
            DEVICE.c.update.contains('"state":"rolled-back"'),
        )
        query = (
            sa.select(
                DEVICE.c.id, DEVICE.c.state, DEVICE.c.state_at, DEVICE.c.desired_at,
                DEVICE.c.desired_revision, DEVICE.c.reached_revision, DEVICE.c.update,
                waits.c.value.label("waits"),
            )
            .outerjoin(waits, waiting)
            .where(
                self._condition(rule),
                DEVICE.c.desired_at.is_not(None),
                sa.or_(DEVICE.c.reached_revision < DEVICE.c.desired_revision, wrong),
            )
        )  # fmt: skip
        found: Readings = {}
        for row in self._connection.execute(query):
            why = _why(row)
            if why is None:
                continue
            since = max(row.desired_at, row.state_at or 0.0)
            late = max(0.0, self._now - since)
            # One that is away, or waits as it was told to, is neither stuck nor well.
            idle = row.state != "online" or row.waits == _WINDOWS
            text = f"{row.id} does not have its version after {_span(late)}{why}"
            wrong_now = late > rule.threshold and not idle
            found[row.id] = Reading(wrong_now, late, text, row.id)
        return found

    def _field(self, rule: Rule) -> Readings:
        condition = None if rule.selector == "all" else self._condition(rule)
        judged = field.by_version(self._connection, self._now - FIELD_S, condition)
        names = bundles.names(self._connection) if judged else {}
        found: Readings = {}
        for (_, bundle), by_device in judged.items():
            estimate = accuracy.estimate({device: tally(one) for device, one in by_device.items()})
            if estimate is None or estimate.judged < accuracy.MIN_JUDGED or bundle not in names:
                continue
            if rule.about.near(estimate.value, rule.threshold):
                name = f"{names[bundle].name} {names[bundle].version}"
                text = (
                    f"people say that {estimate.value:.0%} of the answers of {name} are right "
                    f"({estimate.low:.0%} to {estimate.high:.0%})"
                )
                # Wrong only when chance does not explain it.
                found[name] = Reading(estimate.high < rule.threshold, estimate.value, text)
        return found

    def _broker(self, rule: Rule) -> Readings:
        text = (
            f"the controller has had no connection to the broker for {_span(self._silent_s)}: no "
            "device is heard, and nothing reaches one"
        )
        if not rule.about.near(self._silent_s, rule.threshold):
            return {}
        return {"broker": self._reading(rule, self._silent_s, text)}

    @staticmethod
    def _reading(rule: Rule, value: float, text: str, device: str | None = None) -> Reading:
        return Reading(rule.about.breached(value, rule.threshold), value, text, device)


def _why(row: Any) -> str | None:
    """Why a device does not have what is wanted of it; None: it has it."""
    event = load(row.update, UpdateEvent) if row.update else None
    said = event.reason.message[:200] if event is not None and event.reason is not None else ""
    ended = event is not None and event.state in ("refused", "rolled-back")
    if event is not None and ended and event.revision == row.desired_revision:
        what = "refused it" if event.state == "refused" else "went back"
        return f": it {what}{': ' + said if said else ''}"
    if row.reached_revision >= row.desired_revision:
        return None
    if row.waits:
        return f": it waits ({row.waits})"
    return f": {said}" if said else ""


def _span(seconds: float) -> str:
    for size, unit in ((DAY_S, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} seconds"
