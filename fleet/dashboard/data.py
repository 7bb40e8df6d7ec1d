"""What pages show, and what they may do: the only module here that touches the store.

Every method is one short transaction with a fixed number of statements, whatever the number
of devices. Methods block: pages call them on a thread.

Over 400 lines: the one place where pages touch the store, a short method each.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Final, Literal, TypeVar

import msgspec
import sqlalchemy as sa

from contracts import drops, wording
from contracts.answers import Answer
from contracts.errors import InputError, RefusedError
from contracts.requests import ClassifyRequest, GenerateRequest
from fleet import expiry, improvements, pools
from fleet import field as fields
from fleet.alerts.rule import Rule
from fleet.conductor.ahead import Ahead
from fleet.conductor.runner import Command
from fleet.controller import Controller
from fleet.dashboard import words
from fleet.dashboard.progress import Progress
from fleet.dashboard.views import (
    FIELD_GROUPS,
    Alert,
    DevicePage,
    DeviceView,
    FieldView,
    Overview,
    RolloutView,
)
from fleet.improve import progress as improving
from fleet.lookout.commands import Delivery, deliveries
from fleet.membership import leaving
from fleet.rollout import selector
from fleet.rollout.plan import Plan
from fleet.rollout.spec import RolloutSpec
from fleet.rollout.state import ACTIVE, IN_FLIGHT, Member
from fleet.samples import labelling
from fleet.store import (
    alerts,
    audit,
    bundles,
    clones,
    delivery,
    devices,
    entries,
    field,
    history,
    listing,
    rollouts,
    samples,
    selection,
    setbacks,
    telemetry,
    timeline,
    waits,
)
from fleet.store.audit import Entry
from fleet.store.bundles import Published
from fleet.store.entries import Actor
from fleet.store.listing import Listing
from fleet.store.rollouts import Event
from fleet.store.schema import DEVICE, ROLLUP, UPDATE_EVENT, WENT_WRONG
from fleet.store.telemetry import Point
from fleet.store.tokens import Token
from fleet.store.waits import Waiting

T = TypeVar("T")
PAGE: Final = 50
"""Rows of one page of a table."""

_CACHE_S: Final = 1.0
_AHEAD_S: Final = 3.0
_SHARE: Final = 20
"""What looks at every device takes a twentieth of the time at most."""

_MAX_KNOWN: Final = 100
_NAMED: Final = 1000
"""Members of a rollout whose reasons are counted."""

_RECENT_S: Final = 24 * 3600.0
_MAX_CODES: Final = 5
"""Reasons for which devices wait that one alert names: devices make them up."""

QUERY_TIMEOUT_S: Final = 60.0


class Data:
    """Reads and commands of one controller.

    Args:
        controller: whose store, engine and queries.
    """

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._lock = threading.Lock()
        self._cache: dict[str, tuple[float, Any]] = {}
        self._counting = threading.Lock()
        self._known_ahead: dict[str, tuple[float, Ahead]] = {}

    @property
    def fleet(self) -> str:
        """The fleet's name."""
        return self._controller.fleet.config.fleet

    @property
    def now(self) -> float:
        """Seconds since the epoch."""
        return self._controller.clock()

    def _cached(self, key: str, make: Callable[[], T]) -> T:
        """One answer for all who look at the same within a second."""
        with self._lock:
            found = self._cache.get(key)
            if found is not None and time.monotonic() - found[0] < _CACHE_S:
                value: T = found[1]
                return value
            value = make()
            if len(self._cache) > 100:
                self._cache.clear()
            self._cache[key] = (time.monotonic(), value)
            return value

    # Overview -----------------------------------------------------------------------------

    def overview(self) -> Overview:
        """Counts, traffic of the last hour, running rollouts, models in use, alerts."""
        return self._cached("overview", self._overview)

    def _overview(self) -> Overview:
        with self._controller.store.read() as connection:
            counts = devices.counts(connection)
            traffic = self._traffic(connection)
            recent, _ = rollouts.page(connection, None, 20)
            waves = rollouts.phase_counts(connection, [one.state.id for one in recent])
            versions = _versions(connection)
            waiting = waits.counts(connection)
            failures = self._failures(connection)
            losses = self._losses(connection)
            published = len(bundles.names(connection))
        views = [RolloutView.of(one, waves[one.state.id]) for one in recent]
        return Overview(
            counts=counts,
            traffic=traffic,
            rollouts=[view for view in views if view.status in ACTIVE],
            recent=[view for view in views if view.status not in ACTIVE][:3],
            versions=versions,
            published=published,
            alerts=_sorted(
                [
                    *losses,
                    *_alerts(counts, views, failures, waiting, self._controller.problems, self.now),
                    *self._identity_alerts(),
                    *(
                        Alert("warn", f"Rule {rule}: open alerts: {count}.", "/alerts")
                        for rule, count in sorted(self._controller.open_alerts.items())
                    ),
                ]
            ),
        )

    def _identity_alerts(self) -> list[Alert]:
        """What runs out, who is doubled, and what the broker has not read.

        As the controller knows it: it looks every few seconds, and minutes.
        """
        now, cloned = self.now, self._controller.cloned
        found = [
            Alert("bad", clones.describe(device, clone), f"/devices/{device}")
            for device, clone in cloned[:20]
        ]
        if len(cloned) > len(found):
            found.append(Alert("bad", f"{len(cloned)} identities are on two devices.", ""))
        for days, text, _ in expiry.grouped(expiry.due(self._controller.expiring.known, now), now):
            found.append(Alert("bad" if days <= 1 else "warn", text, ""))
        if self._controller.watch.todo:
            text = "The broker has not read who is revoked or what was renewed: "
            found.append(Alert("bad", text + self._controller.watch.todo, ""))
        return found

    def _traffic(self, connection: sa.Connection) -> list[tuple[int, int, int]]:
        """Minute, requests, errors of the whole fleet, for the last hour; added by the database."""
        now = int(self.now)
        rows = connection.execute(
            sa.select(ROLLUP.c.start, sa.func.sum(ROLLUP.c.requests), sa.func.sum(ROLLUP.c.errors))
            .where(telemetry.of_fleet(telemetry.MINUTE), ROLLUP.c.start >= now - 3600)
            .group_by(ROLLUP.c.start)
            .order_by(ROLLUP.c.start)
        )
        return [(int(start), int(requests), int(errors)) for start, requests, errors in rows]

    def _losses(self, connection: sa.Connection) -> list[Alert]:
        """Data that was dropped, and devices over their quota."""
        since = delivery.day_of(self.now) - delivery.RECENT_DAYS
        lost = delivery.loss_totals(connection, since)
        if not lost.places:
            return []
        who = f"{lost.one} has" if lost.one else f"{lost.devices} devices have"
        link = f"/devices/{lost.one}" if lost.one else "/devices"
        level = "bad" if drops.OVER in lost.places else "warn"
        return [Alert(level, f"{who} {delivery.describe(lost.places)}.", link)]

    def _failures(self, connection: sa.Connection) -> list[tuple[str, int]]:
        """How many updates were refused or rolled back in the last day."""
        rows = connection.execute(
            sa.select(UPDATE_EVENT.c.state, sa.func.count(sa.distinct(UPDATE_EVENT.c.device)))
            .where(
                UPDATE_EVENT.c.received_at >= self.now - _RECENT_S,
                WENT_WRONG,
            )
            .group_by(UPDATE_EVENT.c.state)
        )
        return [(str(state), int(count)) for state, count in rows]

    # Alerts -------------------------------------------------------------------------------

    def alert_rules(self) -> list[tuple[Rule, int]]:
        """All alert rules, each with how many alerts are open."""
        with self._controller.store.read() as connection:
            found, counts = alerts.rules(connection), alerts.counts(connection)
        return [(one, counts.get(one.id, 0)) for one in found]

    def alert_page(
        self, which: alerts.Which, before: int | None
    ) -> tuple[list[alerts.Alert], int | None]:
        """Alerts of rules, newest first."""
        with self._controller.store.read() as connection:
            return alerts.page(connection, which, before, PAGE)

    def alert_deliveries(self) -> list[Delivery]:
        """How the newest deliveries of alerts went."""
        return deliveries(self._controller.store, 10)

    # Devices ------------------------------------------------------------------------------

    def device_page(self, wanted: Listing, number: int = 1) -> DevicePage:
        """A page of a list of devices; beyond its end, the last one."""
        with self._controller.store.read() as connection:
            counts = devices.counts(connection)
            total = sum(counts.values()) if wanted.all else listing.count(connection, wanted)
            number = max(1, min(number, -(-total // PAGE)))
            found = listing.page(connection, wanted, PAGE, (number - 1) * PAGE)
            lost = self._lost(connection, [one.id for one in found])
        views = [DeviceView.of(one, lost.get(one.id, {})) for one in found]
        return DevicePage(views, number, PAGE, total, counts)

    def device(self, name: str) -> DeviceView:
        """One device.

        Raises:
            InputError: ``no-such-device``.
        """
        with self._controller.store.read() as connection:
            one = devices.get(connection, name)
            return DeviceView.of(one, self._lost(connection, [name]).get(name, {}))

    def board_of(self, name: str) -> str:
        """The board of a device; empty: there is none such, or nobody knows."""
        with self._controller.store.read() as connection:
            known = devices.some(connection, [name]).get(name)
        return known.hardware if known else ""

    def _lost(self, connection: sa.Connection, names: list[str]) -> dict[str, dict[str, int]]:
        since = delivery.day_of(self.now) - delivery.RECENT_DAYS
        return delivery.losses(connection, since, names)

    def points(self, name: str, span_s: float) -> list[Point]:
        """Figures of a device in the last while: by minute, or by hour beyond six hours."""
        step = telemetry.MINUTE if span_s <= 6 * 3600 else telemetry.HOUR
        with self._controller.store.read() as connection:
            return telemetry.points(connection, name, step, self.now - span_s, self.now + step)

    def there_until(self, name: str) -> float | None:
        """Now, while a device is connected, whether it tells anything or not; None: it is not."""
        with self._controller.store.read() as connection:
            found = devices.contacts(connection, DEVICE.c.id == name)
        return self.now if found.get(name) else None

    def timeline(
        self, name: str, cursor: str, token: Token | None, kind: str = ""
    ) -> tuple[list[timeline.Happened], str | None]:
        """What happened to a device, newest first; who changed what is for operators.

        `kind`: this alone; empty: all.

        Raises:
            InputError: ``bad-cursor``.
        """
        audited = token is not None and token.may("operator")
        with self._controller.store.read() as connection:
            kinds = [kind] if kind else []
            return timeline.page(connection, name, cursor, PAGE, audited=audited, kinds=kinds)

    def updates(self, name: str, before: int | None = None) -> list[history.Update]:
        """A device's newest update events."""
        with self._controller.store.read() as connection:
            return history.updates(connection, name, before, PAGE)[0]

    # Models -------------------------------------------------------------------------------

    def models(self) -> list[tuple[Published, int]]:
        """Published bundles, newest first, each with how many devices run it."""
        with self._controller.store.read() as connection:
            found = bundles.every(connection)
            running = dict(_versions(connection))
        return [(one, running.get(str(one.ref), 0)) for one in found]

    def model(self, name: str, version: str) -> tuple[Published, dict[str, Any] | None, int]:
        """One bundle with its build report and the number of devices that run it.

        Raises:
            InputError: ``no-such-bundle``.
        """
        with self._controller.store.read() as connection:
            found = bundles.find(connection, name, version)
            report = bundles.report(connection, name, version)
            running = dict(_versions(connection))
        return found, report, running.get(str(found.ref), 0)

    def field(self, name: str, version: str) -> FieldView:
        """What people say of a bundle's answers, of this version and of its others.

        Raises:
            InputError: ``no-such-bundle``.
        """
        since = self._controller.clock() - fields.WEEK_S
        with self._controller.store.read() as connection:
            found = bundles.find(connection, name, version)
            slot, sha256 = found.manifest.slot, found.ref.manifest_sha256
            judged = field.labels(connection, slot, sha256, since)
            versions = [
                one
                for one in fields.versions(connection, since)
                if one.ref is not None and one.ref.name == name
            ]
            groups = fields.by_group(connection, slot, sha256, since, FIELD_GROUPS)
        return FieldView(
            sha256, versions, fields.by_label(judged), fields.confusions(judged)[:10], groups
        )

    def pooled(self, name: str, version: str) -> pools.Pool:
        """Pooled figures of a bundle, of the newest week that is over.

        Raises:
            InputError: ``no-such-bundle``.
        """
        return pools.pool(self._controller, name, version)

    # Rollouts -----------------------------------------------------------------------------

    def rollout_page(self, before: int | None) -> tuple[list[RolloutView], int | None]:
        """Rollouts, newest first."""
        with self._controller.store.read() as connection:
            found, following = rollouts.page(connection, before, 20)
            waves = rollouts.phase_counts(connection, [one.state.id for one in found])
        return [RolloutView.of(one, waves[one.state.id]) for one in found], following

    def rollout(self, name: str) -> tuple[RolloutView, list[Event], list[Member]]:
        """A rollout, its newest events (newest first), and members that went wrong.

        Raises:
            InputError: ``no-such-rollout``.
        """
        with self._controller.store.read() as connection:
            stored = rollouts.get(connection, name, members=False)
            waves = rollouts.phase_counts(connection, [name])[name]
            events = rollouts.events(connection, name, 0, 500)
            failed: list[Member] = []
            for phase in ("failed", "undo-failed"):
                failed += rollouts.members_page(connection, name, phase, "", PAGE)[0]
        return RolloutView.of(stored, waves), events[::-1], failed

    def progress(self, name: str) -> Progress:
        """Of all devices of a rollout, also those that it has not told yet, where they are.

        Raises:
            InputError: ``no-such-rollout``.
        """
        with self._controller.store.read() as connection:
            stored = rollouts.get(connection, name, members=False)
            counts = rollouts.phase_counts(connection, [name])[name]
            away = rollouts.away(connection, name)
            failed = rollouts.members_page(connection, name, "failed", "", _NAMED)[0]
            deferred = rollouts.members_page(connection, name, "deferred", "", _NAMED)[0]
        active = stored.state.header.status in ACTIVE
        return Progress(
            counts,
            away,
            Counter(words.cause(one.reason) for one in failed),
            sum(one.lost for one in deferred),
            self._ahead(name) if active else None,
        )

    def _ahead(self, name: str) -> Ahead:
        """It looks at every device that is meant: for one at a time, and the dearer the rarer."""
        found = self._known_ahead.get(name)
        if found is not None and time.monotonic() < found[0]:
            return found[1]
        if not self._counting.acquire(blocking=found is None):
            assert found is not None
            return found[1]
        try:
            began = time.monotonic()
            made = self._controller.runner.ahead(name)
            took = time.monotonic() - began
            if len(self._known_ahead) > _MAX_KNOWN:
                self._known_ahead.clear()
            self._known_ahead[name] = (began + max(_AHEAD_S, _SHARE * took), made)
        finally:
            self._counting.release()
        return made

    def waiting(self, name: str) -> list[tuple[Member, Waiting]]:
        """Devices of a rollout that are under way and wait, each with what for; the first ones."""
        found: list[Member] = []
        with self._controller.store.read() as connection:
            for phase in sorted(IN_FLIGHT):
                found += rollouts.members_page(connection, name, phase, "", PAGE)[0]
            known = devices.some(connection, [member.device for member in found])
        return [
            (member, wait)
            for member in found
            if (device := known.get(member.device)) is not None
            for wait in _waits(device)
        ]

    def plan(self, spec: RolloutSpec) -> Plan:
        """What a rollout would do."""
        return self._controller.runner.plan(spec)

    def create_rollout(self, spec: RolloutSpec, token: Token, known: Sequence[str] = ()) -> str:
        """Creates a rollout; returns its id.

        Args:
            spec: what is asked.
            token: who asks.
            known: rollouts of the version that were stopped, as the person was told.

        Raises:
            RefusedError: ``forbidden``, ``stopped-before``, ``devices-busy``.
            InputError: ``no-such-bundle``, ``no-devices``; also where nothing would move.
        """
        detail = {"selector": spec.selector, "waves": [str(wave) for wave in spec.waves]}
        if known:
            detail["stopped_before"] = list(known)
        with self._noted(token, "rollout.create", f"{spec.bundle} {spec.version}", detail) as note:
            with self._controller.store.read() as connection:
                ref = bundles.find(connection, spec.bundle, spec.version).ref
                setbacks.check(connection, ref, known)
            stored = self._controller.runner.create(spec, token.name, note)
        self._controller.wake()
        return stored.state.id

    def command(self, rollout: str, what: Command, token: Token) -> None:
        """Approves, pauses, resumes or aborts a rollout.

        Raises:
            RefusedError: ``forbidden``, ``wrong-state``.
        """
        with self._noted(token, f"rollout.{what}", rollout, {}) as note:
            self._controller.runner.command(rollout, what, token.name, extra=note)
        self._controller.wake()

    @contextlib.contextmanager
    def _noted(
        self, token: Token, action: str, target: str, detail: dict[str, Any]
    ) -> Iterator[Callable[[sa.Connection], None]]:
        """What notes a change in its transaction; a change that is refused is counted."""
        actor = Actor(token.name, token.role, "dashboard")

        def write(connection: sa.Connection) -> None:
            audit.note_by(connection, actor, action, target, self.now, **detail)

        try:
            if not token.may("operator"):
                raise RefusedError("forbidden", "this needs the role operator")
            yield write
        except Exception as error:
            self._controller.attempts.count(actor, action, target, audit.outcome_of(error))
            raise

    def signed(self, token: Token, what: Literal["session.begin", "session.end"]) -> None:
        """Notes that somebody signed in or out: an entry a minute at most."""
        actor = Actor(token.name, token.role, "dashboard")
        audit.count(self._controller.store, actor, what, "dashboard", entries.DONE, self.now)

    def audit_page(self, before: int | None) -> tuple[list[Entry], int | None]:
        """Changes and what was refused, newest first."""
        self._controller.attempts.write()
        with self._controller.store.read() as connection:
            return audit.page(connection, before, PAGE)

    # Members ------------------------------------------------------------------------------

    def leave(self, device: str, what: str, name: str, token: Token) -> str:
        """Revokes, retires or renames a device; returns what to tell whoever did it.

        Raises:
            RefusedError: ``forbidden``, and what leaving raises.
        """
        if not token.may("admin"):
            raise RefusedError("forbidden", "this needs the role admin")
        fleet, actor = self._controller.fleet, Actor(token.name, token.role, by="dashboard")
        self._controller.wake()
        said = ""
        match what:
            case "revoke":
                done = leaving.revoke(fleet, device, actor)
            case "retire":
                done = leaving.retire(fleet, device, actor)
                said = f" Its history is kept as {done.history}."
            case _:
                renamed = leaving.rename_by_token(fleet, device, name, actor)
                done = renamed.departure
                said = (
                    f" On the device, with this one-time token in a file, run shoal-agent enroll "
                    f"--url {fleet.api_url} --token-file FILE --config agent.yaml: {renamed.token}"
                )
        if done.todo:
            said += f" The broker does not know yet: {done.todo}."
        return f"{device} is {'renamed to ' + name if what == 'rename' else what + 'd'}.{said}"

    # Hard examples ------------------------------------------------------------------------

    def sampled(self) -> dict[str, int]:
        """Models with hard examples, and how many."""
        with self._controller.store.read() as connection:
            return samples.models(connection)

    def label_queue(self, model: str, token: Token, most: int) -> labelling.Queue:
        """What a person should label next.

        Raises:
            InputError: ``no-samples``.
        """
        return labelling.queue(self._controller, model, token.name, most)

    def say_label(self, model: str, key: str, label: str | None, token: Token) -> None:
        """Says the label of a text; None: passes it over.

        Raises:
            RefusedError: ``forbidden``.
            InputError: ``no-such-sample``, ``bad-text-label``.
        """
        with self._noted(token, "samples.label", model, {}):
            actor = Actor(token.name, token.role, "dashboard")
            labelling.say(self._controller, actor, model, key, label)

    def unsay_label(self, model: str, key: str, token: Token) -> None:
        """Takes back what a person said of a text.

        Raises:
            RefusedError: ``forbidden``.
            InputError: ``no-such-sample``.
        """
        with self._noted(token, "samples.unlabel", model, {}):
            actor = Actor(token.name, token.role, "dashboard")
            labelling.unsay(self._controller, actor, model, key)

    def next_version(self, model: str) -> improving.Progress:
        """How far the next version of a model is.

        Raises:
            InputError: ``bad-name``.
        """
        return improving.progress(self._controller.fleet, model)

    def improve(self, model: str, token: Token) -> None:
        """Starts the next version, as a program of its own.

        Raises:
            RefusedError: ``forbidden``, ``no-recipe``.
            InputError: ``bad-name``.
            UnavailableError: ``folder-busy``, ``program-failed``.
        """
        if not token.may("admin"):
            raise RefusedError("forbidden", "this needs the role admin")
        actor = Actor(token.name, token.role, "dashboard")
        improvements.start(self._controller.fleet, self._controller.store, actor, model)

    # Queries ------------------------------------------------------------------------------

    def check_asked(self, device: str) -> None:
        """Whether a device may be asked.

        Raises:
            RefusedError: ``revoked``.
            InputError: ``no-such-device``.
        """
        if self.device(device).state == "revoked":
            raise RefusedError("revoked", f"{device} was revoked: it is not asked.")

    def ask(self, device: str, op: str, text: str, token: Token) -> AsyncIterator[Answer]:
        """Asks one device; answers come as they are sent.

        Raises:
            RefusedError: ``forbidden``.
            InputError: ``bad-message``; no text, or too much.
        """
        if not token.may("operator"):
            raise RefusedError("forbidden", "this needs the role operator")
        if not text.strip():
            raise InputError("bad-message", "Type a text first.")
        who = token.name[:64]
        request: ClassifyRequest | GenerateRequest
        if op == "classify":
            request = ClassifyRequest(text=text, requester=who, top_k=5)
        else:
            request = GenerateRequest(prompt=text, requester=who, max_tokens=128)
        try:
            request = msgspec.convert(msgspec.to_builtins(request), type(request))
        except (msgspec.ValidationError, UnicodeEncodeError) as error:
            raise InputError(
                "bad-message", f"The text cannot be sent: {wording.of(error)}"
            ) from None
        return self._controller.asker.ask([device], op, request, QUERY_TIMEOUT_S)


def _versions(connection: sa.Connection) -> list[tuple[str, int]]:
    """Active bundles with the number of devices that say they run them, most first."""
    found = selection.shares(connection, f"{selector.OWN}bundle")
    return [(bundle.replace("/", " "), count) for bundle, count in found]


def _listed(waiting: list[tuple[str, int]]) -> str:
    more = len(waiting) - _MAX_CODES
    said = [(words.cause({"code": code, "message": code}), n) for code, n in waiting[:_MAX_CODES]]
    text = ", ".join(f"{cause} ({count})" for cause, count in said)
    return f"{text} and {more} other reasons" if more > 0 else text


def _alerts(
    counts: dict[str, int],
    views: list[RolloutView],
    failures: list[tuple[str, int]],
    waiting: list[tuple[str, int]],
    problems: Sequence[str],
    now: float,
) -> list[Alert]:
    """What a person should look at of devices and rollouts."""
    found = [Alert("bad", problem, "") for problem in problems]
    for view in views:
        link = f"/rollouts/{view.id}"
        match view.status:
            case "awaiting-approval":
                text = f"Rollout {view.id} waits for approval of wave {view.wave + 1}."
                found.append(Alert("info", text, link))
            case "paused":
                found.append(Alert("warn", f"Rollout {view.id} is paused: {view.reason}", link))
            case "rolling-back":
                found.append(Alert("warn", f"Rollout {view.id} rolls back: {view.reason}", link))
            case "stopped" if now - view.updated_at < _RECENT_S:
                text = f"Rollout {view.id} was stopped by a gate: {view.reason}"
                found.append(Alert("bad", text, link))
    for state, count in failures:
        what = "refused an update" if state == "refused" else "rolled an update back"
        plural = "device" if count == 1 else "devices"
        found.append(Alert("warn", f"{count} {plural} {what} in the last 24 hours.", ""))
    if waiting:
        found.append(Alert("warn", f"Devices wait: {_listed(waiting)}.", "/devices"))
    offline = counts.get("offline", 0)
    if offline and offline * 10 >= sum(counts.values()):
        found.append(
            Alert("warn", f"{offline} of {sum(counts.values())} devices are offline.",
                  "/devices?q=state%3Doffline")
        )  # fmt: skip
    return found


def _waits(device: devices.Device) -> list[Waiting]:
    """What a device waits for that is under way; one that is away says nothing newer."""
    if device.online:
        return waits.of(device)
    return [Waiting("offline", "is away: it goes on when it is back", since=device.state_at)]


def _sorted(found: list[Alert]) -> list[Alert]:
    """Worst first."""
    order = {"bad": 0, "warn": 1, "info": 2}
    return sorted(found, key=lambda alert: order[alert.level])
