"""The controller: one process with ingest, the rollout engine, blocks, queries, housekeeping.

Everything that matters is in the database. A controller may be killed at any time; the next
one goes on where the last commit was.

Over 400 lines: it only puts parts together, and starts and stops them in an order.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog

from contracts import drops, limits
from contracts.errors import ShoalError
from fleet import durable, expiry
from fleet.conductor import runner
from fleet.conductor.runner import Runner
from fleet.egress import Allowed
from fleet.folder import Fleet
from fleet.home_assistant.steward import Steward
from fleet.ingest import Consumer
from fleet.ingest.receipts import news
from fleet.ingest.writer import Change, Writer
from fleet.lookout.lookout import Lookout
from fleet.mailer import Mailer
from fleet.membership import used
from fleet.membership.watch import Watch
from fleet.mqtt.blocks import BlockServer
from fleet.mqtt.outbox import Outbox
from fleet.ownership import Keeper
from fleet.pace import Pace
from fleet.query import Asker
from fleet.repository import paths, releases
from fleet.samples import collect
from fleet.smtp import Post
from fleet.store import (
    alerts,
    audit,
    bundles,
    clones,
    delivery,
    expiries,
    leases,
    mail,
    retention,
    samples,
    telemetry,
    timeline,
    webhooks,
)
from fleet.store.admission import Admission
from fleet.store.attempts import Attempts
from fleet.webhooks import Sender

_LOG: Final = structlog.get_logger("controller")
_LEASE_S: Final = 10.0
_INGEST: Final = "ingest"
"""The lease of ingest's session, which the broker gives to whoever connected last."""

_SHARE: Final = 3.0
_HOUSEKEEPING_S: Final = 300.0
_DAY_S: Final = 24 * 3600.0
_ALERTS_S: Final = 20.0
"""Seconds for which a controller that took the lease hears devices before it looks for alerts."""

_ROLL_S: Final = 1.0
_MOST_ROLL_S: Final = 10.0
_MANY_ROLLED: Final = 500
_WEBHOOK_EVENTS: Final = frozenset(
    {"device-online", "device-offline", "device-cloned", "data-dropped", "over-quota"}
)


