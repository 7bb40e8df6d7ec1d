"""Keeps the fleet, or stands back: the lease, the fence, and the owner's document at the broker.

Two connections: one watches the document; the other, which only an owner has, writes it, and has
the will that says that its owner is gone.

Over 400 lines: both connections and the one thread that answers to them share what they know.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from contracts import codec, limits
from contracts.config import MqttConfig
from contracts.desired import Owner
from contracts.errors import InputError, ShoalError
from contracts.topics import Topics
from fleet.mqtt.link import Link
from fleet.ownership.judge import Standing, View, beats, is_anothers, judge
from fleet.store import Store, leases, ownership
from fleet.store.ownership import Fence, Known

_LOG: Final = structlog.get_logger("ownership")
SETTLE_S: Final = 0.5
"""Seconds in which a broker that has a document sends it, once it has confirmed that we listen."""

_LOOK_S: Final = 0.5
_AGAIN_S: Final = 5.0
_KEEPALIVE_S: Final = 10
_SAY_S: Final = 2.0
_REMIND_S: Final = 600.0


class Keeper:
    """What one process knows of who has the fleet, and its part in it.

    Args:
        store: the database.
        topics: of the fleet.
        mqtt: the broker.
        name: of the connections.
        instance: which process.
        clock: seconds since the epoch.
        lease_s: how long a lease lasts.
        candidate: whether it may become the owner; else it speaks while another on the same
            database is.
        on_change: called on the keeper's thread with whether this process may speak.

    Attributes:
        instance: which process.
        speaks: whether it may send; it goes on over a connection that is lost for a while.
        reason: why not, for people; empty: it may.
    """

    def __init__(
        self,
        store: Store,
        topics: Topics,
        mqtt: MqttConfig,
        name: str,
        instance: str,
        *,
        clock: Callable[[], float] = time.time,
        lease_s: float = 10.0,
        candidate: bool = True,
        on_change: Callable[[bool], None] = lambda speaks: None,
    ) -> None:
        self._store = store
        self._topic = topics.owner()
        self._name = name
        self.instance = instance
        self._clock = clock
        self._lease_s = lease_s
        self._candidate = candidate
        self._on_change = on_change
        keepalive = min(_KEEPALIVE_S, mqtt.keepalive_s)
        self._mqtt = msgspec.structs.replace(mqtt, keepalive_s=keepalive)
        self._watch = Link(
            self._mqtt,
            f"{name}-watch",
            filters={self._topic: self._on_document},
            on_up=self._on_up,
            on_down=self._on_down,
        )
        self._hold: Link | None = None
        self._own: Owner | None = None
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        # What the broker shows; under the lock.
        self._document: Owner | None = None
        self._unreadable = False
        self._lost_to: Owner | None = None
        self._unsettled_until = 0.0
        self._said: Owner | None = None
        self._said_at = 0.0
        self._held = 0
        # What the keeper's thread makes of it.
        self._leads_until = 0.0
        self._renewal: tuple[str, int] = ("", 0)
        self._renewed_at: float | None = None
        self._absent_since: float | None = None
        self._asked: tuple[str, float] = ("", 0.0)
        self._told = ("", 0.0)
        self._fence = 0
        self.speaks = self._followed = False
        self.reason = "waiting for the broker"
        self._thread = threading.Thread(target=self._run, name="ownership", daemon=True)

    def start(self) -> None:
        """Begins to look, and to take the fleet when nobody has it."""
        self._watch.start()
        self._thread.start()

    def stop(self) -> None:
        """Gives the fleet back, so that another need not wait."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(30)
        self._let_go()
        self._watch.stop()
        if self._candidate:
            with contextlib.suppress(ShoalError):
                leases.release(self._store, ownership.LEASE_NAME, self.instance)

    def wake(self) -> None:
        """There is something to look at."""
        self._wake.set()

    @property
    def fence(self) -> int:
        """With which this process may send now; 0: it may not."""
        return self._fence if self._watch.connected.is_set() else 0

    @property
    def connected(self) -> bool:
        """Whether it hears the broker."""
        return self._watch.connected.is_set()

    # The broker's word, on paho's threads -------------------------------------------------

    def _on_up(self) -> None:
        with self._lock:
            self._unsettled_until = time.monotonic() + SETTLE_S
        self._wake.set()

    def _on_down(self) -> None:
        with self._lock:
            self._document = self._lost_to = None
            self._unreadable = False
            self._held = 0
        self._wake.set()

    def _on_document(self, _topic: str, payload: bytes) -> None:
        document: Owner | None = None
        unreadable = False
        if payload:
            try:
                document = codec.decode(
                    payload, Owner, what="the owner's document", cap=limits.MAX_MESSAGE_BYTES
                )
            except InputError:
                unreadable = True
        with self._lock:
            said = self._said
            if document is not None and document == said:
                self._said = None
                if self._lost_to is None:
                    self._held = document.fence
            elif said is not None and document is not None and beats(document, said):
                # It came to the broker before what we have just said.
                self._lost_to = document
            news = self._document is None and not self._unreadable
            if news and document is not None and is_anothers(document, self.instance):
                # Its owner waits whether another takes the fleet as well, and so do we.
                self._unsettled_until = time.monotonic() + 3 * SETTLE_S
            self._document, self._unreadable = document, unreadable
        self._wake.set()

    def _view(self, known: Known, asked: Sequence[int]) -> View | None:
        """What the broker says; None: it said more since the database was asked of it."""
        now = time.monotonic()
        with self._lock:
            owner, unreadable, held = self._document, self._unreadable, self._held
            if any(one.fence not in asked for one in (owner, self._lost_to) if one is not None):
                return None
            settled = now >= self._unsettled_until
            if owner is not None and owner.instance == self.instance and self._lost_to:
                owner = self._lost_to
        self._note_renewal(known, now)
        renewing = (
            owner is not None
            and known.holder == owner.instance
            and self._renewed_at is not None
            and now - self._renewed_at < 1.5 * self._lease_s
        )
        absent = owner is not None and owner.state == "online" and not renewing
        if not absent:
            self._absent_since = None
        elif self._absent_since is None:
            self._absent_since = now
        return View(
            owner=owner,
            unreadable=unreadable,
            settled=settled,
            held=held,
            renewing=renewing,
            absent_s=now - self._absent_since if self._absent_since is not None else 0.0,
            asked_s=now - self._asked[1] if owner and owner.instance == self._asked[0] else None,
        )

    def _note_renewal(self, known: Known, now: float) -> None:
        """A lease counts as renewed when we saw it change: clocks may differ, or jump."""
        seen = (known.holder, known.renewed)
        if seen != self._renewal:
            changed = self._renewal[0] == seen[0] != ""
            self._renewed_at = now if changed else None
            self._renewal = seen

    # The keeper's thread ------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            rest = _LOOK_S
            try:
                rest = self._look_or_stand_back()
            except Exception:  # noqa: BLE001
                # A defect here must not leave a controller that says it owns and does not look.
                _LOG.exception("defect in the keeping of the fleet")
            self._wake.wait(rest)

    def _look_or_stand_back(self) -> float:
        try:
            return self._look()
        except ShoalError as error:
            if time.monotonic() >= self._leads_until:
                # Another may have the lease by now, and we cannot know.
                self._fence = 0
                self._let_go()
            self._explain(f"waiting for the database: {error}", speaks=None)
            return _LOOK_S

    def _look(self) -> float:
        """One look at database and broker; returns how long to rest."""
        began = time.monotonic()
        with self._lock:
            asked = [one.fence for one in (self._document, self._lost_to) if one is not None]
            document = self._document
        if self._candidate:
            gone = document.instance if document and document.state == "offline" else None
            # Half of its time passes before the next look at it, as some of them write.
            if gone is not None or began >= self._leads_until - self._lease_s / 2:
                now = self._store.now(self._clock)
                if ownership.take(self._store, self.instance, now, self._lease_s, gone=gone):
                    self._leads_until = began + self._lease_s
        else:
            leases.ask(
                self._store, ownership.LEASE_NAME, self._store.now(self._clock), self._lease_s
            )
        if not self._watch.connected.is_set():
            self._explain("waiting for the broker", speaks=None)
            return _LOOK_S
        with self._store.read() as connection:
            known = ownership.known(connection, asked)
        view = self._view(known, asked)
        if view is None:
            # To judge a word without asking the database of it takes a predecessor for a stranger.
            self._wake.set()
            return _LOOK_S
        standing = judge(self.instance, known, view)
        self._do(standing, known)
        return self._lease_s / 4 if standing.do in ("speak", "follow", "stand-back") else _LOOK_S

    def _do(self, standing: Standing, known: Known) -> None:
        match standing.do:
            case "speak" | "follow":
                if standing.do == "follow":
                    self._let_go()
                self._fence = standing.fence
                self._explain("", speaks=True)
                return
            case "claim":
                newest = known.newest
                assert newest is not None
                self._claim(Owner(
                    database=known.database,
                    fence=newest.fence,
                    instance=self.instance,
                    host=socket.gethostname()[:256],
                    since=self._clock(),
                    state="online",
                ))  # fmt: skip
            case "outrun":
                with self._lock:
                    other = self._document.fence if self._document else 0
                    self._lost_to = None
                ownership.outrun(self._store, self.instance, other, self._clock())
                _LOG.warning("taking the fleet from another controller")
                self._wake.set()
            case "yield":
                self._let_go()
            case "ask":
                self._ask()
            case "contest":
                with self._lock:
                    other_owner = self._document
                if other_owner is not None:
                    found = Fence(other_owner.fence, other_owner.instance)
                    with self._store.write() as connection:
                        ownership.contest(connection, found)
            case "settle":
                with self._store.write() as connection:
                    ownership.settle(connection)
                self._wake.set()
        self._fence = 0
        if standing.do in ("stand-back", "contest"):
            self._abandon()
            self._explain(standing.reason, speaks=False)
        elif standing.reason:
            self._explain(standing.reason, speaks=None)

    def _claim(self, own: Owner) -> None:
        """Puts our word at the broker, by a connection whose will takes it back."""
        if self._hold is None or self._own is None or self._own.fence != own.fence:
            self._abandon()
            gone = msgspec.structs.replace(own, state="offline")
            self._own = own
            self._hold = Link(
                self._mqtt,
                f"{self._name}-owner-{own.fence}",
                on_up=self.wake,
                will=(self._topic, codec.encode(gone)),
            )
            self._hold.start()
            return
        now = time.monotonic()
        if not self._hold.connected.is_set():
            return
        with self._lock:
            if self._said is not None and now - self._said_at < _AGAIN_S:
                return
            if self._document is None:
                # Somebody else may find no owner in this very moment.
                self._unsettled_until = now + 2 * SETTLE_S
            self._said, self._said_at = self._own, now
        self._hold.publish(self._topic, codec.encode(self._own), retain=True)

    def _ask(self) -> None:
        """Takes an owner's word back for it: one that lives puts it there again."""
        with self._lock:
            owner = self._document
        if owner is None or owner.state != "online":
            return
        gone = codec.encode(msgspec.structs.replace(owner, state="offline"))
        self._watch.publish(self._topic, gone, retain=True)
        self._asked = (owner.instance, time.monotonic())

    def _let_go(self) -> None:
        """Says that we are gone, where our own word stands, and closes the connection."""
        hold, own = self._hold, self._own
        if hold is None or own is None:
            return
        with self._lock:
            ours = self._document is not None and self._document.instance == self.instance
        if ours and hold.connected.is_set():
            gone = codec.encode(msgspec.structs.replace(own, state="offline"))
            with contextlib.suppress(ShoalError, ValueError, RuntimeError):
                hold.publish(self._topic, gone, retain=True).wait_for_publish(_SAY_S)
        self._abandon()

    def _abandon(self) -> None:
        """Closes the connection without a word."""
        hold, self._hold, self._own = self._hold, None, None
        with self._lock:
            self._said = None
            self._held = 0
        if hold is not None:
            hold.stop()

    def _explain(self, reason: str, *, speaks: bool | None) -> None:
        """Notes how things are, and says so when that is new.

        Args:
            reason: why this process does not speak; empty: it does.
            speaks: whether it may; None: as before.
        """
        if speaks is not None:
            self.speaks = speaks
        self.reason = reason
        now = time.monotonic()
        if reason != self._told[0] or (reason and now - self._told[1] >= _REMIND_S):
            self._told = (reason, now)
            if not reason:
                _LOG.info(
                    "this controller may speak", fence=self._fence, owner=self._own is not None
                )
            elif speaks is False:
                _LOG.error("this controller sends nothing", reason=reason)
            else:
                _LOG.info("this controller waits", reason=reason)
        if self.speaks != self._followed:
            # What raises is tried again at the next look.
            self._on_change(self.speaks)
            self._followed = self.speaks