class Controller:
    """All of the controller but HTTP.

    Args:
        fleet: the opened folder.
        clock: seconds since the epoch.
    """

    def __init__(self, fleet: Fleet, clock: Callable[[], float] = time.time) -> None:
        self.fleet = fleet
        self.clock = clock
        # Random, as in a container the process id is 1, and host names may be copied.
        instance = secrets.token_hex(8)
        self.holder = f"{socket.gethostname()}-{os.getpid()}-{instance}"
        self.store = fleet.open_store(migrate=True)
        self.repository = fleet.open_repository()
        mqtt = self.mqtt = fleet.controller_mqtt()
        secret = self._secret = fleet.session_secret()
        name = f"shoal-{fleet.config.fleet}-{instance}-{secret}"
        self._writer = Writer(self.store, admit_unknown=fleet.config.admit_unknown)
        self.consumer = self._new_consumer()
        self.ownership = Keeper(
            self.store,
            fleet.topics,
            mqtt,
            name,
            instance,
            clock=clock,
            lease_s=_LEASE_S,
            on_change=self._on_ownership,
        )
        self.outbox = Outbox(
            self.store,
            fleet.topics,
            mqtt,
            f"{name}-outbox",
            clock,
            fence=lambda: self.ownership.fence,
        )
        self.blocks = BlockServer(
            self.repository,
            fleet.topics,
            mqtt,
            f"{name}-blocks",
            secret=secret,
            shared=fleet.config.shared_ingest,
            admitted=Admission(self.store, unknown=fleet.config.admit_unknown),
            clock=clock,
        )
        self.asker = Asker(fleet.topics, mqtt, f"{name}-query")
        self.log_followers = 0  # of the event loop alone
        self.runner = Runner(
            self.store,
            clock=clock,
            on_desired=self.outbox.wake,
            signed=releases.Archives(self.repository),
        )
        self.steward = self._new_steward(f"{name}-home") if fleet.config.home_assistant else None
        allowed = self.webhook_hosts = Allowed(fleet.config.webhook_hosts)
        self.sender = Sender(self.store, clock, ca=fleet.own_ca(), allowed=allowed)
        settings = fleet.config.mail
        post = Post(settings, fleet.folder, fleet.own_ca()) if settings is not None else None
        self.mailer = Mailer(
            self.store, post, clock, fleet=fleet.config.fleet, may=lambda: self.leading
        )
        self.attempts = Attempts(self.store, clock)
        self.watch = Watch(fleet, mqtt, self.store, clock)
        self.on_api_renewed: Callable[[], None] = lambda: None
        self.expiring = expiry.Kept(self._expiring, clock)
        self.lookout = Lookout(
            self.store,
            clock,
            expiring=self.expiring,
            to=settings.to if settings is not None else (),
            mails=settings is not None,
            fleet=fleet.config.fleet,
            url=fleet.api_url,
        )
        self._alerts_from: float | None = None
        self._silent_from: float | None = None
        self.cloned: list[tuple[str, clones.Clone]] = []
        self.open_alerts: dict[str, int] = {}
        self.steps = 0
        self.leading = False
        self._renew_at = 0.0
        self.ingesting = False
        self._ingest_until = 0.0
        self._ingest_lock = threading.Lock()
        self._parts_lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._rolls = Pace(_ROLL_S, _MOST_ROLL_S, _MANY_ROLLED)
        self._certificates_due = 0.0
        self._threads = [
            threading.Thread(target=self._loop, args=(work, name), name=name, daemon=True)
            for work, name in (
                (self._ingest, "ingest"),
                (self._engine, "engine"),
                (self._roller, "roll-up"),
                (self._housekeeper, "housekeeping"),
                (self.attempts.write, "audit"),
                (self._look_at_broker, "broker-watch"),
                (self._look_for_alerts, "alerts"),
            )
        ]

    def start(self) -> None:
        """Starts all parts; nothing is sent before the fleet is this controller's."""
        self.index_repository()
        self.ownership.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stops all parts in order; nothing that was acknowledged is lost."""
        self._stopping.set()
        self._wake.set()
        with self._ingest_lock:
            ingested = self.ingesting
            self._stop_ingest()
        if ingested:
            self._give_back(_INGEST)
        for thread in self._threads:
            if thread.is_alive():
                thread.join(30)
        with self._parts_lock:
            for part in reversed(self._parts):
                part.stop()
        self.ownership.stop()
        if self.leading:
            self._give_back(runner.LEASE)
        self.attempts.write()
        self.store.close()

    @property
    def _parts(self) -> tuple[Outbox | BlockServer | Asker | Sender | Mailer | Steward, ...]:
        """What speaks to devices, and to others of them."""
        more = (self.steward,) if self.steward is not None else ()
        return self.outbox, self.blocks, self.asker, self.sender, self.mailer, *more

    def _new_steward(self, name: str) -> Steward:
        return Steward(
            self.store,
            self.fleet.topics,
            self.mqtt,
            name,
            self.runner,
            signed=releases.Archives(self.repository),
            installs=self.fleet.config.home_assistant_installs,
            clock=self.clock,
            on_created=self.wake,
        )

    def _on_ownership(self, speaks: bool) -> None:
        """On the keeper's thread: whether anything may be sent from now on."""
        with self._parts_lock:
            if self._stopping.is_set():
                return
            for part in self._parts:
                if speaks:
                    part.start()
                else:
                    part.pause()
        self._ingest()
        self.outbox.wake()
        self.wake()

    def _give_back(self, lease: str) -> None:
        try:
            leases.release(self.store, lease, self.holder)
        except ShoalError as error:
            _LOG.warning("lease not given back", lease=lease, reason=str(error))

    def _new_consumer(self) -> Consumer:
        return Consumer(
            self.fleet.topics,
            self.mqtt,
            self._writer,
            secret=self._secret,
            shared=self.fleet.config.shared_ingest,
            on_changes=self._on_changes,
            quota=self.fleet.config.quota,
            clock=self.clock,
        )

    def wake(self) -> None:
        """The engine has something to look at."""
        self._wake.set()

    @property
    def ready(self) -> dict[str, bool]:
        """Which of the needed things are there; ingest, where it is this controller's."""
        try:
            self.store.check()
            database = True
        except ShoalError:
            database = False
        return {
            "database": database,
            "broker": self._hears,
            "disk": durable.takes_writes(self.fleet.folder),
            "owner": self.ownership.speaks,
        }

    @property
    def _hears(self) -> bool:
        """Whether the broker is there for all that this controller does with it."""
        ingest = self.consumer.connected.is_set() or not self.ingesting
        outbox = self.outbox.link.connected.is_set() or not self.ownership.speaks
        return self.ownership.connected and ingest and outbox

    @property
    def problems(self) -> list[str]:
        """What keeps the controller from its work, for people."""
        ready = self.ready
        found = []
        if not ready["database"]:
            found.append("The controller cannot use its database.")
        if not ready["broker"]:
            found.append("The controller has no connection to the broker.")
        elif not ready["owner"]:
            found.append(f"The controller sends nothing: {self.ownership.reason}.")
        if not ready["disk"]:
            found.append("The controller's disk takes nothing: make room on it.")
        return found

    # Threads ------------------------------------------------------------------------------

    def _loop(self, work: Callable[[], float], name: str) -> None:
        """Runs `work` again and again; it returns how long to rest."""
        event = self._wake if name == "engine" else self._stopping
        while not self._stopping.is_set():
            try:
                rest = work()
            except ShoalError as error:
                _LOG.warning("work failed, trying again", part=name, reason=str(error))
                rest = 1.0
            except Exception:  # noqa: BLE001
                # A defect in one part must not stop the others; it is logged with its trace.
                _LOG.exception("defect", part=name)
                rest = 5.0
            event.wait(rest)
            if name == "engine":
                event.clear()

    def _ingest(self) -> float:
        """Ingests while this controller holds the lease; another goes on with the session."""
        began = time.monotonic()
        if not self.ownership.speaks:
            with self._ingest_lock:
                self._stop_ingest()
            return _LEASE_S / 4
        if self.ingesting and began < self._ingest_until - _LEASE_S / 2:
            return _LEASE_S / 4
        try:
            now = self.store.now(self.clock)
            mine = leases.acquire(self.store, _INGEST, self.holder, now, _LEASE_S)
        except ShoalError:
            # Another may have it by now, and nothing could be committed here.
            with self._ingest_lock:
                if began >= self._ingest_until:
                    self._stop_ingest()
            raise
        with self._ingest_lock:
            if self._stopping.is_set():
                # `stop` has given back what it knew of.
                if mine and not self.ingesting:
                    self._give_back(_INGEST)
            elif mine:
                self._ingest_until = began + _LEASE_S
                self._start_ingest()
            else:
                self._stop_ingest()
        return _LEASE_S / 4

    def _start_ingest(self) -> None:
        if not self.ingesting:
            if self.consumer.used:
                # Making the next one may have failed when this one was stopped, or its start.
                self._replace_consumer()
            self.consumer.start()
            self.ingesting = True
            _LOG.info("this controller ingests")

    def _stop_ingest(self) -> None:
        """What is not acknowledged comes again, here or at another controller."""
        if self.ingesting:
            self.ingesting = False
            self._replace_consumer()
            _LOG.info("this controller does not ingest any more")

    def _replace_consumer(self) -> None:
        """A consumer runs once."""
        self.consumer.stop()
        counters = self.consumer.counters
        self.consumer = self._new_consumer()
        self.consumer.counters = counters

    def _lead(self) -> bool:
        """Whether this controller steps the rollouts. What is renewed often is written often.

        Between two renewals the lease cannot end; a step that another took the lease from is not
        stored (its generation).
        """
        began = time.monotonic()
        if not self.ownership.speaks:
            self.leading = False
        elif not self.leading or began >= self._renew_at:
            self.leading = leases.acquire(
                self.store, runner.LEASE, self.holder, self.store.now(self.clock), _LEASE_S
            )
            self._renew_at = began + _LEASE_S / 2
        return self.leading

    def _engine(self) -> float:
        """One step of the rollouts, when this controller holds the lease."""
        if not self._lead():
            return _LEASE_S / 4
        began = time.monotonic()
        changed = self.runner.tick()
        self.steps += 1
        # At most a quarter of the time goes into steps: ingest needs the rest.
        took = time.monotonic() - began
        self._stopping.wait(max(0.05, _SHARE * took))
        return 0.0 if changed else self.fleet.config.engine_s

    def _look_at_broker(self) -> float:
        """And at what a person should see at once."""
        with self.store.read() as connection:
            self.cloned = clones.every(connection, self.clock() - clones.QUIET_S)
            self.open_alerts = alerts.counts(connection)
        return self.watch.look() if self.ownership.speaks else _LEASE_S / 4

    def _look_for_alerts(self) -> float:
        """Where the rollouts are stepped, and once the devices had time to be heard.

        Without a broker what does not need one is looked at: that it is gone is told.
        """
        now = time.monotonic()
        if self._hears:
            self._silent_from = None
        elif self._silent_from is None:
            self._silent_from = now
        if not self.leading or self._silent_from is not None:
            self._alerts_from = None
            if self.leading and self._silent_from is not None and now > self._silent_from:
                self.lookout.look(now - self._silent_from)
        elif self._alerts_from is None:
            self._alerts_from = now + _ALERTS_S
        elif now >= self._alerts_from:
            return self.lookout.look()
        return _LEASE_S / 4

    def _roller(self) -> float:
        self._note_retained()
        done = telemetry.roll_up(self.store, on_dropped=self._on_dropped)
        if done:
            self._wake.set()
        return self._rolls.rest(done)

    def _housekeeper(self) -> float:
        retention.expire(self.store, self.fleet.config.retention, self.clock())
        with self.store.write() as connection:
            webhooks.forget(connection, self.clock() - 7 * 24 * 3600)
            alerts.forget(connection, self.clock() - self.fleet.config.retention.event_s)
            mail.forget(connection, self.clock() - 30 * _DAY_S)
            timeline.forget(connection, self.clock() - self.fleet.config.retention.event_s)
            audit.forget(connection, self.clock())
            samples.delete(connection, before=self.clock() - self.fleet.config.retention.sample_s)
        try:
            renewed = self.repository.resign()
            if renewed:
                _LOG.info("signatures renewed", roles=renewed)
                self._note("keys.resign", "repository", roles=renewed)
        except ShoalError as error:
            _LOG.error("signatures not renewed: devices will refuse them", reason=str(error))
        self.index_repository()
        self._maintain_certificates()
        self._warn_of_ends()
        if self.ownership.speaks:
            for ask in collect.open_asks(self):
                asyncio.run(collect.collect(self, ask, audit.CONTROLLER))
        return _HOUSEKEEPING_S

    def _expiring(self) -> list[expiry.Item]:
        with self.store.read() as connection:
            return expiry.every(self.fleet, self.repository, connection, self.clock())

    def _warn_of_ends(self) -> None:
        """Each warning once, whoever of the fleet's controllers gives it."""
        now = self.clock()
        due = expiry.due(self.expiring(), now)
        with self.store.write() as connection:
            entries = [(item.key, item.expires, days) for item, days in due]
            new = expiries.news(self.store, connection, entries)
            fresh = [(item, days) for item, days in due if item.key in new]
            for days, text, facts in expiry.grouped(fresh, now):
                webhooks.enqueue(connection, "expiring", {"message": text, **facts}, now)
                (_LOG.error if days <= 1 else _LOG.warning)(text, **facts)

    def _maintain_certificates(self) -> None:
        """Once a day; without the authority's key, which may be kept elsewhere, it says so."""
        if not self.fleet.config.mutual_tls or self.clock() < self._certificates_due:
            return
        self._certificates_due = self.clock() + _DAY_S
        try:
            renewed = self.fleet.open_identity().own.maintain()
        except (ShoalError, OSError) as error:
            _LOG.error("certificates not looked after", reason=str(error))
            return
        if renewed:
            _LOG.info("certificates renewed", what=renewed)
            self._note("certificate.renew", "own", what=renewed)
        if "api" in renewed:
            self.on_api_renewed()

    def _note(self, action: str, target: str, **detail: Any) -> None:
        """What the controller did by itself, beside the database."""
        with self.store.write() as connection:
            audit.note_by(connection, audit.CONTROLLER, action, target, self.clock(), **detail)

    def index_repository(self) -> None:
        """Makes the index say what the signed repository says, which is the truth.

        They differ after a publication or a withdrawal by other means, or one that broke off.
        """
        with self.store.read() as connection:
            known = {published.ref: published.release for published in bundles.every(connection)}
        # Read behind the index: whatever is indexed was signed before, so what is not signed
        # now was withdrawn.
        signed = self.repository.bundles()
        for ref, release in known.items():
            if release and ref not in signed:
                with self.store.write() as connection:
                    bundles.withdraw(connection, ref)
                    audit.note_by(
                        connection, audit.CONTROLLER, "bundle.withdraw", str(ref), self.clock(),
                        why="the signed list does not have it",
                    )  # fmt: skip
        for ref, release in signed.items():
            if known.get(ref) != release:
                path = paths.manifest(ref)
                manifest = self.repository.read(path, 0, limits.MAX_MANIFEST_BYTES).data
                with self.store.write() as connection:
                    bundles.add(self.store, connection, ref, release, manifest, self.clock())
                    audit.note_by(
                        connection, audit.CONTROLLER, "bundle.publish", str(ref), self.clock(),
                        why="the signed list has it",
                    )  # fmt: skip

    # Events -------------------------------------------------------------------------------

    def _on_changes(self, changes: Sequence[Change]) -> None:
        """On ingest's worker, after its commit."""
        self._wake.set()
        told = [change for change in changes if change.kind in _WEBHOOK_EVENTS]
        seen = [(c.device, c.detail["sha256"]) for c in changes if c.kind == "certificate"]
        if seen and self.fleet.config.mutual_tls:
            told += self._note_certificates(seen)
        self._tell(told)

    def _tell(self, told: Sequence[Change]) -> None:
        for change in told:
            if change.kind == "device-cloned":
                _LOG.error("two devices have one identity", device=change.device, **change.detail)
            elif change.kind == "data-dropped":
                _LOG.warning("data dropped", device=change.device, **change.detail)
            elif change.kind == "over-quota":
                _LOG.error(
                    "device over its quota: its telemetry and results are refused until tomorrow",
                    device=change.device,
                )
        if told:
            try:
                with self.store.write() as connection:
                    for change in told:
                        facts = {"device": change.device, **change.detail}
                        webhooks.enqueue(connection, change.kind, facts, self.clock())
            except ShoalError as error:
                _LOG.warning("device events not queued for webhooks", reason=str(error))

    def _note_retained(self) -> None:
        """Answers may not be retained; of several controllers, the one that ingests counts them."""
        found = self.asker.take_retained()
        if not found or not self.ingesting:
            return
        losses = {(device, drops.RETAINED): count for device, count in found.items()}
        with self.store.write() as connection:
            first = delivery.add_losses(self.store, connection, losses, self.clock())
        self._on_dropped(first)

    def _on_dropped(self, first: dict[str, dict[str, int]]) -> None:
        """On the thread of the roll-ups."""
        self._on_changes(
            [change for device, places in first.items() for change in news(device, places)]
        )

    def note_copy(self, device: str, address: str) -> None:
        """An old certificate was to be renewed though a newer one is in use."""
        now = self.clock()
        with self.store.write() as connection:
            first = clones.note(connection, device, "renewal", now, address[:64])
        if first:
            self._tell(
                [Change("device-cloned", device, {"sign": "renewal", "addresses": [address]})]
            )

    def _note_certificates(self, seen: Sequence[tuple[str, str]]) -> list[Change]:
        registry = self.fleet.folder / "ca" / "identity.db"
        try:
            doubled = used.note(registry, self.store, seen, self.clock())
        except (ShoalError, OSError, sqlite3.Error) as error:
            _LOG.warning("certificates in use not noted", reason=str(error)[:300])
            return []
        return [Change("device-cloned", device, {"sign": "certificates"}) for device in doubled]
